"""Features saved beside a run's scores: those of the model that is scored, row by row, and none that cannot be had."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.bench.training.networks.features import passed_features
from ferbench.bench.training.state import Run
from ferbench.bench.training.train import train

MakeRun = Callable[..., Run]


@pytest.mark.parametrize("method", ["vanilla", "remop"])
def test_the_averaged_models_head_turns_the_features_into_the_scores(
    make_tiny_run: MakeRun, tmp_path: Path, method: str
) -> None:
    run = make_tiny_run(method, epochs=1)
    train(run, tmp_path)
    averaged = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"]
    head = {name.rpartition(".")[2]: value for name, value in averaged.items() if ".head." in f".{name}"}
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as stored:
        assert stored["features"].dtype == np.float16
        assert stored["features"].shape == (20, 128)
        assert stored["classes"].tolist() == ["joy", "calm", "anger"]
        logits = torch.from_numpy(stored["features"]).float() @ head["weight"].T + head["bias"]
        rule = "main" if method == "vanilla" else "linear"
        assert np.allclose(logits.softmax(dim=1).numpy(), stored[f"scores_{rule}"], atol=2e-3)


class TwoModels(nn.Module):
    """A teacher beside a student: the first that is called is the one that is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.student = make_classifier("resnet_small", 3, size=16, dropout=0.0)
        self.teacher = copy.deepcopy(self.student)


@pytest.fixture
def two() -> TwoModels:
    return TwoModels().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_only_the_first_model_called_and_only_within(two: TwoModels, images: Tensor) -> None:
    two.student(images)
    with passed_features(two) as passed:
        for part in images.split(4):
            two.teacher(part)
            two.student(part)
    two.teacher(images)
    found = passed.array(6)
    assert found is not None
    assert np.array_equal(found, two.teacher(images).encoded.half().numpy())


@torch.no_grad()
def test_none_where_an_image_is_passed_twice_or_not_at_all(two: TwoModels, images: Tensor) -> None:
    with passed_features(two) as passed:
        two.teacher(images)
        two.teacher(images)
    assert passed.array(6) is None
    with passed_features(two) as passed:
        pass
    assert passed.array(6) is None


def test_hooks_are_gone_after_an_error(two: TwoModels, images: Tensor) -> None:
    with pytest.raises(ZeroDivisionError), passed_features(two) as passed:
        _ = 1 / 0
    two.teacher(images)
    assert passed.array(6) is None


def test_the_same_scores_with_and_without(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    """The record's metrics are those of the last epoch, which was scored without features."""
    run = make_tiny_run("fixmatch", epochs=1)
    record = train(run, tmp_path)
    with np.load(tmp_path / "predictions.npz") as stored:
        correct = (stored["scores_main"].argmax(axis=1) == stored["labels"]).mean()
    assert record["metrics"]["last"]["overall"] == pytest.approx(100 * correct)
