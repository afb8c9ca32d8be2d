"""Whether measured rows come in the published order, and what the interval promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.board.order import orders, rank_correlation

COLUMN = "remop/4/{}/ferplus-1000-150"


def by_hand(pairs: list[tuple[float, float]]) -> float:
    """Spearman (1904) without ties: 1 - 6 sum d^2 / (n^3 - n), d the differences of ranks."""
    ranks = [[sorted(side).index(value) for value in side] for side in zip(*pairs, strict=True)]
    n = len(pairs)
    return 1 - 6 * sum((a - b) ** 2 for a, b in zip(*ranks, strict=True)) / (n**3 - n)


def test_rho_is_spearmans() -> None:
    rng = np.random.default_rng(1)
    for n in (4, 5, 17):
        pairs = [(float(a), float(b)) for a, b in rng.normal(size=(n, 2))]
        assert rank_correlation(pairs)[0] == pytest.approx(by_hand(pairs))


def test_ties_share_their_rank() -> None:
    rho, _ = rank_correlation([(1, 1), (1, 2), (2, 3), (3, 4)])  # ranks 1.5 1.5 3 4 against 1 2 3 4
    assert rho == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_four_rows_in_order_do_not_prove_an_order() -> None:
    for sign in (1, -1):
        rho, interval = rank_correlation([(row, sign * row) for row in range(4)])
        assert rho == pytest.approx(sign)
        assert min(interval) < 0 < max(interval)
    assert rank_correlation([(row, row) for row in range(20)])[1].low > 0.9


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_interval_holds_the_correlation_of_all_rows(correlation: float) -> None:
    """Of a normal pair: rho = 6 / pi asin(r / 2) (Pearson, 1907)."""
    rng, true = np.random.default_rng(2), 6 / math.pi * math.asin(correlation / 2)
    held = 0
    for _ in range(400):
        a, b = rng.normal(size=(2, 17))
        pairs = list(zip(a.tolist(), (correlation * a + math.sqrt(1 - correlation**2) * b).tolist(), strict=True))
        low, high = rank_correlation(pairs)[1]
        held += low <= true <= high
    assert 0.92 <= held / 400 <= 0.985


def test_a_column_of_four_rows_has_an_order(tmp_path: Path, record_run: Callable[..., str]) -> None:
    published = {"vanilla": 75.0, "fixmatch": 79.9, "abc": 79.8, "adsh": 79.8}
    for row, overall in zip(published, (60.0, 63.0, 61.0, 62.0), strict=True):
        assert not orders(collect(tmp_path))
        record_run(COLUMN.format(row), 1, overall)
    found = {order.metric: order for order in orders(collect(tmp_path))}
    lines = [line for line in collect(tmp_path).lines if line.column == "ferplus-1000-150" and line.table == "4"]
    pairs: dict[str, list[tuple[float, float]]] = {"overall": [], "mean": []}
    for line in lines:
        if line.selection == "last" and line.measured_mean is not None and line.published_mean is not None:
            pairs[line.metric].append((line.published_mean, line.measured_mean))
    assert found.keys() == pairs.keys() and {order.rows for order in found.values()} == {4}
    for metric, order in found.items():
        concordant = sum((a - c) * (b - d) > 0 for (a, b), (c, d) in combinations(pairs[metric], 2))
        assert (order.rho > 0) == (concordant > 3)
        assert str(order).startswith(f"remop 4 ferplus-1000-150 {metric} (paper): ")
