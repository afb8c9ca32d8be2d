"""Published numbers beside measured ones: from `results/runs` and the protocols to `results/leaderboard.csv`.

A run counts for every cell whose settings it has, and only for those; one that a protocol has left behind is listed
with the reason and never averaged in. Means and standard deviations (sample, n - 1) are over seeds.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev

from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ferbench.bench.tables.counted import Ignored, Run, counted_runs, runs_of
from ferbench.bench.tables.implemented import COMPARABLE, implemented
from ferbench.bench.training import records
from ferbench.protocols import Cell, Protocol, Published, Table, cells, load_protocol, protocol_names

SELECTIONS = ("last", "best-on-val", "best-on-test")
MOST_COLUMNS = 4  # on a terminal


@dataclass(frozen=True)
class Line:
    """One metric of one cell under one variant, preset and selection; numbers in percent. Fields are CSV columns.

    variant, preset and selection are empty where a published number has no run beside it.
    """

    paper: str
    table: str
    row: str
    column: str
    dataset: str  # trained on, or trained on>tested on
    metric: str
    variant: str
    preset: str
    selection: str
    published_mean: float | None
    published_std: float | None
    measured_mean: float | None
    measured_std: float | None  # None for one seed
    seeds: tuple[int, ...]
    delta: float | None  # measured - published, under the paper preset only
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Leaderboard:
    """All lines, in the order of the protocols' files, and the runs that were left out."""

    lines: tuple[Line, ...]
    ignored: tuple[Ignored, ...]


def collect(results: Path, protocols: Sequence[Protocol] | None = None, *, without_runs: bool = True) -> Leaderboard:
    """Every cell's published and measured numbers. results: the folder that holds `runs/`.

    protocols: default, all that come with the package. without_runs: also list published numbers nothing was run for.
    """
    known = protocols if protocols is not None else [load_protocol(name) for name in protocol_names()]
    runs, ignored = counted_runs(results, {protocol.name: protocol for protocol in known})
    grouped: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.cell.id].append(run)
    lines = [
        line
        for protocol in known
        for cell in cells(protocol)
        for line in _cell_lines(cell, runs_of(cell, grouped), without_runs)
    ]
    return Leaderboard(tuple(lines), tuple(ignored))


def write_csv(lines: Iterable[Line], path: Path) -> None:
    """Write the lines as CSV: numbers with two decimals, lists of seeds and run ids parted by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Line))
    for line in lines:
        writer.writerow(_text(getattr(line, field.name)) for field in fields(Line))
    records.write(path, lambda file: file.write(text.getvalue().encode()))


def render(protocol: Protocol, table: Table, lines: Iterable[Line], selections: Sequence[str] = ("last",)) -> Group:
    """One table for the terminal: under each row's published numbers what was measured, or why nothing was.

    Of a table too wide for a terminal only the columns with a run are shown, and the others counted below.
    """
    ours = [line for line in lines if (line.paper, line.table) == (protocol.name, table.id)]
    shown = [line for line in ours if line.selection in selections]
    run = {line.column for line in shown if line.run_ids}
    columns = [column for column in table.columns if not run or len(table.columns) <= MOST_COLUMNS or column.id in run]
    title = escape(f"{protocol.name} {table.id}: {table.caption}")
    grid = RichTable(title=title, title_justify="left", header_style="bold")
    grid.add_column("method")
    grid.add_column(" / ".join(table.metrics))
    for column in columns:
        grid.add_column(escape(column.label), justify="right")
    for row in table.rows:
        mine = [line for line in shown if line.row == row.id]
        entries = _entries(
            table, [cell for cell in cells(protocol, f"{table.id}/{row.id}") if cell.column in columns], mine
        )
        for position, (head, *texts) in enumerate(entries):
            style = "dim" if head == "published" else None
            grid.add_row(escape(row.label) if position == 0 else "", head, *texts, style=style)
        grid.add_section()
    left_out = len(table.columns) - len(columns)
    remarks = [f"{left_out} columns without a run are not shown"] if left_out else []
    remarks += [f"{entry.row}/{entry.column}: {entry.why}" for entry in table.absent]
    presets = sorted({line.preset for line in shown} - {COMPARABLE})
    remarks += [f"preset {preset}: its numbers are not comparable with published ones" for preset in presets]
    return Group(grid, *(Text(remark) for remark in [table.notes, *remarks] if remark))


def _cell_lines(cell: Cell, runs: Sequence[Run], without_runs: bool) -> Iterable[Line]:
    settings = sorted({(run.variant, run.preset) for run in runs})
    for metric in cell.table.metrics:
        measured = [
            _line(cell, metric, (variant, preset, selection), chosen)
            for variant, preset in settings
            for selection in SELECTIONS
            if (chosen := _values(runs, variant, preset, selection, metric))
        ]
        yield from measured
        if not measured and without_runs and cell.published(metric):
            yield _line(cell, metric, ("", "", ""), [])


def _values(runs: Sequence[Run], variant: str, preset: str, selection: str, metric: str) -> list[tuple[Run, float]]:
    mine = [run for run in runs if (run.variant, run.preset) == (variant, preset)]
    found = [(run, run.metrics[selection][metric]) for run in mine if metric in run.metrics.get(selection, {})]
    return sorted(found, key=lambda pair: pair[0].seed)


def _line(cell: Cell, metric: str, setting: tuple[str, str, str], found: Sequence[tuple[Run, float]]) -> Line:
    variant, preset, selection = setting
    values = [value for _, value in found]
    published = cell.published(metric)
    average = mean(values) if values else None
    delta = average - published.mean if average is not None and published and preset == COMPARABLE else None
    return Line(
        paper=cell.protocol.name,
        table=cell.table.id,
        row=cell.row.id,
        column=cell.column.id,
        dataset=cell.dataset if cell.test == cell.dataset else f"{cell.dataset}>{cell.test}",
        metric=metric,
        variant=variant,
        preset=preset,
        selection=selection,
        published_mean=published.mean if published else None,
        published_std=published.std if published else None,
        measured_mean=average,
        measured_std=stdev(values) if len(values) > 1 else None,
        seeds=tuple(run.seed for run, _ in found),
        delta=delta,
        run_ids=tuple(run.id for run, _ in found),
    )


def _entries(table: Table, row: Sequence[Cell], lines: Sequence[Line]) -> Iterable[list[str]]:
    """The lines of one row on the terminal: what they show, then a text per column."""
    if table.published:
        yield ["published", *(_pairs([cell.published(metric) for metric in table.metrics]) for cell in row)]
    settings = sorted({(line.variant, line.preset, line.selection) for line in lines})
    for setting in settings:
        yield [" ".join(setting), *(_measured(lines, cell, setting) for cell in row)]
    if not settings:
        yield ["measured", *(_why_empty(cell) for cell in row)]


def _measured(lines: Sequence[Line], cell: Cell, setting: tuple[str, str, str]) -> str:
    found = {
        line.metric: line
        for line in lines
        if line.column == cell.column.id and (line.variant, line.preset, line.selection) == setting
    }
    if not found:
        return _why_empty(cell)
    return " / ".join(
        _number(line.measured_mean, line.measured_std) if (line := found.get(metric)) else "-"
        for metric in cell.table.metrics
    )


def _why_empty(cell: Cell) -> str:
    if cell.published_only and not cell.column.mean_of:
        return "published only"
    return "not run" if implemented(cell) else "not implemented yet"


def _pairs(numbers: Sequence[Published | None]) -> str:
    return " / ".join(_number(number.mean, number.std) if number else "-" for number in numbers)


def _number(average: float | None, deviation: float | None) -> str:
    if average is None:
        return "-"
    return f"{average:.2f}" if deviation is None else f"{average:.2f} ± {deviation:.2f}"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)
