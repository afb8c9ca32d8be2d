"""Ada-CM's published numbers against the paper: its tables where the text is at hand, its own sentences always."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest

from ferbench.bench.tables.settings import settings
from ferbench.protocols import Published, Split, load_protocol, select

PROTOCOL = load_protocol("adacm")
TABLES = {table.id: table for table in PROTOCOL.tables}
COUNTS = {"1": 16, "2": 7 * 8 + 3, "3": 15, "4": 8 * 2 + 2, "figure3a": 0, "figure3b": 0, "figure4": 0, "ferplus": 0}
METHODS = {
    "Baseline": "vanilla", "FT": "fixmatch", "FlexMatch": "flexmatch", "Ada-CM": "adacm", "MixMatch": "mixmatch",
    "Pseudo-Labeling": "pseudo_label", "UDA": "uda", "ReMixMatch": "remixmatch", "FixMatch": "fixmatch",
    "MeanTeacher": "mean_teacher", "MarginMix": "marginmix", "Fully Supervised": "",
}  # fmt: skip


def number(table: str, row: str, column: str) -> float:
    return TABLES[table].published[(row, column, "overall")].mean


@pytest.mark.parametrize("name", COUNTS)
def test_count_of_published_numbers(name: str) -> None:
    table = TABLES[name]
    assert len(table.published) == COUNTS[name]
    assert (len(table.published) < len(table.rows) * len(table.columns)) == bool(table.absent)


def test_means_and_deviations() -> None:
    """Every number of the authors' own runs has a deviation; in Table 3 those that look quoted have none."""
    assert sum(len(table.published) for table in TABLES.values()) == 108
    for table in TABLES.values():
        for (row, _, metric), value in table.published.items():
            assert 25 < value.mean < 90 and metric == "overall"
            quoted = "supervised" in row or (table.id == "3" and row != "adacm")
            assert (value.std is None) == quoted
            assert value.std is None or 0.1 < value.std < 10


@pytest.mark.parametrize(
    ("table", "other", "column", "gain"),
    [
        ("2", "fully-supervised", "rafdb-4000", 0.29),
        ("2", "fully-supervised", "sfew-400", 1.38),
        ("2", "fully-supervised", "affectnet-10000", 4.45),
        ("3", "marginmix", "rafdb-400", 13.28),  # the text says 13.27
        ("3", "marginmix", "rafdb-1000", 1.91),
        ("3", "marginmix", "rafdb-4000", 5.3),
    ],
)
def test_gains_stated_in_section_4_3(table: str, other: str, column: str, gain: float) -> None:
    assert number(table, "adacm", column) - number(table, other, column) == pytest.approx(gain, abs=1e-9)


def test_gain_on_ckplus_stated_in_section_4_4() -> None:
    gain = number("4", "resnet18-adacm", "ckplus-4000") - number("4", "supervised-17", "ckplus-4000")
    assert gain == pytest.approx(3.6, abs=1e-9)


@pytest.mark.parametrize("name", ["1", "2", "3", "4"])
def test_ada_cm_is_the_best_in_every_column(name: str) -> None:
    for column in TABLES[name].columns:
        values = {row: value.mean for (row, where, _), value in TABLES[name].published.items() if where == column.id}
        assert max(values, key=values.__getitem__).endswith("adacm")


def test_table_1_and_2_share_three_rows() -> None:
    for column in ("rafdb-100", "sfew-400"):
        for one, other in [("baseline", "baseline"), ("fixmatch-0.95", "fixmatch"), ("adacm", "adacm")]:
            first, second = (TABLES[t].published[(row, column, "overall")] for t, row in (("1", one), ("2", other)))
            assert first == second


def test_every_unlabelled_term_beats_the_baseline_section_4_2() -> None:
    for column in ("rafdb-100", "sfew-400"):
        order = ["baseline", "contrast", "fixmatch-0.5", "fixmatch-0.8", "fixmatch-0.95", "flexmatch", "margin"]
        values = [number("1", row, column) for row in [*order, "adacm"]]
        assert values == sorted(values)


def test_recipe_is_that_of_section_4_1() -> None:
    recipe = PROTOCOL.recipe("resnet18", "paper")
    assert (recipe.optimizer, recipe.lr, recipe.batch_size, recipe.epochs) == ("adam", 5e-4, 16, 20)
    assert (recipe.backbone, recipe.weights, recipe.input_size) == ("resnet18", "msceleb", 224)
    assert recipe.schedule == "constant"
    assert (recipe.steps_per_epoch, recipe.mu, recipe.ema, recipe.ema_buffers) == (800, 1, 0.999, "ema")
    assert (recipe.shrink, recipe.dropout, recipe.evaluate) == (0.02, 0.5, "ema")
    assert (recipe.normalise_features, recipe.channel_order) == (True, "bgr")
    wide = PROTOCOL.recipe("wrn-28-2", "paper")
    assert (wide.backbone, wide.weights, wide.lr, wide.epochs) == ("wrn_28_2", "none", 5e-4, 20)
    cpu = PROTOCOL.recipe("affectnet", "cpu")
    assert (cpu.backbone, cpu.weights, cpu.epochs * cpu.steps_per_epoch) == ("resnet_small", "none", 5000)


def test_small_runs_on_ferplus_are_leafs_as_well() -> None:
    """A run serves every cell with its settings: the table on FERPlus shares runs with LEAF's tables."""
    for row, table in (("fixmatch", "ferplus"), ("adacm", "1")):
        (ours,), (theirs,) = select(f"adacm/ferplus/{row}/ferplus-400"), select(f"leaf/{table}/{row}/ferplus-400")
        assert settings(ours, "cpu", 1) == settings(theirs, "cpu", 1)


def test_five_seeds_in_every_table_section_4_1() -> None:
    assert all(TABLES[name].seeds == (1, 2, 3, 4, 5) for name in ("1", "2", "3", "4", "figure3a", "figure3b"))


def test_splits_by_data_set() -> None:
    for table in TABLES.values():
        for column in table.columns:
            kind = "adacm" if column.dataset == "rafdb" else "total"
            assert PROTOCOL.splits[column.split] == Split(kind, labels=int(column.id.split("-")[1]))
            assert column.id.split("-")[0] == (column.test or column.dataset)


def test_sfew_takes_rafdb_as_more_unlabelled_images_section_4_1() -> None:
    (ours,) = select("adacm/2/adacm/sfew-100")
    assert (ours.unlabelled, ours.test) == (("rest", "rafdb"), "sfew")
    (baseline,) = select("adacm/2/baseline/sfew-100")
    assert baseline.unlabelled == ()


def test_ckplus_is_tested_by_models_of_rafdb_with_either_backbone() -> None:
    for row, backbone in (("wrn-fixmatch", "wrn_28_2"), ("resnet18-fixmatch", "resnet18")):
        (cell,) = select(f"adacm/4/{row}/ckplus-100")
        assert (cell.dataset, cell.test, cell.recipe("paper").backbone) == ("rafdb", "ckplus", backbone)


def test_rows_of_the_sweeps_section_4_2() -> None:
    assert [row.options["gamma"] for row in TABLES["figure3b"].rows] == [1.5, 2.0, math.e, 3.0]
    bounds = [row.options["bound"] for row in TABLES["figure3a"].rows]
    assert 0.97 in bounds and bounds == sorted(bounds) and all(0 < float(bound) < 1 for bound in bounds)
    rows = [*TABLES["figure3a"].rows, *TABLES["figure3b"].rows]
    assert all(row.options["floor"] is False for row in rows)  # the floor of 0.8 would hide both


def test_nothing_of_the_table_on_ferplus_is_published() -> None:
    table = TABLES["ferplus"]
    assert (table.kind, table.published, table.caption[:16]) == ("figure", {}, "Not in the paper")
    same = {row.id: (row.method, row.options) for row in TABLES["1"].rows}
    for row, of_table_1 in [
        ("vanilla", "baseline"), ("fixmatch", "fixmatch-0.95"), ("margin", "margin"), ("contrast", "contrast"),
        ("adacm", "adacm"),
    ]:  # fmt: skip
        (found,) = (item for item in table.rows if item.id == row)
        method, options = same[of_table_1]
        assert (found.method, {"threshold": 0.95, **found.options}) == (method, {"threshold": 0.95, **options})


@pytest.fixture(scope="module")
def paper() -> list[str]:
    root = os.environ.get("FERBENCH_PAPERS_ROOT")
    if not root:
        pytest.skip("FERBENCH_PAPERS_ROOT is not set: the folder that holds adacm.txt")
    return (Path(root) / "adacm.txt").read_text(encoding="utf-8").splitlines()


def body(paper: list[str], table: str) -> list[list[str]]:
    """The cells of the lines below "Table N." that hold results."""
    start = next(i for i, line in enumerate(paper) if line.startswith(f"Table {table}."))
    lines: list[list[str]] = []
    for line in paper[start + 1 :]:
        if re.search(r"\d\d\.\d\d", line) and "\t" in line:
            lines.append(line.split("\t"))
        elif lines:
            return lines
    raise AssertionError(f"Table {table} does not end")


def figure(cell: str) -> Published | None:
    values = [float(value) for value in re.findall(r"\d+\.\d+", cell)]
    return Published(values[0], values[1] if len(values) > 1 else None) if values else None


@pytest.mark.parametrize(("name", "skipped"), [("1", 3), ("2", 1), ("3", 1), ("4", 1)])
def test_every_number_in_paper_order(paper: list[str], name: str, skipped: int) -> None:
    """A fully supervised number that spans columns is compared by value, the extraction having moved it."""
    table = TABLES[name]
    for row, line in zip(table.rows, body(paper, name), strict=True):
        printed = [figure(cell) for cell in line[skipped : skipped + len(table.columns)]]
        stored = [table.published.get((row.id, column.id, "overall")) for column in table.columns]
        if row.status:
            assert list(filter(None, printed)) == list(filter(None, stored))
        else:
            assert printed == stored


@pytest.mark.parametrize("name", ["1", "2", "3", "4"])
def test_rows_are_the_papers(paper: list[str], name: str) -> None:
    for row, line in zip(TABLES[name].rows, body(paper, name), strict=True):
        printed = re.sub(r"\[.*?\]|= [\d.]+", "", line[0]).strip()
        if printed:  # names of merged cells are printed once
            assert row.method == METHODS[printed]
            assert printed in row.label


def test_rows_of_table_1_follow_the_ticks(paper: list[str]) -> None:
    for row, line in zip(TABLES["1"].rows[-3:], body(paper, "1")[-3:], strict=True):
        margin, contrast = ("✓" in mark or "checkmark" in mark for mark in line[1:3])
        assert row.method == "adacm"
        assert (row.options.get("unlabelled_weight", 1.0) != 0.0) == margin
        assert row.options.get("contrast", True) == contrast


def test_labels_of_the_columns(paper: list[str]) -> None:
    text = "\n".join(paper)
    line = next(line for line in paper if line.startswith("\t100 labels\t400 labels"))
    assert [column.id.split("-")[1] for column in TABLES["2"].columns] == re.findall(r"(\d+) labels", line)
    assert "Methou\t400\t1000\t4000" in text
    assert [column.id for column in TABLES["3"].columns] == ["rafdb-400", "rafdb-1000", "rafdb-4000"]
