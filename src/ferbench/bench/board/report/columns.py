"""One column of a table in detail: curves, recall by class, confusion, and differences from its best row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from markupsafe import Markup

from ferbench.bench.board.compare import Side, compare
from ferbench.bench.board.leaderboard import ColumnKey, Leaderboard
from ferbench.bench.board.report import pictures
from ferbench.bench.board.resolution import Resolution, evidence_of
from ferbench.bench.board.shown import interval_text, resolution_text
from ferbench.bench.tables.counting.counted import Run
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.evidence import Evidence
from ferbench.bench.training.recording.metrics import recalls
from ferbench.protocols import Column, Protocol, Table

CURVES = (("mean", "mean accuracy, %"), ("overall", "overall accuracy, %"))
SHARES = (("mask rate", "kept, share"), ("pseudo-label accuracy", "right of the kept, share"))


@dataclass(frozen=True)
class Row:
    """The runs of one row under one variant and preset, newest recipe first."""

    label: str
    runs: tuple[Run, ...]
    colour: int = pictures.GREY


@dataclass(frozen=True)
class Confusion:
    """Counts over all seeds of a row, and each as a share of its class."""

    label: str
    counts: list[list[int]]
    shares: list[list[int]]  # percent


@dataclass(frozen=True)
class ColumnView:
    """What the page shows of a column under one preset."""

    anchor: str
    title: str
    preset: str
    rows: tuple[Row, ...]
    resolution: str
    curves: tuple[Markup, ...]
    classes: tuple[str, ...]  # head to tail, by test images
    sizes: tuple[int, ...]
    recalls: tuple[tuple[Row, tuple[float, ...]], ...]
    confusions: tuple[Confusion, ...]
    differences: tuple[Markup, ...]
    compared: tuple[tuple[str, str, str, str], ...]  # row, metric, difference, interval


def column_views(protocol: Protocol, table: Table, board: Leaderboard, results: Path) -> list[ColumnView]:
    """The columns of a table that have runs, by preset."""
    views = []
    for column in table.columns:
        by_preset: dict[str, list[tuple[str, tuple[Run, ...]]]] = defaultdict(list)
        for row in table.rows:
            settings: dict[tuple[str, str], list[Run]] = defaultdict(list)
            for run in board.runs.get(f"{protocol.name}/{table.id}/{row.id}/{column.id}", ()):
                if run.record:  # no mean over columns
                    settings[run.preset, run.variant].append(run)
            several = len({variant for _, variant in settings}) > 1
            for (preset, variant), runs in settings.items():
                label = f"{row.label} ({variant})" if several else row.label
                by_preset[preset].append((label, tuple(sorted(runs, key=lambda run: run.seed))))
        for preset, found in by_preset.items():
            rows = _coloured([Row(label, runs) for label, runs in found], table.metrics[0])
            views.append(_view(protocol, table, column, preset, rows, board, results))
    return views


def _coloured(rows: Sequence[Row], metric: str) -> tuple[Row, ...]:
    """A colour for each row, or for the best ones where there are more rows than colours."""

    def accuracy(row: Row) -> float:
        return fmean(run.metrics["last"].get(metric, 0.0) for run in row.runs)

    best = sorted(rows, key=accuracy, reverse=True)[: pictures.COLOURS]
    shown = [row for row in rows if row in best]
    return tuple(replace(row, colour=shown.index(row)) if row in shown else row for row in rows)


def _view(
    protocol: Protocol, table: Table, column: Column, preset: str, rows: tuple[Row, ...], board: Leaderboard,
    results: Path,
) -> ColumnView:  # fmt: skip
    of_column = {
        key.metric: one
        for key, one in board.resolutions.items()
        if key == ColumnKey(protocol.name, table.id, column.id, key.metric, preset)
    }
    kept = {id(row): found for row in rows if (found := _evidence(row))}
    classes, sizes, order = _head_to_tail(list(kept.values()))
    bars, compared = _differences(rows, of_column)
    return ColumnView(
        anchor=f"{protocol.name}-{table.id}-{column.id}-{preset}",
        title=f"{protocol.name} {table.id}, {column.label}",
        preset=preset,
        rows=rows,
        resolution=resolution_text(of_column) if of_column else "",
        curves=_curves(rows, results),
        classes=classes,
        sizes=sizes,
        recalls=tuple((row, _recall(kept[id(row)], order)) for row in rows if id(row) in kept),
        confusions=tuple(_confusion(row, kept[id(row)], order) for row in rows if id(row) in kept),
        differences=bars,
        compared=compared,
    )


def _evidence(row: Row) -> list[Evidence]:
    found = [evidence_of(run) for run in row.runs]
    return [one for one in found if one] if all(found) else []


def _head_to_tail(every: Sequence[Sequence[Evidence]]) -> tuple[tuple[str, ...], tuple[int, ...], list[int]]:
    if not every:
        return (), (), []
    first = every[0][0]
    sizes = first.headline.sizes
    order = [int(position) for position in np.argsort(-sizes, kind="stable") if sizes[position]]
    return tuple(first.classes[k] for k in order), tuple(int(sizes[k]) for k in order), order


def _recall(found: Sequence[Evidence], order: Sequence[int]) -> tuple[float, ...]:
    means = np.mean([recalls(one.headline.confusion) for one in found], axis=0)
    return tuple(round(float(means[k]), 1) for k in order)


def _confusion(row: Row, found: Sequence[Evidence], order: Sequence[int]) -> Confusion:
    counts = sum(one.headline.confusion for one in found)[np.ix_(order, order)]  # type: ignore[index]
    shares = np.rint(100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(int)
    return Confusion(row.label, counts.tolist(), shares.tolist())


def _differences(
    rows: Sequence[Row], resolutions: Mapping[str, Resolution]
) -> tuple[tuple[Markup, ...], tuple[tuple[str, str, str, str], ...]]:
    """Every row less the best of those with most seeds, for mean and overall accuracy."""
    drawn, lines = [], []
    for metric in ("mean", "overall"):
        values = {
            id(row): fmean(run.metrics["last"][metric] for run in row.runs)
            for row in rows
            if all(metric in run.metrics["last"] for run in row.runs)
        }
        most = max((len(row.runs) for row in rows if id(row) in values), default=0)
        full = [row for row in rows if id(row) in values and len(row.runs) == most]
        if len(full) < 2:
            continue
        best = max(full, key=lambda row: values[id(row)])
        bars = []
        for row in rows:
            if row is best or id(row) not in values or not _seeds(row) & _seeds(best):
                continue
            found = compare(_side(row), _side(best))
            one = next(entry.difference for entry in found.compared if entry.what == metric)
            low, high = one.interval or (None, None)
            bars.append(pictures.Bar(row.label, one.mean, low, high))
            how = "" if found.images else ", over seeds alone"
            lines.append(
                (f"{row.label} less {best.label}", metric, f"{one.mean:+.2f}", interval_text(one.interval) + how)
            )
        if bars:
            drawn.append(pictures.differences(bars, f"{best.label}, {metric}"))
    return tuple(drawn), tuple(lines)


def _seeds(row: Row) -> set[int]:
    return {run.seed for run in row.runs}


def _side(row: Row) -> Side:
    return Side(row.label, {run.seed: run for run in row.runs})


def _curves(rows: Sequence[Row], results: Path) -> tuple[Markup, ...]:
    histories = {id(row): [_history(results / "runs" / run.id, run) for run in row.runs] for row in rows}
    drawn = []
    for name, label in (*CURVES, *SHARES):
        found = [curve for row in rows if (curve := _curve(row, histories[id(row)], name))]
        if found:
            drawn.append(pictures.curves(found, label))
    return tuple(drawn)


def _curve(row: Row, histories: Sequence[Mapping[str, Mapping[float, float]]], name: str) -> pictures.Curve | None:
    series = [history[name] for history in histories if history.get(name)]
    common = sorted(set.intersection(*(set(one) for one in series))) if series else []
    if len(common) < 2:
        return None
    columns = [[one[at] for one in series] for at in common]
    return pictures.Curve(
        row.label, row.colour, common, [fmean(one) for one in columns], [min(one) for one in columns],
        [max(one) for one in columns],
    )  # fmt: skip


def _history(folder: Path, run: Run) -> dict[str, dict[float, float]]:
    """Values by epoch of what metrics.jsonl says of the tested model; empty where it cannot be read."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    try:
        for line in records.read_lines(folder / "metrics.jsonl"):
            tested = next(iter(line["test"][run.record.get("evaluated", "student")].values())) if "test" in line else {}
            for name, value in {**{key: line[key] for key, _ in SHARES if key in line}, **tested}.items():
                found[name][float(line["epoch"])] = float(value)
    except (records.RunError, KeyError, TypeError, ValueError, StopIteration, AttributeError):
        return {}
    return found
