"""`pytest bench`: one training step of every method, and its EMA update, on synthetic faces."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ferbench.bench.data.views.batches import Share
from ferbench.bench.speed.training import CPU, METHODS, example_run
from ferbench.bench.training.ema import Averaged
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.state import make_batches, make_state
from ferbench.methods import Progress, build, option_values


@pytest.mark.parametrize("method", METHODS)
def test_step(benchmark: BenchmarkFixture, method: str) -> None:
    run = example_run(method)
    state = make_state(run, CPU, Silent())
    batches = make_batches(run, state.method, CPU, Share())
    numbers = count()

    def step() -> None:
        number = next(numbers)
        result = state.method.step(batches.labelled(number), batches.unlabelled(number), Progress(torch.zeros(()), 0))
        state.optimizer.zero_grad()
        torch.stack(list(result.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()

    benchmark.group = "a training step, batch 16+16 at 48 px"
    benchmark.pedantic(step, rounds=10, warmup_rounds=2)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("backbone", ["wrn_28_2", "resnet_small"])
def test_ema(benchmark: BenchmarkFixture, backbone: str) -> None:
    method = build("vanilla", make_classifier(backbone, 8, size=48, dropout=0.0), option_values("vanilla", "paper", {}))
    average = Averaged(method, 0.999, buffers="ema", shrink=0.02)
    benchmark.group = "an EMA update"
    benchmark.pedantic(average.update, args=(1e-3,), rounds=50, warmup_rounds=3)  # type: ignore[no-untyped-call]
