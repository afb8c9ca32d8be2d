"""Do measured rows come in the order of the published ones? Rank correlation by column, with its interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri
from scipy.stats import spearmanr

from ferbench.bench.board.statistics import LEVEL, Interval

if TYPE_CHECKING:
    from ferbench.bench.board.leaderboard import Leaderboard

FEWEST = 4


@dataclass(frozen=True)
class Order:
    """Of the rows of a column: `rho` is Spearman's, 1 for the published order and -1 for its reverse."""

    paper: str
    table: str
    column: str
    metric: str
    preset: str
    rows: int
    rho: float
    interval: Interval

    def __str__(self) -> str:
        where = f"{self.paper} {self.table} {self.column} {self.metric} ({self.preset})"
        return f"{where}: {self.rho:+.2f} [{self.interval.low:+.2f}, {self.interval.high:+.2f}], {self.rows} rows"


def orders(board: Leaderboard) -> list[Order]:
    """Of every column with at least four rows that have both numbers and do not all have the same."""
    columns: dict[tuple[str, str, str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for line in board.lines:
        both = line.published_mean is not None and line.measured_mean is not None
        if both and line.selection == "last" and line.metric in ("overall", "mean"):
            key = (line.paper, line.table, line.column, line.metric, line.preset)
            columns[key].append((float(line.published_mean or 0), float(line.measured_mean or 0)))
    return [
        Order(*key, len(pairs), *rank_correlation(pairs))
        for key, pairs in columns.items()
        if len(pairs) >= FEWEST and all(len(set(side)) > 1 for side in zip(*pairs, strict=True))
    ]


def rank_correlation(pairs: Sequence[tuple[float, float]], level: float = LEVEL) -> tuple[float, Interval]:
    """Spearman's rho of at least four pairs, neither side constant, and its interval over the choice of pairs.

    Fisher's transform with the variance of Bonett & Wright (Psychometrika 65, 2000), (1 + rho^2 / 2) / (n - 3). A
    perfect order is taken for one with two neighbours exchanged, since four rows in order do not prove that all are.
    """
    n = len(pairs)
    rho = float(spearmanr(np.asarray(pairs, dtype=np.float64)).statistic)
    most = 1 - 12 / (n**3 - n)
    middle = math.atanh(min(max(rho, -most), most))
    half = float(ndtri((1 + level) / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return rho, Interval(math.tanh(middle - half), math.tanh(middle + half))
