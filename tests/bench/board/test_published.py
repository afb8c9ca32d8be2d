"""What published differences can carry: by the printed deviations and the number of test images."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from ferbench.bench.board.published import SHARED, published_columns, published_text
from ferbench.protocols import Protocol, Published, Table, load_protocol


def small(numbers: dict[str, Published], seeds: tuple[int, ...] = (1, 2, 3), images: int = 0) -> tuple[Protocol, Table]:
    """The demo's table with these numbers of its first column, and so many test images."""
    demo = load_protocol("demo")
    published = {(row, "synthetic-200-20", "overall"): number for row, number in numbers.items()}
    table = replace(demo.tables[0], seeds=seeds, published=published)
    datasets = {name: replace(dataset, test_images=images) for name, dataset in demo.datasets.items()}
    return replace(demo, datasets=datasets), table


def test_deviations_are_pooled_over_the_rows() -> None:
    protocol, table = small(
        {"vanilla": Published(80.0, 1.0), "fixmatch": Published(81.0, 2.0), "remop": Published(90.0)}
    )
    (found,) = published_columns(protocol, table)
    pooled = (1.0 + 4.0) / 2
    assert found.pair == pytest.approx(stats.t.ppf(0.975, 4) * (2 * pooled / 3) ** 0.5)
    assert found.best == "FixMatch w/ ReMoP" and not found.ties and (found.seeds, found.deviations) == (3, 2)
    assert "stands alone" in published_text(found)


def test_images_alone_where_no_deviation_is_printed() -> None:
    protocol, table = small(
        {"vanilla": Published(80.0), "fixmatch": Published(80.4), "remop": Published(60.0)}, images=1000
    )
    (found,) = published_columns(protocol, table)
    share = 0.802
    expected = stats.norm.ppf(0.975) * 100 * (2 * share * (1 - share) * (1 - SHARED) / 1000) ** 0.5
    assert found.pair == pytest.approx(expected)
    assert (found.best, found.ties) == ("FixMatch", ("Vanilla",))
    assert "1,000 test images, no deviations printed" in published_text(found)


def test_nothing_is_said_where_nothing_is_known() -> None:
    protocol, table = small({"vanilla": Published(80.0), "fixmatch": Published(81.0)})
    assert not list(published_columns(protocol, table))
    protocol, table = small({"vanilla": Published(80.0, 1.0), "fixmatch": Published(81.0, 1.0)}, seeds=(1,))
    assert not list(published_columns(protocol, table))
    protocol, table = small({"vanilla": Published(80.0, 1.0)}, images=100)
    assert not list(published_columns(protocol, table))


def test_papers_name_their_test_images() -> None:
    """RAF-DB's 3,068 wherever it is tested; folds have test images of their own and are left out."""
    for name in ("remop", "leaf", "adacm", "ssfer", "pll"):
        assert load_protocol(name).datasets["rafdb"].test_images == 3068
    ssfer = load_protocol("ssfer")
    folds = next(table for table in ssfer.tables if table.id == "5")
    assert all(one.images == 0 for one in published_columns(ssfer, folds))
