"""A paper's table for the page: published small, measured large, with what each cell needs to be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from ferbench.bench.board.leaderboard import Leaderboard, Line
from ferbench.bench.board.own import OWN
from ferbench.bench.board.published import published_columns, published_text
from ferbench.bench.board.shown import resolution_lines, why_empty
from ferbench.bench.tables.planning.hours import gpu_hours
from ferbench.bench.tables.planning.implemented import COMPARABLE, implemented
from ferbench.errors import UserError
from ferbench.protocols import Cell, Protocol, Recipe, Row, Table, cells


@dataclass(frozen=True)
class Measured:
    """One metric of a cell. value: for sorting. delta: -2 to 2, how far from the published number, None without one."""

    metric: str
    value: float
    text: str
    n: int
    interval: str
    standing: str
    delta: str
    shade: int | None


@dataclass(frozen=True)
class Setting:
    """One line of a row: the runs of one variant, preset and selection; for each column its metrics or why there are
    none."""

    variant: str
    preset: str
    selection: str
    comparable: bool
    cells: tuple[tuple[tuple[Measured, ...], str], ...]


@dataclass(frozen=True)
class RowView:
    label: str
    published: tuple[str, ...]  # by column
    settings: tuple[Setting, ...]
    empty: tuple[str, ...]  # by column: why nothing was measured, where no setting is


@dataclass(frozen=True)
class TableView:
    anchor: str
    name: str
    caption: str
    source: str
    metrics: str
    columns: tuple[str, ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]
    resolution: tuple[str, ...]
    published: tuple[str, ...]
    measured: int


def table_view(protocol: Protocol, table: Table, board: Leaderboard) -> TableView:
    """Of every row and column of the table."""
    lines = [line for line in board.lines if (line.paper, line.table) == (protocol.name, table.id)]
    return TableView(
        anchor=f"{protocol.name}-{table.id}",
        name=f"{protocol.name} {table.id}",
        caption=table.caption,
        source=table.source,
        metrics=" / ".join(table.metrics),
        columns=tuple(column.label for column in table.columns),
        rows=tuple(_row(protocol, table, row, [line for line in lines if line.row == row.id]) for row in table.rows),
        notes=tuple(note for note in (table.notes, *_absent(table)) if note),
        resolution=tuple(resolution_lines(protocol, table, table.columns, board)),
        published=tuple(published_text(one) for one in published_columns(protocol, table)),
        measured=sum(bool(line.run_ids) and line.selection == "last" for line in lines),
    )


def _absent(table: Table) -> Iterable[str]:
    """Cells without a published number, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for entry in table.absent:
        by_reason.setdefault(entry.why, []).append(f"{entry.row}/{entry.column}")
    return (f"{why}: {', '.join(places)}" for why, places in by_reason.items())


def _row(protocol: Protocol, table: Table, row: Row, lines: Sequence[Line]) -> RowView:
    every = cells(protocol, f"{table.id}/{row.id}")
    settings = dict.fromkeys((line.variant, line.preset, line.selection) for line in lines if line.run_ids)
    shown = tuple(
        Setting(variant, preset, selection, preset == COMPARABLE and protocol.name != OWN, tuple(
            _cell(cell, [line for line in lines if line.column == cell.column.id and line.run_ids and (
                line.variant, line.preset, line.selection) == (variant, preset, selection)])
            for cell in every
        ))
        for variant, preset, selection in sorted(settings)
    )  # fmt: skip
    return RowView(
        label=row.label,
        published=tuple(_published(cell) for cell in every) if table.published else (),
        settings=shown,
        empty=() if settings else tuple(_empty(cell) for cell in every),
    )


def _published(cell: Cell) -> str:
    found = [cell.published(metric) for metric in cell.table.metrics]
    if not any(found):
        return ""
    return " / ".join((f"{one.mean:.2f}" + (f" ±{one.std:.2f}" if one.std else "")) if one else "–" for one in found)


def _cell(cell: Cell, lines: Sequence[Line]) -> tuple[tuple[Measured, ...], str]:
    by_metric = {line.metric: line for line in lines}
    found = tuple(_measured(by_metric[metric]) for metric in cell.table.metrics if metric in by_metric)
    return found, "" if found else _empty(cell)


def _measured(line: Line) -> Measured:
    assert line.measured_mean is not None
    interval = f"95 % [{line.ci_low:.2f}, {line.ci_high:.2f}]" if line.ci_low is not None else "one seed: no interval"
    spread = f" ±{line.measured_std:.2f}" if line.measured_std is not None else ""
    shade = None if line.delta is None else max(-2, min(2, round(line.delta / 2)))
    return Measured(
        metric=line.metric,
        value=line.measured_mean,
        text=f"{line.measured_mean:.2f}{spread}",
        n=line.n,
        interval=interval,
        standing=line.standing,
        delta=f"{line.delta:+.2f}" if line.delta is not None else "",
        shade=shade,
    )


def _empty(cell: Cell) -> str:
    """Why nothing was measured, and what it would cost."""
    why = why_empty(cell)
    if why != "not run" or cell.protocol.name == OWN or cell.published_only or not implemented(cell):
        return why
    hours = _hours(cell)
    return f"not run, {hours}" if hours else why


def _hours(cell: Cell) -> str:
    if COMPARABLE not in cell.protocol.presets:
        return ""
    try:
        hours = _of_recipe(cell.recipe(COMPARABLE), bool(cell.unlabelled)) * len(cell.seeds)
    except UserError:
        return ""
    return f"{hours:.0f} h" if hours >= 1 else "under 1 h"


@cache
def _of_recipe(recipe: Recipe, unlabelled: bool) -> float:
    return gpu_hours(recipe, unlabelled)
