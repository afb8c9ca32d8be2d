"""Published numbers beside measured ones: from `results/runs` and the protocols to `results/leaderboard.csv`.

A run counts only for the protocol version and hash it was made under, and only with that protocol's recipe; any other
is listed with the reason and never averaged in. Means and standard deviations (sample, n - 1) are over seeds.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from ferbench.bench import records
from ferbench.methods import LEARNERS, METHODS
from ferbench.protocols import Cell, Protocol, Table, cells, load_protocol, protocol_names

SELECTIONS = ("last", "best-on-val", "best-on-test")
COMPARABLE = "paper"


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
class Run:
    """A finished run that counts for `cell`."""

    id: str
    cell: Cell
    variant: str
    preset: str
    seed: int
    metrics: Mapping[str, Mapping[str, float]]  # selection -> metric -> percent


@dataclass(frozen=True)
class Ignored:
    """A finished run of a protocol that does not count, and why."""

    run_id: str
    reason: str


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
    runs, ignored = _runs(results, {protocol.name: protocol for protocol in known})
    grouped: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.cell.id].append(run)
    lines = [
        line
        for protocol in known
        for cell in cells(protocol)
        for line in _cell_lines(cell, grouped[cell.id], without_runs)
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
    """One table for the terminal: under each row's published numbers what was measured, or why nothing was."""
    ours = [line for line in lines if (line.paper, line.table) == (protocol.name, table.id)]
    shown = [line for line in ours if line.selection in selections]
    grid = RichTable(title=f"{protocol.name} {table.id}: {table.caption}", title_justify="left", header_style="bold")
    grid.add_column("method")
    grid.add_column(" / ".join(table.metrics))
    for column in table.columns:
        grid.add_column(column.label, justify="right")
    for row in table.rows:
        row_cells = cells(protocol, f"{table.id}/{row.id}")
        published = [_pairs([cell.published(metric) for metric in table.metrics]) for cell in row_cells]
        grid.add_row(row.label, "published", *published, style="dim")
        mine = [line for line in shown if line.row == row.id]
        for setting in _settings(mine):
            texts = [_measured(mine, cell, setting) for cell in row_cells]
            grid.add_row("", Text(" ".join(setting)), *texts)
        if not mine:
            grid.add_row("", "measured", *[_why_empty(cell) for cell in row_cells])
        grid.add_section()
    remarks = [f"{entry.row}/{entry.column}: {entry.why}" for entry in table.absent]
    presets = sorted({line.preset for line in shown} - {COMPARABLE})
    remarks += [f"preset {preset}: its numbers are not comparable with published ones" for preset in presets]
    return Group(grid, *(Text(remark) for remark in [table.notes, *remarks] if remark))


def implemented(cell: Cell) -> bool:
    """Whether ferbench has the cell's method and, for a plug-in, the learner it is put on."""
    return cell.method in METHODS and cell.options.get("learner", "fixmatch") in LEARNERS


def _runs(results: Path, protocols: Mapping[str, Protocol]) -> tuple[list[Run], list[Ignored]]:
    """The newest run of each cell, variant, preset and seed; and the runs that do not count."""
    newest: dict[tuple[str, str, str, int], Run] = {}
    ignored = []
    found = sorted(results.glob("runs/*/record.json"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    for path in found:
        run = _read(path, protocols)
        if isinstance(run, Ignored):
            ignored.append(run)
        elif run is not None:
            key = (run.cell.id, run.variant, run.preset, run.seed)
            if key in newest:
                ignored.append(Ignored(newest[key].id, f"{run.id} is newer, for the same cell and seed"))
            newest[key] = run
    return list(newest.values()), ignored


def _read(path: Path, protocols: Mapping[str, Protocol]) -> Run | Ignored | None:
    """None for a run of no protocol, or an unfinished one."""
    run_id = path.parent.name
    try:
        spec, record = records.read_json(path.with_name("spec.json")), records.read_json(path)
    except records.RunError as error:
        return Ignored(run_id, str(error))
    if not spec.get("protocol") or record.get("status") != "finished":
        return None
    cell = _cell(spec, protocols)
    if isinstance(cell, str):
        return Ignored(run_id, cell)
    return Run(run_id, cell, spec["variant"], spec["preset"], spec["seed"], record["metrics"])


def _cell(spec: Mapping[str, Any], protocols: Mapping[str, Protocol]) -> Cell | str:
    """The cell a run belongs to, or why it belongs to none."""
    made = spec["protocol"]
    protocol = protocols.get(made["name"])
    if protocol is None:
        return f"no protocol '{made['name']}' here"
    if made["version"] != protocol.version:
        return f"stale: made under version {made['version']} of {protocol.name}, now {protocol.version}"
    if made.get("hash", protocol.hash) != protocol.hash:
        return f"stale: {protocol.name} has changed since (hash {made['hash'][:8]}, now {protocol.hash[:8]})"
    # An exact match, because a name such as "*" would select more than one cell.
    key = (spec.get("table"), spec.get("row"), spec.get("column"))
    cell = next((cell for cell in cells(protocol) if (cell.table.id, cell.row.id, cell.column.id) == key), None)
    if cell is None or spec["preset"] not in protocol.presets:
        return f"{protocol.name} has no cell {key[0]}/{key[1]}/{key[2]} under preset {spec['preset']}"
    if "recipe" in spec and spec["recipe"] != asdict(cell.recipe(spec["preset"])):
        return f"its recipe is not the one of {cell.id} under preset {spec['preset']}"
    return cell


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
    comparable = published is not None and average is not None and preset == COMPARABLE
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
        delta=average - published.mean if comparable and average is not None and published else None,
        run_ids=tuple(run.id for run, _ in found),
    )


def _settings(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    return sorted({(line.variant, line.preset, line.selection) for line in lines})


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
    if cell.published_only:
        return "published only"
    return "not run" if implemented(cell) else "not implemented yet"


def _pairs(numbers: Sequence[Any]) -> str:
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
