"""Figures measured on a finished run afterwards, such as its accuracy under attack.

They lie in `extra-<what>.json` beside the run's record; the leaderboard reads them as metrics of the last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferbench.bench.tables.counting.stored import numbers
from ferbench.bench.training.recording import records


def write_extra(folder: Path, what: str, metrics: Mapping[str, float], **settings: Any) -> Path:
    """Keep `metrics` (name to number) of a run, with the settings they were measured under; returns the file."""
    path = folder / f"extra-{what}.json"
    rounded = {name: round(value, 4) for name, value in metrics.items()}
    records.write_json(path, {"what": what, "settings": settings, "metrics": rounded, **records.environment()})
    return path


def read_extras(folder: Path) -> dict[str, float]:
    """All metrics measured afterwards on the run in `folder`. Raises RunError for a damaged file."""
    metrics: dict[str, float] = {}
    for path in sorted(folder.glob("extra-*.json")):
        metrics |= numbers(records.read_json(path).get("metrics"), path, "metrics")
    return metrics
