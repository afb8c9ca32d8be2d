"""The chunked, static step against the plain loop it stands for (conftest.py has it)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.state import Run, State
from ferbench.bench.training.steps import feed
from ferbench.bench.training.train import train
from ferbench.methods import METHODS

EndsLike = Callable[..., None]
StopInStep = Callable[[int, pytest.MonkeyPatch], None]
MakeRun = Callable[..., Run]
on_the_cpu = partial(train, device=torch.device("cpu"))
QUICK = ("fixmatch", "remop", "leaf", "ssfer", "simmatch", "dash")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("method", EVERY)
def test_same_bits_as_the_plain_loop(
    make_tiny_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends_like_the_plain_loop: EndsLike,
    stop_in_step: StopInStep,
    method: str,
) -> None:
    """Two epochs of seven steps in chunks of three, stopped in the fifth step and gone on with."""
    monkeypatch.setattr(feed, "LOG_EVERY", 3)
    run = make_tiny_run(method, epochs=2, steps_per_epoch=7)
    with monkeypatch.context() as patch:
        stop_in_step(5, patch)
        with pytest.raises(Interrupted, match="stopped after step 5 of 14"):
            on_the_cpu(run, tmp_path)
    on_the_cpu(run, tmp_path)
    ends_like_the_plain_loop(tmp_path, run)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"optimizer": "sgd", "momentum": 0.9, "clip": 1.0, "weight_decay": 1e-3}, id="sgd"),
        pytest.param({"optimizer": "adamw", "layer_decay": 0.7, "backbone": "vit_tiny"}, id="vit"),
        pytest.param({"ema": 0.0, "evaluate": "student", "schedule": "exponential"}, id="no average"),
        pytest.param({"dtype": "bfloat16", "joint": True, "channel_order": "bgr"}, id="bfloat16"),
        pytest.param({"batch_size": 40, "mu": 2, "randaugment_ops": 0}, id="sets smaller than a batch"),
        pytest.param({"warmup_epochs": 1, "warmup_lr": 1e-5, "shrink": 0.0, "ema_buffers": "copy"}, id="warm-up"),
    ],
)
def test_same_bits_under_other_recipes(
    make_tiny_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends_like_the_plain_loop: EndsLike,
    changes: dict[str, Any],
) -> None:
    monkeypatch.setattr(feed, "LOG_EVERY", 4)
    run = make_tiny_run("remop", **{"epochs": 2, "steps_per_epoch": 5, "options": {"center_lr": 0.1}, **changes})
    on_the_cpu(run, tmp_path)
    ends_like_the_plain_loop(tmp_path, run)


def test_the_witness_notices_another_step(
    make_tiny_run: MakeRun, tmp_path: Path, ends_like_the_plain_loop: EndsLike
) -> None:
    run = make_tiny_run("fixmatch", epochs=1)
    on_the_cpu(run, tmp_path)

    @torch.no_grad()
    def disturb(state: State) -> None:
        next(state.method.parameters())[0].add_(1e-7)

    with pytest.raises(AssertionError):
        ends_like_the_plain_loop(tmp_path, run, disturb)
