"""A table as curves: which of its rows or columns is the axis, and the leaderboard's numbers along it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ferbench.bench.board.leaderboard import Line
from ferbench.bench.tables.planning.implemented import COMPARABLE
from ferbench.protocols import Column, Protocol, Row, Table


@dataclass(frozen=True)
class Axis:
    """What varies: its name, and a place for each row or column on it; `names` where the places are no numbers."""

    label: str
    places: dict[str, float]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """One curve of one panel; `deviation` is None for a point of one seed."""

    panel: str
    label: str
    axis: Axis
    places: tuple[float, ...]
    values: tuple[float, ...]
    deviations: tuple[float | None, ...]
    published: bool = False


def sweep(protocol: Protocol, table: Table, lines: Iterable[Line], preset: str) -> list[Series]:
    """The curves of a table under one preset: rows are the axis where they differ in a number, else columns are.

    Published numbers are curves of their own beside runs of the paper's recipe.
    """
    mine = [line for line in lines if (line.paper, line.table) == (protocol.name, table.id)]
    measured = [line for line in mine if line.preset == preset and line.selection == "last"]
    option = varied_option(table.rows)
    found: list[Series] = []
    for metric in table.metrics:
        of_metric = [line for line in measured if line.metric == metric]
        if option:
            axis = Axis(option, {row.id: float(row.options[option]) for row in table.rows})
            for column in table.columns:
                chosen = [line for line in of_metric if line.column == column.id]
                found += _curves(metric, column.label, axis, [(line.row, line) for line in chosen], preset)
        else:
            for dataset, columns in _by_dataset(table.columns).items():
                axis = _column_axis(protocol, columns)
                for row in table.rows:
                    chosen = [line for line in of_metric if line.row == row.id and line.column in axis.places]
                    panel = f"{dataset}: {metric}"
                    found += _curves(panel, row.label, axis, [(line.column, line) for line in chosen], preset)
    return found


def varied_option(rows: Sequence[Row]) -> str | None:
    """The first option that is a number of its own in every row of one method; None where there is none."""
    if len({row.method for row in rows}) > 1 or len(rows) < 2:
        return None
    for key in rows[0].options:
        values = [row.options.get(key) for row in rows]
        numbers = {value for value in values if isinstance(value, int | float) and not isinstance(value, bool)}
        if len(numbers) == len(rows):
            return key
    return None


def _by_dataset(columns: Sequence[Column]) -> dict[str, list[Column]]:
    groups: dict[str, list[Column]] = {}
    for column in columns:
        name = column.dataset if column.test in ("", column.dataset) else f"{column.dataset}>{column.test}"
        groups.setdefault(name, []).append(column)
    return groups


def _column_axis(protocol: Protocol, columns: Sequence[Column]) -> Axis:
    """The one parameter of the columns' splits that differs, or the columns one after the other."""
    parameters = [protocol.splits[column.split].options if column.split else {} for column in columns]
    for key in parameters[0]:
        values = [given.get(key) for given in parameters]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if len(set(numbers)) == len(columns) > 1:
            return Axis(key, dict(zip((column.id for column in columns), numbers, strict=True)))
    places = {column.id: float(place) for place, column in enumerate(columns)}
    return Axis("", places, tuple(column.label for column in columns))


def _curves(panel: str, label: str, axis: Axis, found: Sequence[tuple[str, Line]], preset: str) -> Iterable[Series]:
    """A curve per variant of the runs, then the published one."""
    along = sorted(found, key=lambda pair: axis.places[pair[0]])
    variants = sorted({line.variant for _, line in found})
    for variant in variants:
        mine = [(axis.places[place], line) for place, line in along if line.variant == variant]
        measured = [
            (place, line.measured_mean, line.measured_std) for place, line in mine if line.measured_mean is not None
        ]
        name = f"{label} ({variant})" if len(variants) > 1 else label
        yield _series(panel, name, axis, measured)
    known = {axis.places[place]: line.published_mean for place, line in along if line.published_mean}
    if known and preset == COMPARABLE:
        yield _series(panel, label, axis, [(place, value, None) for place, value in known.items()], published=True)


def _series(
    panel: str, label: str, axis: Axis, points: Sequence[tuple[float, float, float | None]], *, published: bool = False
) -> Series:
    places, values, deviations = (tuple(column) for column in zip(*points, strict=True))
    return Series(panel, label, axis, places, values, deviations, published)
