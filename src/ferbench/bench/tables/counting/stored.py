"""A finished run's settings and record, read strictly: a results folder may come from anybody, whole or not.

What is believed has the types and shapes that ferbench writes, finite numbers, and is of no newer form than this
version knows. Everything else is one RunError that says why, which the leaderboard lists as "not counted".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferbench.bench.terminal import shown
from ferbench.bench.training.recording import records

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_LARGEST = 1e9  # of a metric; percentages, counts of parameters in millions
_SPEC: dict[str, type] = {
    "method": str, "variant": str, "options": dict, "recipe": dict, "dataset": dict, "test": dict, "split": dict,
    "preset": str, "seed": int,
}  # fmt: skip
_MADE_FOR: dict[str, type] = {"protocol": str, "version": int, "cell": str}


@dataclass(frozen=True)
class StoredRun:
    """metrics: selection -> metric -> number; finished_at: UTC, "" in records older than dates; code: "" likewise."""

    name: str
    spec: records.Spec
    record: Mapping[str, Any]
    metrics: dict[str, dict[str, float]]
    finished_at: str
    code: str


def read_stored(folder: Path) -> StoredRun | None:
    """The finished run in `folder`; None for one that is not finished. Raises RunError."""
    spec, record = records.read_json(folder / "spec.json"), records.read_json(folder / "record.json")
    if record.get("status") != "finished":
        return None
    _check_name(folder.name)
    _check(spec, _SPEC, folder / "spec.json")
    for part in ("dataset", "test"):
        _check(spec[part], {"reader": str, "options": dict}, folder / "spec.json", part)
    _check(spec["split"], {"kind": str, "parameters": dict}, folder / "spec.json", "split")
    if spec.get("made_for"):
        _check(spec["made_for"], _MADE_FOR, folder / "spec.json", "made_for")
    return StoredRun(folder.name, spec, record, *_record(record, folder / "record.json"))


def _record(record: Mapping[str, Any], path: Path) -> tuple[dict[str, dict[str, float]], str, str]:
    form = record.get("format", 1)
    if not _is(form, int) or form > records.RECORD_FORMAT:
        raise records.RunError(f"{path}: was written by a newer ferbench (record format {form!r:.20}); update ferbench")
    finished_at, code = record.get("finished_at", ""), record.get("code", "")
    if not _is(finished_at, str) or (finished_at and not _DATE.fullmatch(finished_at)):
        raise records.RunError(f"{path}: finished_at is no time in UTC")
    if not _is(code, str) or len(code) > 64:
        raise records.RunError(f"{path}: code is no digest")
    _check(record, {"metrics": dict}, path)
    metrics = record["metrics"]
    if "last" not in metrics:
        raise records.RunError(f"{path}: metrics lacks 'last'")
    return {part: numbers(row, path, f"metrics.{part}") for part, row in metrics.items()}, finished_at, code


def numbers(row: object, path: Path, where: str) -> dict[str, float]:
    """Metrics by name, all of them finite numbers that can be meant. Raises RunError."""
    if not isinstance(row, dict):
        raise records.RunError(f"{path}: {where} is no table of numbers")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            raise records.RunError(f"{path}: {where}.{name} is no number that can be meant: {value!r:.40}")
    return {name: float(value) for name, value in row.items()}


def _check(table: object, wanted: Mapping[str, type], path: Path, where: str = "") -> None:
    """Raise RunError unless `table` has these keys with values of these types."""
    head = f"{path}: {where + '.' if where else ''}"
    if not isinstance(table, dict):
        raise records.RunError(f"{path}: {where} is no table")
    for key, kind in wanted.items():
        if key not in table:
            raise records.RunError(f"{head}{key} is missing")
        if not _is(table[key], kind):
            raise records.RunError(f"{head}{key} is no {kind.__name__}: {table[key]!r:.40}")


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _check_name(name: str) -> None:
    """A name goes into tables that a spreadsheet may open."""
    if shown(name) != name or name[0] in "=+-@":
        raise records.RunError("its folder's name cannot stand in a table; rename the folder")
