"""Published numbers beside measured ones: from `results/runs` and the protocols to the lines of a board.

A run counts for every cell whose settings it has, and only for those; one that a protocol has left behind is listed
with the reason and never averaged in. Means, standard deviations (sample, n - 1) and Student's intervals are over
seeds; which rows of a column are apart says `resolution`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from ferbench.bench.board.own import OWN, own_runs
from ferbench.bench.board.remembered import known_protocols
from ferbench.bench.board.resolution import Resolution, evidence_of, resolve, row_runs
from ferbench.bench.board.statistics import student
from ferbench.bench.tables.counting.counted import Ignored, Run, counted_runs, runs_of
from ferbench.bench.tables.planning.implemented import COMPARABLE
from ferbench.protocols import Cell, Protocol, cells

UNKNOWN = "unknown"  # the code of a run beside runs whose code is known
SELECTIONS = ("last", "best-on-val", "best-on-test", "best-epoch-on-test")


@dataclass(frozen=True)
class Line:
    """One metric of one cell under one variant, preset and selection; numbers in percent. Fields are CSV columns.

    variant, preset and selection are empty where a published number has no run beside it.
    """

    paper: str
    table: str
    row: str
    row_label: str
    column: str
    column_label: str
    dataset: str  # trained on, or trained on>tested on
    metric: str
    variant: str
    preset: str
    selection: str
    published_mean: float | None
    published_std: float | None
    measured_mean: float | None
    measured_std: float | None  # None for one seed
    n: int  # seeds
    ci_low: float | None  # Student's 95 % interval of the mean, over seeds; None for one seed
    ci_high: float | None
    standing: str  # best, tie (not told from the best), or nothing: behind it, or not known
    delta: float | None  # measured - published, under the paper preset only
    comparable: bool | None  # with published numbers: the paper preset; None without a run
    verifiable: bool | None  # every run keeps the answers that its numbers come from; None without a run
    seeds: tuple[int, ...]
    steps: tuple[str, ...]  # one for all runs, or what they differ in
    device: tuple[str, ...]
    commit: tuple[str, ...]
    code: tuple[str, ...]
    finished_at: str  # of the last run
    ambiguous: float | None  # percent of candidate sets with more than one class, of a method that learns from sets
    run_ids: tuple[str, ...]


class ColumnKey(NamedTuple):
    """What a resolution is of."""

    paper: str
    table: str
    column: str
    metric: str
    preset: str


@dataclass(frozen=True)
class Leaderboard:
    """All lines, in the order of the protocols' files, and the runs that were left out.

    protocols: those of the lines, that of the user's own runs among them. runs: by cell, means over columns included.
    """

    lines: tuple[Line, ...]
    ignored: tuple[Ignored, ...]
    protocols: tuple[Protocol, ...] = ()
    resolutions: Mapping[ColumnKey, Resolution] = field(default_factory=dict)
    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)


def collect(results: Path, protocols: Sequence[Protocol] | None = None, *, without_runs: bool = True) -> Leaderboard:
    """Every cell's published and measured numbers. results: the folder that holds `runs/`.

    protocols: default, all that come with the package, those of the user's own that `results` remembers, and one made
    from the runs of `ferbench train`. without_runs: also list published numbers nothing was run for.
    """
    known = list(protocols) if protocols is not None else known_protocols(results)
    runs, ignored = counted_runs(results, {protocol.name: protocol for protocol in known})
    grouped: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        grouped[run.cell.id].append(run)
    if protocols is None:
        own, of_own = own_runs(results)
        known += [own] if own else []
        grouped |= of_own
    every = [cell for protocol in known for cell in cells(protocol)]
    of_cell = {cell.id: found for cell in every if (found := runs_of(cell, grouped))}
    resolutions = _resolutions(every, of_cell)
    lines = [line for cell in every for line in _cell_lines(cell, of_cell.get(cell.id, []), without_runs, resolutions)]
    return Leaderboard(tuple(lines), tuple(ignored), tuple(known), resolutions, of_cell)


def row_key(row: str, variant: str) -> str:
    """What a resolution calls the runs of a row under a variant."""
    return f"{row} {variant}"


def _resolutions(every: Sequence[Cell], of_cell: Mapping[str, Sequence[Run]]) -> dict[ColumnKey, Resolution]:
    columns: dict[ColumnKey, list[tuple[Cell, str, list[Run]]]] = defaultdict(list)
    for cell in every:
        settings: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in of_cell.get(cell.id, ()):
            settings[run.variant, run.preset].append(run)
        for (variant, preset), runs in settings.items():
            for metric in cell.table.metrics:
                key = ColumnKey(cell.protocol.name, cell.table.id, cell.column.id, metric, preset)
                columns[key].append((cell, variant, runs))
    found = {key: _resolution(rows, key.metric) for key, rows in columns.items()}
    return {key: one for key, one in found.items() if one}


def _resolution(rows: Sequence[tuple[Cell, str, list[Run]]], metric: str) -> Resolution | None:
    """Rows that are the same runs, as those that differ in the unfinished part of a table are, count once."""
    once: dict[tuple[str, ...], list[str]] = defaultdict(list)
    of_row = {row_key(cell.row.id, variant): runs for cell, variant, runs in rows}
    for row, runs in of_row.items():
        once[(runs[0].cell.row.rule, *sorted(run.id for run in runs))].append(row)
    found = resolve([row_runs(alike[0], of_row[alike[0]], metric) for alike in once.values()], metric)
    if found is None:
        return None
    first = {row: alike[0] for alike in once.values() for row in alike}
    standing = {row: found.standing[first[row]] for row in of_row if first[row] in found.standing}
    return replace(found, standing=standing)


def _cell_lines(
    cell: Cell, runs: Sequence[Run], without_runs: bool, resolutions: Mapping[ColumnKey, Resolution]
) -> Iterable[Line]:
    settings = sorted({(run.variant, run.preset) for run in runs})
    for metric in cell.table.metrics:
        measured = [
            _line(cell, metric, (variant, preset, selection), chosen)
            for variant, preset in settings
            for selection in SELECTIONS
            if (chosen := _values(runs, variant, preset, selection, metric))
        ]
        yield from (_standing(line, resolutions) for line in measured)
        if not measured and without_runs and cell.published(metric):
            yield _line(cell, metric, ("", "", ""), [])


def _standing(line: Line, resolutions: Mapping[ColumnKey, Resolution]) -> Line:
    column = resolutions.get(ColumnKey(line.paper, line.table, line.column, line.metric, line.preset))
    if column is None or line.selection != "last":
        return line
    return replace(line, standing=column.standing.get(row_key(line.row, line.variant), ""))


def _values(runs: Sequence[Run], variant: str, preset: str, selection: str, metric: str) -> list[tuple[Run, float]]:
    mine = [run for run in runs if (run.variant, run.preset) == (variant, preset)]
    found = [(run, run.metrics[selection][metric]) for run in mine if metric in run.metrics.get(selection, {})]
    return sorted(found, key=lambda pair: pair[0].seed)


def _ambiguous(runs: Iterable[Run]) -> list[float]:
    """The share of ambiguous candidate sets in each run that has sets."""
    return [run.record["candidates"]["ambiguous"] for run in runs if "candidates" in run.record]


def _line(cell: Cell, metric: str, setting: tuple[str, str, str], found: Sequence[tuple[Run, float]]) -> Line:
    variant, preset, selection = setting
    values = [value for _, value in found]
    published = cell.published(metric)
    average = mean(values) if values else None
    delta = average - published.mean if average is not None and published and preset == COMPARABLE else None
    interval = student(values)

    def noted(key: str) -> tuple[str, ...]:
        return tuple(sorted({str(run.record[key]) for run, _ in found if run.record.get(key) is not None}))

    return Line(
        paper=cell.protocol.name,
        table=cell.table.id,
        row=cell.row.id,
        row_label=cell.row.label,
        column=cell.column.id,
        column_label=cell.column.label,
        dataset=cell.dataset if cell.test == cell.dataset else f"{cell.dataset}>{cell.test}",
        metric=metric,
        variant=variant,
        preset=preset,
        selection=selection,
        published_mean=published.mean if published else None,
        published_std=published.std if published else None,
        measured_mean=average,
        measured_std=stdev(values) if len(values) > 1 else None,
        n=len(values),
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        standing="",
        delta=delta,
        comparable=preset == COMPARABLE and cell.protocol.name != OWN if values else None,
        verifiable=all(evidence_of(run) for run, _ in found) if values else None,
        seeds=tuple(run.seed for run, _ in found),
        steps=noted("steps"),
        device=noted("device"),
        commit=noted("commit"),
        code=tuple(sorted({run.code or UNKNOWN for run, _ in found})) if noted("code") else (),
        finished_at=max(noted("finished_at"), default=""),
        ambiguous=mean(shares) if (shares := _ambiguous(run for run, _ in found)) else None,
        run_ids=tuple(run.id for run, _ in found),
    )
