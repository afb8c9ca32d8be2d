"""`pytest bench`: what every method adds to its passes, a step around a network that costs next to nothing."""

from __future__ import annotations

import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ferbench.bench.tables.planning.step_cost import Trivial, example
from ferbench.methods import METHODS
from ferbench.methods.register import PAPERS, PARTIAL_LABEL

BASELINES = METHODS.keys() - PARTIAL_LABEL.keys() - set(PAPERS)
LIMIT = 3e-3  # seconds of one core per step; processor time, so that a busy machine measures the same


@pytest.mark.benchmark(timer=time.process_time, group="bookkeeping of a step, batch 16+16, 12,271 images")
@pytest.mark.parametrize("name", METHODS)
def test_bookkeeping(benchmark: BenchmarkFixture, name: str) -> None:
    """Batches of 16 + 16 out of RAF-DB's 12,271 training images, 400 of them labelled, features of 512 numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = example(Trivial(width=512), name, "paper", 16, 16, images=12_271, known=400)
        benchmark.pedantic(made.step, rounds=10, iterations=10, warmup_rounds=3)  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
    if benchmark.stats is not None and name in BASELINES:  # no stats with --benchmark-disable
        assert benchmark.stats.stats.min < LIMIT
