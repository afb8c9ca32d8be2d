"""FGSM on regions: the attack against its formula, and `ferbench attack` on a run of a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.studies.attack import EPSILONS, Attacked, loss, metric, prepare
from ferbench.bench.training.recording.records import RunError
from ferbench.methods import METHODS, build, option_values
from ferbench.methods.base import Method, Prediction
from ferbench.protocols import load_protocol, select

Ferbench = Callable[..., Any]
RECIPE = ViewRecipe(size=8)
MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) for values in (RECIPE.mean, RECIPE.std))


def batch() -> Attacked:
    """Two images: every pixel value, and a map whose right half is above the threshold."""
    torch.manual_seed(1)
    pixels = torch.rand(2, 3, 8, 8)
    pixels[0, :, 0] = 0.0
    pixels[0, :, 1] = 1.0
    maps = torch.zeros(2, 8, 8)
    maps[:, :, 4:] = 0.31
    maps[:, 0, 0] = 0.3
    direction = torch.randint(-1, 2, (2, 3, 8, 8)).float()
    return Attacked((pixels - MEAN) / STD, torch.zeros(2, dtype=torch.int64), maps, direction)


@pytest.mark.parametrize("region", ["focused", "unfocused"])
@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.5])
def test_a_pixel_moves_by_epsilon_along_the_sign_within_its_range_and_region(region: str, epsilon: float) -> None:
    given = batch()
    attacked = given.adversarial(region, epsilon, 0.3, RECIPE) * STD + MEAN
    clean = given.images * STD + MEAN
    for i in range(2):
        for row in range(8):
            for column in range(8):
                inside = float(given.maps[i, row, column]) > 0.3 + 1e-6
                for channel in range(3):
                    place = (i, channel, row, column)
                    moved = float(clean[place]) + epsilon * float(given.direction[place])
                    allowed = inside == (region == "focused")
                    expected = min(max(moved, 0.0), 1.0) if allowed else float(clean[place])
                    assert float(attacked[place]) == pytest.approx(expected, abs=1e-6)


def test_regions_share_the_image_out() -> None:
    focused, unfocused = (batch().region(name, 0.3) for name in ("focused", "unfocused"))
    assert torch.equal(focused, ~unfocused)
    assert focused.sum() == 2 * 8 * 4  # a value of exactly 0.3 does not exceed the threshold


def test_loss_is_the_cross_entropy_whether_scores_are_probabilities_or_logits() -> None:
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss(logits.softmax(dim=1), labels), expected)
    torch.testing.assert_close(loss(logits, labels), expected)


class Template(nn.Module):
    """An encoder that is a convolution and an average: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.convolution(images)
        return features.mean(dim=(2, 3))


def test_direction_is_the_sign_of_the_losss_gradient() -> None:
    """d CE / d x = (softmax - one-hot) W_head W_conv / pixels, the same at every place."""
    from ferbench.bench.training.networks.backbones import Classifier

    torch.manual_seed(5)
    model = Classifier(Template(), 2, 3, 0.0)
    method: Method = build("vanilla", model, option_values("vanilla", "paper", {})).eval().requires_grad_(False)
    images, labels = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        prediction: Prediction = model(images)
        slopes = (
            (prediction.logits.softmax(dim=1) - F.one_hot(labels, 3))
            @ model.head.weight
            @ (  # type: ignore[operator]
                model.encoder.convolution.weight[:, :, 0, 0]  # type: ignore[union-attr, index]
            )
        )
    found = prepare(method, images, labels)
    assert torch.equal(found.direction, slopes.sign()[:, :, None, None].expand(5, 3, 4, 4))
    assert torch.equal(found.predicted, prediction.logits.argmax(dim=1))
    assert torch.equal(found.images, images) and not found.images.requires_grad


def test_a_method_without_gradients_is_one_line() -> None:
    class Fixed(nn.Module):
        def predict(self, images: Tensor) -> Tensor:
            return torch.ones(len(images), 3) / 3

    with pytest.raises(RunError, match="carry no gradient back to the images"):
        prepare(Fixed(), torch.randn(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))  # type: ignore[arg-type]


def test_names_and_epsilons_are_table_7s() -> None:
    (table,) = [table for table in load_protocol("ssfer").tables if table.id == "7"]
    assert table.metrics == tuple(
        metric(region, epsilon) for region in ("focused", "unfocused") for epsilon in EPSILONS
    )


@pytest.fixture
def trained(ferbench: Ferbench, tmp_path: Path, tiny_arguments: list[str]) -> Path:
    assert ferbench("train", "vanilla", *tiny_arguments).code == 0
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    return folder


def test_attack_on_a_run(ferbench: Ferbench, trained: Path) -> None:
    done = ferbench("attack", trained.name, "--epsilon", 0, "--epsilon", 0.3, "--pictures", 2)
    assert done.code == 0 and "focused" in done.out
    kept = json.loads((trained / "extra-attack.json").read_text())
    record = json.loads((trained / "record.json").read_text())
    assert set(kept["metrics"]) == {"focused-0", "focused-0.30", "unfocused-0", "unfocused-0.30"}
    assert kept["metrics"]["focused-0"] == kept["metrics"]["unfocused-0"] == record["metrics"]["last"]["overall"]
    assert kept["settings"] == {"threshold": 0.3}
    again = ferbench("attack", trained, "--epsilon", 0, "--epsilon", 0.3)
    assert again.code == 0 and json.loads((trained / "extra-attack.json").read_text())["metrics"] == kept["metrics"]
    width, height = Image.open(trained / "attack.png").size
    assert width / height == pytest.approx(3 / 2, rel=0.05)  # image, map, one attack; two images


KINDS: dict[str, list[str]] = {
    "ssfer": ["--recipe", "backbone=vit_tiny"],  # its teacher predicts
    "remop": [],  # a mixture of two predictions
    "pll_fer": ["--candidates", "uniform_flip:q=0.3"],  # a decoder over the tokens, no classifier
}


@pytest.mark.parametrize("method", KINDS)
def test_methods_of_every_kind_can_be_attacked(
    ferbench: Ferbench, tmp_path: Path, tiny_arguments: list[str], method: str
) -> None:
    if method not in METHODS:
        pytest.skip(f"{method} is not there")
    done = ferbench("train", method, *tiny_arguments, *KINDS[method])
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    done = ferbench("attack", folder.name, "--epsilon", 0, "--epsilon", 0.5)
    assert done.code == 0, done.err
    kept = json.loads((folder / "extra-attack.json").read_text())["metrics"]
    assert kept["focused-0"] == json.loads((folder / "record.json").read_text())["metrics"]["last"]["overall"]
    assert ferbench("cost", folder.name).code == 0


def test_part_of_the_test_set_is_not_kept(ferbench: Ferbench, trained: Path) -> None:
    assert ferbench("attack", trained.name, "--images", 8).code == 0
    assert ferbench("attack", trained.name, "--threshold", 0.5).code == 0
    assert not (trained / "extra-attack.json").exists()


BAD: dict[str, tuple[list[object], str]] = {
    "no run": (["nothing"], "no run 'nothing' in results/runs"),
    "negative": (["RUN", "--epsilon", -0.1], "--epsilon is a share of the range of pixels, from 0 to 1, not -0.1"),
    "twice": (["RUN", "--epsilon", 0.1, "--epsilon", 0.101], "two of these are the same with two decimals"),
    "threshold": (["RUN", "--threshold", 1], "--threshold is a value of the map, from 0 to below 1, not 1"),
}


@pytest.mark.parametrize(("arguments", "expected"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(ferbench: Ferbench, trained: Path, arguments: list[object], expected: str) -> None:
    failed = ferbench("attack", *(trained.name if word == "RUN" else word for word in arguments))
    assert failed.code == 2
    assert expected in failed.error()


def test_a_run_that_lost_its_files_or_its_data_is_one_line(ferbench: Ferbench, trained: Path) -> None:
    stored = dict(np.load(trained / "predictions.npz"))
    name = next(name for name in stored if name.startswith("scores_"))
    np.savez(trained / "predictions.npz", **{**stored, name: np.roll(stored[name], 1, axis=1)})
    failed = ferbench("attack", trained.name)
    assert failed.code == 2 and "otherwise than at the end of training" in failed.error()
    (trained / "predictions.npz").write_bytes(b"PK")
    assert "predictions.npz: cannot be read" in ferbench("attack", trained.name).error()
    (trained / "checkpoint.pt").unlink()
    assert "its weights (checkpoint.pt) are gone" in ferbench("attack", trained.name).error()
    (trained / "record.json").unlink()
    assert "not finished" in ferbench("attack", trained.name).error()


def test_table_7_shows_what_was_measured(record_run: Callable[..., str], tmp_path: Path) -> None:
    name = record_run("ssfer/7/ssfer/ferplus", 1, 80.0)
    extra = {"metrics": {"focused-0.02": 30.0, "unfocused-0.02": 40.0}}
    (tmp_path / "runs" / name / "extra-attack.json").write_text(json.dumps(extra))
    found = {
        (line.table, line.row, line.metric): (line.measured_mean, line.published_mean)
        for line in collect(tmp_path, [load_protocol("ssfer")]).lines if line.selection == "last"
    }  # fmt: skip
    assert found[("7", "ssfer", "focused-0.02")] == (30.0, 33.75)
    assert found[("7", "ssfer", "unfocused-0.02")] == (40.0, 46.54)
    assert ("7", "ssfer", "focused-0.04") not in found
    assert found[("2", "ssfer-25", "overall")] == (80.0, 85.82)  # the same run serves Table 2


def test_a_garbled_extra_leaves_the_run_out_with_its_reason(record_run: Callable[..., str], tmp_path: Path) -> None:
    name = record_run("ssfer/7/ssfer/ferplus", 1, 80.0)
    (tmp_path / "runs" / name / "extra-attack.json").write_text('{"what": "attack"}')
    (ignored,) = collect(tmp_path, [load_protocol("ssfer")]).ignored
    assert "extra-attack.json: metrics is no table of numbers" in ignored.reason


def test_the_cells_of_table_7_are_runs_of_table_2() -> None:
    for cell, row in zip(select("ssfer/7"), ("ssfer-25", "ssfer-25", "ssfer-10", "ssfer-10"), strict=True):
        (same,) = select(f"ssfer/2/{row}/{cell.dataset}")
        assert (cell.method, cell.split.options, cell.row.after) == (same.method, same.split.options, same.row.after)
