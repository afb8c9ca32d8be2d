"""`pytest bench`: synthetic faces drawn per second, with their votes; the rate must not cost a user patience.

    python -m ferbench.bench.speed.bench_synthetic [--csv results/speed.csv] [--samples 7]

The target is 2,000 images of 48 x 48 a second on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ferbench.bench.data.sets.synthetic.reader import class_sizes, generate
from ferbench.bench.speed.record import SpeedRow, append, measured

CASES = ((48, 1), (48, 3), (96, 1))  # pixels a side, channels
THREADS = (1, 2)
COUNTS = class_sizes(0.05)[0]


@pytest.mark.parametrize("threads", THREADS, ids=lambda threads: f"threads{threads}")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "{}px-{}channels".format(*case))
def test_synthetic(benchmark: BenchmarkFixture, case: tuple[int, int], threads: int) -> None:
    size, channels = case
    benchmark.group = f"{sum(COUNTS)} faces of {size}x{size}x{channels}"
    benchmark(generate, COUNTS, size=size, channels=channels, threads=threads)


def measure(samples: int, command: str) -> list[SpeedRow]:
    """Images per second on every case and number of threads, `samples` times in turn."""
    rates: dict[tuple[tuple[int, int], int], list[float]] = {(case, n): [] for case in CASES for n in THREADS}
    for repeat in range(samples + 1):
        for ((size, channels), threads), values in rates.items():
            start = time.perf_counter()
            generate(COUNTS, size=size, channels=channels, threads=threads)
            if repeat:  # the first round warms up
                values.append(sum(COUNTS) / (time.perf_counter() - start))
    return [
        measured(
            "synthetic", f"{threads} threads", f"{size}x{size}x{channels}", "images/s", values,
            benchmark=measure, command=command,
        )
        for ((size, channels), threads), values in rates.items()
    ]  # fmt: skip


def main() -> None:
    """Measure, print, and add the rows to a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file the rows are added to")
    parser.add_argument("--samples", type=int, default=7, help="runs per case and number of threads")
    options = parser.parse_args()
    rows = measure(options.samples, f"python -m ferbench.bench.speed.bench_synthetic --samples {options.samples}")
    for row in rows:
        print(f"{row.case:10} {row.variant:10} {row.median:>8} {row.unit}  ({row.p20} to {row.p80})")
    if options.csv:
        append(rows, options.csv)


if __name__ == "__main__":
    main()
