"""One measured figure as one row of results/speed.csv, with everything needed to repeat it."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import torch

from ferbench.bench.files import write
from ferbench.bench.training.recording.environment import commit, device_name, installed

METRICS = {"ms": "time", "us": "time", "MiB": "size", "%": "share", "x": "ratio"}


@dataclass(frozen=True)
class SpeedRow:
    """A timing (ms, us), a rate (images/s), a share (%), a ratio (x) or a size (MiB) of repeats.

    Median, 20th and 80th percentile are given.
    `benchmark` is a hash of the benchmark's own source: rows with different hashes are not comparable.
    """

    name: str
    variant: str
    case: str
    metric: str
    unit: str
    median: float | str
    p20: float | str
    p80: float | str
    samples: int
    device: str
    threads: int
    torch: str
    triton: str
    python: str
    commit: str
    benchmark: str
    command: str
    date: str


def measured(
    name: str,
    variant: str,
    case: str,
    unit: str,
    values: Sequence[float],
    *,
    benchmark: Callable[..., object],
    command: str,
) -> SpeedRow:
    """The row for repeated measurements `values`; no values means the case ran out of memory, kept as a row."""
    ordered = sorted(values)
    deciles = statistics.quantiles(ordered, n=10, method="inclusive") if len(ordered) > 1 else ordered * 9
    summary: tuple[float | str, float | str, float | str] = ("out of memory",) * 3
    if ordered:
        low, middle, high = (float(f"{value:.5g}") for value in (deciles[1], statistics.median(ordered), deciles[7]))
        summary = (middle, low, high)
    return SpeedRow(
        name, variant, case, METRICS.get(unit, "rate"), unit, *summary,
        samples=len(ordered), device=device_name(), threads=torch.get_num_threads(), torch=torch.__version__,
        triton=installed("triton"), python=platform.python_version(), commit=commit(), benchmark=source_hash(benchmark),
        command=command, date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )  # fmt: skip


def append(rows: Sequence[SpeedRow], path: Path) -> None:
    """Add rows to the CSV at `path`; a row of the same name, variant, case, unit and device is replaced."""
    key = ("name", "variant", "case", "unit", "device")
    kept: dict[tuple[str, ...], dict[str, object]] = {}
    if path.exists():
        with path.open(newline="") as file:
            kept = {tuple(row[column] for column in key): dict(row) for row in csv.DictReader(file)}
    for row in rows:
        values = asdict(row)
        kept[tuple(str(values[column]) for column in key)] = values
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(SpeedRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept.values())
    write(path, lambda file: file.write(text.getvalue().encode()))


def source_hash(benchmark: Callable[..., object]) -> str:
    """First 12 hex digits of the SHA-256 of the file that holds `benchmark`."""
    source = inspect.getsourcefile(benchmark)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12] if source else "unknown"
