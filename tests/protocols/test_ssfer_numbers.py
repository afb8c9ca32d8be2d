"""SSFER's published numbers against the paper: its tables where the text is at hand, its own sentences always."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest

from ferbench.bench.training.length import fitted
from ferbench.methods import METHODS, option_values
from ferbench.protocols import Recipe, Table, load_protocol

PROTOCOL = load_protocol("ssfer")
TABLES = {table.id: table for table in PROTOCOL.tables}
PRINTED = {
    "1": 0, "2": 87, "3": 96, "4": 0, "5": 96, "6": 57, "7": 48, "8": 90, "9": 156, "10": 48, "11": 0, "12": 0,
    "13": 24, "14": 48, "15": 48, "16": 24, "figure7": 6, "ferplus": 0,
}  # fmt: skip
LOST = ("1", "4", "11", "12")
RAFDB, FERPLUS, AFFECTNET7, AFFECTNET8 = (12_271, 28_386, 283_901, 287_651)


def number(table: str, row: str, column: str, metric: str = "overall") -> float:
    return TABLES[table].published[(row, column, metric)].mean


def line(table: str, row: str) -> dict[str, float]:
    return {column.id: number(table, row, column.id) for column in TABLES[table].columns}


@pytest.mark.parametrize("name", PRINTED)
def test_count_of_published_numbers(name: str) -> None:
    table = TABLES[name]
    assert len(table.published) == PRINTED[name]
    cells = len(table.rows) * len(table.columns) * len(table.metrics)
    assert (len(table.published) == cells) != bool(table.absent)


def test_every_table_is_there_and_four_are_lost() -> None:
    assert list(TABLES)[:16] == [str(n) for n in range(1, 17)]
    assert sum(len(table.published) for table in TABLES.values()) == sum(PRINTED.values()) == 828
    for name in LOST:
        assert "missing from the text" in TABLES[name].absent[0].why
        assert TABLES[name].rows and TABLES[name].columns


def test_numbers_are_in_range_and_without_deviation() -> None:
    for table in TABLES.values():
        for (_, column, metric), value in table.published.items():
            assert value.std is None
            if column.endswith("decline"):
                assert 0 < value.mean < 20
            elif metric == "overall" or metric.startswith("recall"):
                assert 15 < value.mean < 97


def test_headlines_of_the_abstract() -> None:
    assert number("2", "ssfer-5", "affectnet7") == 64.02
    assert number("2", "ssfer-25", "rafdb") == 88.23


@pytest.mark.parametrize(("table", "row"), [("13", "facemix"), ("15", "l4"), ("16", "ssfer"), ("14", "iou")])
def test_ablations_repeat_table_10_but_for_two_printed_cells(table: str, row: str) -> None:
    whole, again = line("10", "ssfer"), line(table, row)
    differing = {column for column in whole if whole[column] != again[column]}
    assert differing == ({"ferplus-10", "affectnet7-5"} if table == "14" else set())
    assert all(abs(whole[column] - again[column]) < 0.011 for column in whole)


def test_tables_2_6_7_and_8_repeat_table_10() -> None:
    whole = line("10", "ssfer")
    for column, value in whole.items():
        dataset, share = column.split("-")
        assert number("2", f"ssfer-{share}", dataset) == value
        if dataset in ("rafdb", "ferplus"):
            assert number("8", f"ssfer-{share}", f"{dataset}-noise0") == value
        if dataset == "rafdb":
            assert number("6", f"ssfer-{share}", "rafdb") == value
    for column, share in (("rafdb", "25"), ("ferplus", "25"), ("affectnet7", "10"), ("affectnet8", "10")):
        for region in ("focused", "unfocused"):
            assert number("7", "ssfer", column, f"{region}-0") == whole[f"{column}-{share}"]


def test_section_4_5_fixmatch_leads_at_10_labels_and_is_surpassed_later() -> None:
    rows = [row.id for row in TABLES["3"].rows]
    assert max(rows, key=lambda row: number("3", row, "rafdb-10")) == "fixmatch"
    assert number("3", "fixmatch", "rafdb-10") == 63.25
    for column in (column.id for column in TABLES["3"].columns if column.id != "rafdb-10"):
        assert max(rows, key=lambda row: number("3", row, column)) == "ssfer"


@pytest.mark.parametrize("name", ["5", "9"])
def test_averages_are_those_of_the_folds(name: str) -> None:
    table = TABLES[name]
    wrong = set()
    for row in table.rows:
        for column in (column for column in table.columns if column.mean_of):
            assert len(column.mean_of) == 5
            average = sum(number(name, row.id, fold) for fold in column.mean_of) / 5
            if abs(average - number(name, row.id, column.id)) > 0.0051:
                wrong.add((row.id, column.id))
    assert wrong == ({("ssfer-5", "age-average")} if name == "9" else set())


def test_section_4_6_a_quarter_of_the_labels_beats_vit_large_with_all_on_rafdb_alone() -> None:
    assert number("5", "ssfer-25", "rafdb-average") > number("5", "vit-large", "rafdb-average")
    assert number("5", "ssfer-25", "ferplus-average") < number("5", "vit-large", "ferplus-average")


def test_section_4_7_on_all_sides() -> None:
    ours, large = ([number("6", row, "rafdb", m) for m in TABLES["6"].metrics] for row in ("ssfer-25", "vit-large"))
    assert ours[0] < large[0] and ours[1] < large[1] and ours[2] > large[2]


def test_section_4_8_attacks_on_focused_regions_cost_more() -> None:
    epsilons = [metric.removeprefix("focused-") for metric in TABLES["7"].metrics if metric.startswith("focused")]
    assert epsilons == ["0", "0.02", "0.04", "0.06", "0.08", "0.10"]
    for column in TABLES["7"].columns:
        for region in ("focused", "unfocused"):
            falling = [number("7", "ssfer", column.id, f"{region}-{epsilon}") for epsilon in epsilons]
            assert all(before > after for before, after in pairwise(falling))
        for epsilon in epsilons[1:]:
            names = (f"focused-{epsilon}", f"unfocused-{epsilon}")
            focused, unfocused = (number("7", "ssfer", column.id, name) for name in names)
            assert focused < unfocused


def test_section_4_8_declines_and_the_least_of_them() -> None:
    for dataset in ("rafdb", "ferplus"):
        declines = {}
        for row in TABLES["8"].rows:
            clean, noisy = (number("8", row.id, f"{dataset}-noise{share}") for share in (0, 30))
            declines[row.id] = number("8", row.id, f"{dataset}-decline")
            assert declines[row.id] == pytest.approx(clean - noisy, abs=1e-9)
        assert min(declines, key=lambda row: declines[row]) == "ssfer-25"


def test_section_4_8_other_tasks() -> None:
    for task in ("gender", "age"):
        assert number("9", "ssfer-25", f"{task}-average") > number("9", "vit-large", f"{task}-average")


def test_section_4_9_each_component_helps_and_both_help_most() -> None:
    for column in (column.id for column in TABLES["10"].columns):
        baseline, facemix, teacher, whole = (number("10", row.id, column) for row in TABLES["10"].rows)
        assert baseline < min(facemix, teacher) and max(facemix, teacher) < whole
        assert baseline < number("13", "mixup", column) < number("13", "facemix", column)


@pytest.mark.parametrize(("table", "best"), [("14", "iou"), ("15", "l4")])
def test_section_4_9_best_coefficient_and_loss(table: str, best: str) -> None:
    for column in (column.id for column in TABLES[table].columns):
        assert max((row.id for row in TABLES[table].rows), key=lambda row: number(table, row, column)) == best


def test_section_4_9_tuning_helps_but_on_two_columns_of_ferplus() -> None:
    gains = {column: value - line("16", "ssfer")[column] for column, value in line("16", "ssfer-gwo").items()}
    assert {column for column, gain in gains.items() if gain <= 0} == {"ferplus-10", "ferplus-25"}


def test_section_4_3_values_of_figure_7_are_stored_as_printed() -> None:
    metrics = TABLES["figure7"].metrics
    assert [number("figure7", "ssfer", "rafdb", metric) for metric in metrics] == [95.70, 88.53, 90.38]
    assert [number("figure7", "dcjt", "rafdb", metric) for metric in metrics] == [87.35, 93.92, 84.31]


def paper_recipe(name: str) -> Recipe:
    return PROTOCOL.recipe(name, "paper")


def test_recipes_are_section_4_2() -> None:
    b, c = paper_recipe("finetune"), paper_recipe("semi")
    assert (b.epochs, b.warmup_epochs, b.lr, b.min_lr, b.warmup_lr, b.batch_size) == (100, 5, 1e-4, 1e-5, 5e-5, 32)
    assert (b.few_labels, b.few_epochs) == (500, 1000)
    assert (c.epochs, c.lr, c.batch_size, c.schedule) == (50, 1.5e-4, 64, "constant")
    assert {(r.backbone, r.input_size, r.augmentation) for r in (b, c)} == {("vit_base", 224, "resized_crop")}
    assert {(r.optimizer, r.weight_decay, r.beta1, r.beta2) for r in (b, c)} == {("adamw", 0.05, 0.9, 0.95)}


def test_the_released_recipes_are_the_preset_of_that_name() -> None:
    """fine-tune.py at 9634177; stage c is what the text leaves open and the paper preset already takes from there."""
    for name in ("finetune", "finetune-supervised", "finetune-mae-imagenet", "finetune-gwo"):
        ours, theirs = paper_recipe(name), PROTOCOL.recipe(name, "released")
        changed = {key: value for key, value in vars(theirs).items() if value != vars(ours)[key]}
        assert changed == {
            **({} if name == "finetune-gwo" else {"lr": 1.5e-4}), "few_labels": 0, "few_epochs": 0,
            "schedule": "cosine_per_epoch", "cosine_epochs": 50, "ema": 0.999, "evaluate": "ema",
        }  # fmt: skip
        assert fitted(theirs, 123, RAFDB).epochs == theirs.epochs == 100
    for name in ("semi", "general", "general-mu7"):
        assert PROTOCOL.recipe(name, "released") == paper_recipe(name)


def test_table_12_changes_the_teacher_alone() -> None:
    fixmatch, teacher = TABLES["12"].rows
    assert fixmatch.after == teacher.after and fixmatch.recipe == teacher.recipe
    theirs = option_values("ssfer", "paper", teacher.options)
    ours = option_values("fixmatch", "paper", fixmatch.options)
    assert theirs["teacher"] is True
    assert [ours[key] for key in ("threshold", "unlabelled_weight")] == [0.7, 5.0]
    assert [theirs[key] for key in ("threshold", "unlabelled_weight")] == [0.7, 5.0]


def test_tuned_rates_are_section_4_9() -> None:
    tuned = paper_recipe("finetune-gwo")
    assert (tuned.lr, tuned.min_lr, tuned.warmup_lr) == (1.23e-4, 3.29e-5, 3.69e-5)


def test_lengths_follow_from_the_data_and_the_stated_steps_are_rafdbs_at_5_percent() -> None:
    labelled, unlabelled = 613, RAFDB - 613
    for name in ("finetune", "semi"):
        recipe = paper_recipe(name)
        assert fitted(recipe, labelled, unlabelled).steps_per_epoch == recipe.steps_per_epoch
    few = fitted(paper_recipe("finetune"), 491, RAFDB - 491)
    assert (few.epochs, few.steps_per_epoch) == (1000, 15)
    assert fitted(paper_recipe("semi"), 491, RAFDB - 491).epochs == 50


@pytest.mark.parametrize(
    ("preset", "steps", "network"),
    [
        ("cpu", 3000, ("resnet_small", "none")),
        ("cpu-vit", 1500, ("vit_tiny", "none")),
        ("cpu-mae", 1500, ("vit_tiny", "mae_tiny")),
    ],
)
def test_small_presets_have_as_many_steps_whatever_the_data(preset: str, steps: int, network: tuple[str, str]) -> None:
    for name in PROTOCOL.recipes:
        recipe = fitted(PROTOCOL.recipe(name, preset), 1000, 20_000)
        assert recipe.epochs * recipe.steps_per_epoch == steps
        assert (recipe.backbone, recipe.weights) == network


def test_data_sets_have_the_stated_sizes() -> None:
    """Section 4.1's, but for FERPlus, whose rows are counted there and whose images under the rule here."""
    sizes = {name: dataset.images for name, dataset in PROTOCOL.datasets.items()}
    adience = {"adience-gender": 11_030, "adience-age": 9_848}  # five fourths of Table 9's 8,824 and 7,878
    stated = {"rafdb": RAFDB, "ferplus": FERPLUS, "affectnet7": AFFECTNET7, "affectnet8": AFFECTNET8}
    assert sizes == stated | adience | {"drawn": 0}  # drawn faces have no stated number
    assert [round(0.8 * images) for images in adience.values()] == [8_824, 7_878]


def test_printed_label_counts_are_four_fifths_of_what_section_4_1_counts() -> None:
    """9,817 of RAF-DB, and 22,967 of the 28,709 rows of FERPlus, which no label rule keeps."""
    assert (round(0.8 * RAFDB), round(0.8 * 28_709)) == (9_817, 22_967)
    assert round(0.8 * FERPLUS) != 22_967


def test_rows_share_their_first_stage() -> None:
    """The complete method of seven tables is one pair of runs."""
    whole = [("2", "ssfer-5"), ("10", "ssfer"), ("13", "facemix"), ("14", "iou"), ("15", "l4"), ("16", "ssfer")]
    rows = [next(row for row in TABLES[table].rows if row.id == name) for table, name in whole]
    assert len({(row.method, str(row.options), str(row.after)) for row in rows}) == 1
    assert rows[0].split_options == {"fraction": 0.05}


def test_a_first_stages_options_are_its_methods() -> None:
    stages = {str(row.after): row.after for table in TABLES.values() for row in table.rows if row.after}
    assert len(stages) == 12
    for stage in stages.values():
        assert stage.recipe in PROTOCOL.recipes
        if stage.method in METHODS:
            values = option_values(stage.method, "paper", stage.options)
            assert {key: values[key] for key in stage.options} == dict(stage.options)


@pytest.fixture(scope="module")
def paper() -> list[str]:
    root = os.environ.get("FERBENCH_PAPERS_ROOT")
    if not root:
        pytest.skip("FERBENCH_PAPERS_ROOT is not set: the folder that holds ssfer.txt")
    return (Path(root) / "ssfer.txt").read_text(encoding="utf-8").splitlines()


HEADERS = {
    "2": "Method\tRAF-DB\tFERPlus\tAffectNet-7\tAffectNet-8",
    "3": "Method\t\t\tRAF-DB",
    "5": "Dataset\tMethod\tLabels\tFold",
    "6": "Method\tLabels\tParams",
    "7": "Attack regions\t",
    "8": "Dataset\tMethod\tLabels\t\tLabel Noise",
    "9": "Task\tMethod\tLabels",
    **{name: f"Table {name}:" for name in ("10", "13", "14", "15", "16")},
}
ENDS = {**{name: f"Table {name}:" for name in ("2", "5", "6", "9")}, "7": "Experiments on", "8": "Experiments on"}


def body(paper: list[str], name: str) -> list[list[str]]:
    """The cells of a printed table's lines that hold figures, without its header."""
    start = next(i for i, text in enumerate(paper) if text.startswith(HEADERS[name]))
    end = ENDS.get(name, "Table ")
    stop = next(i for i in range(start + 1, len(paper)) if paper[i].startswith((end, "5. Discussion")))
    return [text.split("\t") for text in paper[start + 1 : stop] if re.search(r"\d\d[. ]?\d", text) and "\t" in text]


def figures(cells: list[str]) -> list[float]:
    """Numbers with two decimals; those whose decimal point the text lost are given it back."""
    found = re.findall(r"(?<![\d.])(\d\d?)[. ]?(\d\d)(?!\d)", "\t".join(cells))
    return [float(f"{whole}.{rest}") for whole, rest in found]


def stored(table: Table, row: str, columns: list[str] | None = None) -> list[float]:
    names = columns or [column.id for column in table.columns]
    found = (table.published.get((row, column, metric)) for column in names for metric in table.metrics)
    return [value.mean for value in found if value]


@pytest.mark.parametrize("name", ["2", "3"])
def test_methods_in_paper_order(paper: list[str], name: str) -> None:
    table = TABLES[name]
    lines = [cells for cells in body(paper, name) if "labels" not in "".join(cells)]
    printed = [figures(cells[1:]) for cells in lines]
    assert [stored(table, row.id) for row in table.rows] == printed
    for row, cells in zip(table.rows, lines, strict=True):
        label = re.sub(r"\$|\\|\[.*?\]|\(ours\)", "", cells[0]).replace(" ", "")
        assert label.casefold() == re.sub(r"\(ours\)", "", row.label, flags=re.IGNORECASE).replace(" ", "").casefold()


def test_columns_of_table_2_where_a_cell_is_empty(paper: list[str]) -> None:
    """The figures stand in the printed columns, not merely in the printed order."""
    for row, cells in zip(TABLES["2"].rows, body(paper, "2"), strict=True):
        printed = {c.id: figures([cell]) for c, cell in zip(TABLES["2"].columns, cells[1:], strict=True)}
        for column, values in printed.items():
            assert stored(TABLES["2"], row.id, [column]) == values


@pytest.mark.parametrize(
    ("name", "halves"), [("5", ("rafdb", "ferplus")), ("8", ("rafdb", "ferplus")), ("9", ("gender", "age"))]
)
def test_tables_in_two_blocks(paper: list[str], name: str, halves: tuple[str, str]) -> None:
    table, lines = TABLES[name], [cells for cells in body(paper, name) if len(cells) > 7]
    assert len(lines) == 2 * len(table.rows)
    for half, block in zip(halves, (lines[: len(table.rows)], lines[len(table.rows) :]), strict=True):
        columns = [column.id for column in table.columns if column.id.startswith(half)]
        for row, cells in zip(table.rows, block, strict=True):
            assert stored(table, row.id, columns) == figures(cells[3:])
            assert re.sub(r"[X√✗✓ ]", "", row.label) == re.sub(r"[X√ ]", "", cells[1])


def test_table_6(paper: list[str]) -> None:
    table = TABLES["6"]
    for row, cells in zip(table.rows, body(paper, "6"), strict=True):
        assert stored(table, row.id) == [float(cell) for cell in cells[2:]]
        assert row.label == cells[0].replace("$", "")


def test_table_7(paper: list[str]) -> None:
    lines = body(paper, "7")
    assert len(lines) == 8
    for column, focused, unfocused in zip(TABLES["7"].columns, lines[:4], lines[4:], strict=True):
        assert stored(TABLES["7"], "ssfer", [column.id]) == figures(focused[3:]) + figures(unfocused[3:])
        assert column.label.split(" ")[0] == focused[2] == unfocused[2]
        assert column.label.split(" ")[1] in focused[1].replace("\\", "")


@pytest.mark.parametrize("name", ["10", "13", "14", "15"])
def test_ablations_in_paper_order(paper: list[str], name: str) -> None:
    printed = [values for cells in body(paper, name) if len(values := figures(cells)) == 12]
    assert [stored(TABLES[name], row.id) for row in TABLES[name].rows] == printed


def test_table_16_whose_two_lines_the_text_runs_together(paper: list[str]) -> None:
    ((cells),) = [cells for cells in body(paper, "16") if len(figures(cells)) == 24]
    printed = figures(cells)
    assert [stored(TABLES["16"], row.id) for row in TABLES["16"].rows] == [printed[::2], printed[1::2]]
