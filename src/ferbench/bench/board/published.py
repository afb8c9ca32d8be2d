"""What published differences can carry: the least that a paper's seeds and its test images could tell apart.

A paper gives a mean and perhaps a deviation over its seeds; of its answers image by image nothing is known. Taken here
is what favours the paper: the deviations of a column pooled over its rows, and errors of two methods of which nine
tenths of the variance are shared, as in our own runs of one seed (results/LOG.md). A difference below that would not be
told apart; one above it may be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from ferbench.bench.board.statistics import combined
from ferbench.protocols import Column, Protocol, Published, Table

SHARED = 0.9  # of the variance of two methods' errors on an image
ACCURACIES = ("overall", "mean")


@dataclass(frozen=True)
class PublishedColumn:
    """pair: the least difference of two rows, in percentage points, that could be told apart. ties: labels of the rows
    that lie nearer than that to the best one. seeds: of the table; deviations: how many rows print one.
    """

    column: str
    metric: str
    pair: float
    images: int
    seeds: int
    deviations: int
    best: str
    ties: tuple[str, ...]
    rows: int


def published_columns(protocol: Protocol, table: Table) -> Iterable[PublishedColumn]:
    """The columns of a table whose test images or deviations are known and that have numbers to compare."""
    for column in table.columns:
        for metric in table.metrics:
            found = {
                row.label: number
                for row in table.rows
                if (number := table.published.get((row.id, column.id, metric))) is not None
            }
            if metric in ACCURACIES and len(found) > 1 and (one := _column(protocol, table, column, metric, found)):
                yield one


def _column(
    protocol: Protocol, table: Table, column: Column, metric: str, found: dict[str, Published]
) -> PublishedColumn | None:
    deviations = [number.std for number in found.values() if number.std is not None]
    images = _test_images(protocol, column)
    seeds = len(table.seeds)
    if not images and not (deviations and seeds > 1):
        return None
    best = max(found, key=lambda row: found[row].mean)
    over_seeds = freedom = 0.0
    if deviations and seeds > 1:
        freedom = len(deviations) * (seeds - 1)
        over_seeds = 2 * sum(one**2 for one in deviations) / len(deviations) / seeds

    def apart(row: str) -> float:
        share = (found[best].mean + found[row].mean) / 200
        over_images = 2 * 100**2 * share * (1 - share) * (1 - SHARED) / images if images else 0.0
        return combined(over_seeds, freedom or inf, over_images)

    others = {row: apart(row) for row in found if row != best}
    ties = tuple(row for row, least in others.items() if found[best].mean - found[row].mean < least)
    nearest = max(others, key=lambda row: found[row].mean)
    return PublishedColumn(
        column.label, metric, others[nearest], images, seeds, len(deviations), best, ties, len(found)
    )


def _test_images(protocol: Protocol, column: Column) -> int:
    """0 where they are not known, or each fold has its own."""
    name = column.test or column.dataset
    split = protocol.splits.get(column.split)
    if name not in protocol.datasets or (split is not None and split.kind == "kfold"):
        return 0
    return protocol.datasets[name].test_images


def published_text(one: PublishedColumn) -> str:
    """A column in one line."""
    known = [f"{one.images:,} test images"] if one.images else []
    known += [f"{one.seeds} seeds"] if one.deviations else ["no deviations printed"]
    near = f"; not told from {one.best}: {', '.join(one.ties)}" if one.ties else f"; {one.best} stands alone"
    return f"{one.column}, {one.metric}: below {one.pair:.1f} points no difference ({', '.join(known)}){near}"
