"""Batches and sizes that cannot go through a network end in one line before the first step; others leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ferbench.bench.data.views.batches import Share
from ferbench.bench.training.dry import dry_step
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording.records import RunError
from ferbench.bench.training.state import make_batches, make_state
from ferbench.bench.training.train import train

MakeRun = Callable[..., Any]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        ("vanilla", {"batch_size": 1, "input_size": 16}, "BatchNorm needs two values per channel; take a larger"),
        (
            "remixmatch",
            {"backbone": "resnet18", "batch_size": 1, "mu": 1, "input_size": 16},
            "BatchNorm needs two values",
        ),
        ("vanilla", {"backbone": "vit_tiny_16", "input_size": 8}, "is the input too small for this backbone?"),
    ],
    ids=["one image at a 1x1 map", "remixmatch", "less than a patch"],
)
def test_a_step_that_cannot_be_done(
    make_tiny_run: MakeRun, tmp_path: Path, method: str, settings: dict[str, Any], reason: str
) -> None:
    run = make_tiny_run(method, **settings)
    with pytest.raises(RunError) as caught:
        train(run, tmp_path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{method} on {run.recipe.backbone} cannot do a step with batch_size=")
    assert not (tmp_path / "record.json").exists() and not (tmp_path / "checkpoint.pt").exists()


def test_one_image_beside_unlabelled_ones_is_enough(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    """Where both batches go through the network at once, nothing is refused for the size of one of them."""
    train(make_tiny_run("fixmatch", options={"joint": True}, batch_size=1, mu=2, epochs=1, joint=True), tmp_path)
    assert (tmp_path / "record.json").exists()


@pytest.mark.parametrize("method", ["fixmatch", "remop", "mean_teacher", "dash"])
def test_nothing_is_left_of_it(make_tiny_run: MakeRun, method: str) -> None:
    run, share = make_tiny_run(method), Share()
    state = make_state(run, CPU, Silent())
    batches = make_batches(run, state.method, CPU, share)
    before = {name: value.clone() for name, value in state.method.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dry_step(run, state.method, batches, share)
    assert torch.equal(torch.rand(3), expected)
    after = state.method.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert all(value.grad is None for value in state.method.parameters())
