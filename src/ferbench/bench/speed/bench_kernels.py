"""`pytest bench`: every op's step at its quick size on the CPU, in plain torch and in torch.compile's form of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ferbench.bench.speed.device import CASES, variants
from ferbench.bench.speed.ops.case import Case


@pytest.mark.parametrize("variant", ["eager", "compiled"])
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.op)
def test_kernel(benchmark: BenchmarkFixture, kind: type[Case], variant: str) -> None:
    case = kind()
    benchmark.group = f"{case.op} {case.label(case.sizes['quick'])}"
    step = partial(
        case.step, variants(case, on_gpu=False)[variant], case.inputs(case.sizes["quick"], torch.device("cpu"))
    )
    step()
    benchmark(step)
