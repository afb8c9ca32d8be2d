"""The board as `leaderboard.csv`: what was measured first, and nothing in it that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from ferbench.bench.board.leaderboard import Line
from ferbench.bench.terminal import no_formula
from ferbench.bench.training.recording import records

COLUMNS = tuple(field.name for field in fields(Line))


def write_csv(lines: Iterable[Line], path: Path) -> None:
    """Write the lines as CSV: numbers with two decimals, lists parted by spaces, devices by semicolons.

    Comparable lines stand first, then other measured ones, then published numbers without a run.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in ordered(lines):
        writer.writerow(cell(getattr(line, name)) for name in COLUMNS)
    records.write(path, lambda file: file.write(text.getvalue().encode()))


def ordered(lines: Iterable[Line]) -> list[Line]:
    """Comparable lines, other measured ones, the rest; each in the order of the protocols' files."""
    return sorted(lines, key=lambda line: (not line.comparable, not line.run_ids))


def cell(value: object) -> str:
    """One value as text in one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    return no_formula(joined(value) if isinstance(value, tuple) else str(value))


def joined(values: tuple[object, ...]) -> str:
    """Several values in one cell: names and numbers parted by spaces, those that hold spaces by semicolons."""
    texts = [str(value) for value in values]
    return ("; " if any(" " in text for text in texts) else " ").join(texts)
