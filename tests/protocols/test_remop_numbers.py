"""ReMoP's published numbers against the paper: its tables where the text is at hand, its own sentences always."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from ferbench.protocols import Table, load_protocol

PROTOCOL = load_protocol("remop")
TABLES = {table.id: table for table in PROTOCOL.tables}
FIGURES_PRINTED = {"1": 36, "2": 32, "3": 56, "4": 56, "5": 25, "figure3": 0, "figure4": 0}
DATASETS = {"RAF-DB": "rafdb", "FERPlus": "ferplus", "CK+": "ckplus"}
METHODS = {
    "Vanilla": "vanilla", "FixMatch": "fixmatch", "ABC": "abc", "Adsh": "adsh", "InPL": "inpl", "CPE": "cpe",
    "ReMoP": "remop", "Ada-CM": "adacm", "Baseline": "vanilla", "Pseudo-Labeling": "pseudo_label", "RUL": "rul",
    "MEK": "", "Mean-Teacher": "mean_teacher", "PT": "progressive_teacher",
}  # fmt: skip


def number(table: str, row: str, column: str, metric: str = "overall") -> float:
    return TABLES[table].published[(row, column, metric)].mean


@pytest.mark.parametrize("name", FIGURES_PRINTED)
def test_count_of_published_numbers(name: str) -> None:
    table = TABLES[name]
    assert len(table.published) == FIGURES_PRINTED[name]
    lost = [key for key in table.absent if key.why]
    cells = len(table.rows) * len(table.columns) * len(table.metrics)
    assert (len(table.published) == cells) != bool(lost)


def test_all_numbers_are_percentages_with_the_mean_below_the_overall_accuracy() -> None:
    assert sum(len(table.published) for table in TABLES.values()) == 205
    for table in TABLES.values():
        for (row, column, metric), value in table.published.items():
            assert 40 < value.mean < 95
            assert (value.std is not None) == (table.id in ("2", "3", "4"))
            if metric == "mean":
                assert value.mean < number(table.id, row, column)


@pytest.mark.parametrize(
    ("table", "ours", "other", "column", "metric", "gain"),
    [
        ("3", "remop", "adsh", "rafdb-2000-150", "overall", 1.80),
        ("3", "remop", "adsh", "rafdb-2000-150", "mean", 3.34),
        ("4", "remop", "cpe", "ferplus-4000-150", "overall", 2.62),
        ("4", "remop", "cpe", "ferplus-1000-150", "overall", 3.17),
        ("5", "remop", "cpe", "rafdb", "overall", 2.15),
        ("5", "remop", "progressive-teacher", "rafdb", "overall", 1.60),
        ("5", "remop", "mek", "rafdb", "overall", 0.52),
    ],
)
def test_gains_stated_in_section_5_4(table: str, ours: str, other: str, column: str, metric: str, gain: float) -> None:
    difference = number(table, ours, column, metric) - number(table, other, column, metric)
    assert difference == pytest.approx(gain, abs=1e-9)


@pytest.mark.parametrize(
    ("row", "same_row", "table", "columns"),
    [
        ("fixmatch", "fixmatch", "3", ("rafdb-2000-50", "rafdb-500-50")),
        ("fixmatch", "fixmatch", "4", ("ckplus-2000-150", "ckplus-500-150")),
        ("fixmatch-remop", "remop", "3", ("rafdb-2000-50", "rafdb-500-50")),
        ("fixmatch-remop", "remop", "4", ("ckplus-2000-150", "ckplus-500-150")),
    ],
)
def test_table_2_repeats_tables_3_and_4(row: str, same_row: str, table: str, columns: tuple[str, ...]) -> None:
    for column in columns:
        for metric in ("overall", "mean"):
            first = TABLES["2"].published[(row, column, metric)]
            assert first == TABLES[table].published[(same_row, column, metric)]


@pytest.fixture(scope="module")
def paper() -> list[str]:
    root = os.environ.get("FERBENCH_PAPERS_ROOT")
    if not root:
        pytest.skip("FERBENCH_PAPERS_ROOT is not set: the folder that holds remop.txt")
    return (Path(root) / "remop.txt").read_text(encoding="utf-8").splitlines()


def block(paper: list[str], table: str) -> tuple[str, list[list[str]]]:
    """The header text and the cells of the lines with figures, from the lines above "Table N:"."""
    end = next(i for i, line in enumerate(paper) if line.startswith(f"Table {table}:"))
    start = max(i for i in range(end) if paper[i].startswith("Method\t"))
    lines = [re.sub(r"</?[bi]>", "", line) for line in paper[start:end] if "\t" in line]
    body = [line.split("\t") for line in lines if re.search(r"\d\.\d", line)]
    return "\n".join(line for line in lines if not re.search(r"\d\.\d", line)), body


@pytest.mark.parametrize("name", ["1", "2", "3", "4", "5"])
def test_every_number_in_paper_order(paper: list[str], name: str) -> None:
    table = TABLES[name]
    _, body = block(paper, name)
    printed = [figure for line in body for cell in line[-len(table.columns) :] for figure in cell_figures(cell)]
    stored = []
    for row in table.rows:
        for column in table.columns:
            for metric in table.metrics:
                value = table.published.get((row.id, column.id, metric))
                stored.append((value.mean, value.std) if value else None)
    assert stored == printed
    assert len([figure for figure in printed if figure]) == FIGURES_PRINTED[name]


def cell_figures(cell: str) -> list[tuple[float, float | None] | None]:
    """`86.85 ± 0.07/ 76.92 ± 0.08` as two figures; `-` as none."""
    if cell.strip() == "-":
        return [None]
    figures: list[tuple[float, float | None] | None] = []
    for part in cell.split("/"):
        values = [float(value) for value in re.findall(r"\d+\.\d+", part)]
        figures.append((values[0], values[1] if len(values) == 2 else None))
    return figures


@pytest.mark.parametrize("name", ["1", "2", "3", "4", "5"])
def test_columns_are_the_papers(paper: list[str], name: str) -> None:
    table = TABLES[name]
    header, _ = block(paper, name)
    datasets = spread([DATASETS[word] for word in re.findall(r"RAF-DB|FERPlus|CK\+", header)], table)
    assert [column.test or column.dataset for column in table.columns] == datasets
    if name != "5":
        sizes = spread([int(size) for size in re.findall(r"N_1 = (\d+)", header)], table)
        ratios = spread([int(ratio) for ratio in re.findall(r"gamma = (\d+)", header)], table)
        splits = [PROTOCOL.splits[column.split] for column in table.columns]
        assert [(split.n1, split.gamma) for split in splits] == list(zip(sizes, ratios, strict=True))


def spread(values: list[Any], table: Table) -> list[Any]:
    """Header cells that span several columns, once per column."""
    return [value for value in values for _ in range(len(table.columns) // len(values))]


@pytest.mark.parametrize("name", ["2", "3", "4", "5"])
def test_rows_are_the_papers(paper: list[str], name: str) -> None:
    table = TABLES[name]
    learner = ""
    for row, line in zip(table.rows, block(paper, name)[1], strict=True):
        printed = re.sub(r"\[.*?\]|\(.*?\)|\*", "", line[0]).strip()
        plug_in = printed.startswith("w/ ")
        learner = learner if plug_in else printed
        method = METHODS[printed.removeprefix("w/ ")]
        assert row.method == method
        assert printed in row.label
        if method == "remop":
            assert row.options["learner"] == METHODS[learner]


def test_rows_of_table_1_follow_the_ticks(paper: list[str]) -> None:
    learner = ""
    for row, line in zip(TABLES["1"].rows, block(paper, "1")[1], strict=True):
        learner = line[0].strip() or learner
        centres, regulariser = (mark.strip() == "✓" for mark in line[1:3])
        if not centres:
            assert (row.method, dict(row.options)) == (METHODS[learner], {})
        else:
            expected = {"learner": METHODS[learner]} | ({} if regulariser else {"lambda_reg": 0.0})
            assert (row.method, dict(row.options)) == ("remop", expected)
