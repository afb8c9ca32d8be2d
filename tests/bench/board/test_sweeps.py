"""Which of a table's rows or columns becomes the axis of a plot, and the numbers along it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.board.sweeps import Series, sweep, varied_option
from ferbench.protocols import Row, Table, load_protocol

RecordRun = Callable[..., str]
REMOP = load_protocol("remop")
LEAF = load_protocol("leaf")


def table_of(protocol: Any, name: str) -> Table:
    (found,) = (table for table in protocol.tables if table.id == name)
    assert isinstance(found, Table)
    return found


@pytest.mark.parametrize(
    ("protocol", "name", "option"),
    [
        (REMOP, "figure4", "beta"),
        (LEAF, "figure6", "experts"),  # top_k differs as well, but not in every row
        (LEAF, "figure4", None),  # four methods
        (LEAF, "2", None),  # words
        (REMOP, "figure3", None),  # a switch in one row alone
    ],
)
def test_the_option_that_varies(protocol: Any, name: str, option: str | None) -> None:
    assert varied_option(table_of(protocol, name).rows) == option


def test_a_switch_is_no_number_and_one_row_no_axis() -> None:
    rows = [Row(str(value), "r", "m", {"on": value}) for value in (True, False)]
    assert varied_option(rows) is None
    assert varied_option([Row("1", "r", "m", {"beta": 0.5})]) is None


def curves(tmp_path: Path, protocol: Any, name: str, preset: str) -> list[Series]:
    lines = [line for line in collect(tmp_path, [protocol]).lines if line.run_ids]
    return sweep(protocol, table_of(protocol, name), lines, preset)


def test_rows_as_the_axis_in_its_order(tmp_path: Path, record_run: RecordRun) -> None:
    for beta, seed, value in [(0.9, 1, 70.0), (0.1, 1, 60.0), (0.1, 2, 64.0), (0.5, 1, 75.0)]:
        record_run(f"remop/figure4/beta-{beta}/rafdb-2000-150", seed, value)
    overall, mean = curves(tmp_path, REMOP, "figure4", "paper")
    assert (overall.panel, overall.label, overall.axis.label) == ("overall", "RAF-DB N1=2000 γ=150", "beta")
    assert overall.places == (0.1, 0.5, 0.9)
    assert overall.values == (62.0, 75.0, 70.0)
    assert overall.deviations == (pytest.approx(8**0.5), None, None)
    assert (mean.panel, mean.values) == ("mean", (52.0, 65.0, 60.0))
    assert curves(tmp_path, REMOP, "figure4", "cpu") == []


def test_columns_as_the_axis_by_number_of_labels_and_data_set(tmp_path: Path, record_run: RecordRun) -> None:
    for column, value in [("rafdb-300", 63.0), ("rafdb-100", 51.0), ("ferplus-500", 60.0)]:
        record_run(f"leaf/figure4/adacm/{column}", 1, value, preset="cpu")
    found = [one for one in curves(tmp_path, LEAF, "figure4", "cpu") if one.panel.endswith("overall")]
    assert [(one.panel, one.label, one.places, one.values) for one in found] == [
        ("rafdb: overall", "AdaCM", (100.0, 300.0), (51.0, 63.0)),
        ("ferplus: overall", "AdaCM", (500.0,), (60.0,)),
    ]
    assert (found[0].axis.label, sorted(found[0].axis.places.values())) == ("labels", [100, 200, 300, 400, 500])


def test_published_numbers_stand_beside_the_papers_recipe_alone(tmp_path: Path, record_run: RecordRun) -> None:
    for preset in ("paper", "cpu"):
        for column, value in [("rafdb-200", 59.0), ("rafdb-100", 49.0)]:
            record_run(f"leaf/1/fixmatch/{column}", 1, value, preset=preset)
    measured, published = curves(tmp_path, LEAF, "1", "paper")
    assert (measured.published, measured.values) == (False, (39.0, 49.0))
    assert (published.published, published.values, published.places) == (True, (48.13, 60.23), (100.0, 200.0))
    assert [one.published for one in curves(tmp_path, LEAF, "1", "cpu")] == [False]


def test_variants_are_curves_of_their_own(tmp_path: Path, record_run: RecordRun) -> None:
    for variant, value in (("paper", 70.0), ("released", 80.0)):
        record_run("remop/figure4/beta-0.5/rafdb-2000-150", 1, value, variant=variant, name=variant)
    found = [one for one in curves(tmp_path, REMOP, "figure4", "paper") if one.panel == "overall"]
    assert [(one.label.rpartition(" ")[2], one.values) for one in found] == [
        ("(paper)", (70.0,)), ("(released)", (80.0,)),
    ]  # fmt: skip


def test_columns_without_a_number_stand_one_after_the_other(tmp_path: Path, record_run: RecordRun) -> None:
    """ReMoP's splits differ in two parameters: the columns' labels are the axis."""
    record_run("remop/3/fixmatch/rafdb-500-50", 1, 80.0)
    first = curves(tmp_path, REMOP, "3", "paper")[0]
    assert first.axis.names == tuple(column.label for column in table_of(REMOP, "3").columns)
    assert (first.places, first.axis.label) == ((2.0,), "")


def test_a_baseline_that_is_trained_elsewhere_has_its_own_panel(tmp_path: Path, record_run: RecordRun) -> None:
    adacm = load_protocol("adacm")
    record_run("adacm/4/resnet18-fixmatch/ckplus-100", 1, 70.0)
    (measured, published) = curves(tmp_path, adacm, "4", "paper")
    assert (measured.panel, published.values) == ("rafdb>ckplus: overall", (73.62,))
    renamed = replace(table_of(adacm, "4"), id="5")
    assert sweep(adacm, renamed, [], "paper") == []
