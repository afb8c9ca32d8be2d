"""`pytest bench`: one batch of weak + strong views, batched and image by image."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ferbench.bench.speed.augment import CASES, variants


@pytest.mark.parametrize("variant", ["batched", "per-image"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "{}x{}-to-{}-batch{}".format(*case))
def test_augment(benchmark: BenchmarkFixture, case: tuple[int, int, int, int], variant: str) -> None:
    benchmark.group = "{}x{} to {}, batch {}".format(*case)
    benchmark(variants(*case)[variant])
