"""What a row sets otherwise in its columns' splits and recipes, and columns that stand for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ferbench.protocols import ProtocolError, cells, load_protocol

PROTOCOL = """
paper = "tiny"
title = "t"
citation = "c"
version = 1

[recipes.short]
backbone = "a"
batch_size = 2
epochs = 1
steps_per_epoch = 1
lr = 1

[recipes.long]
extends = "short"
epochs = 9

[presets.paper]

[presets.cpu]
batch_size = 1

[datasets.faces]
reader = "synthetic"

[splits.clean]
kind = "fraction"
fraction = 1.0

[splits.noisy]
kind = "fraction"
fraction = 1.0
noise = 0.2

[[tables]]
id = "1"
caption = "c"
source = "s"
metrics = ["overall"]
seeds = [1]
absent = [{ why = "none" }]
columns = [
    { id = "one", label = "1", dataset = "faces", split = "clean", recipe = "short" },
    { id = "two", label = "2", dataset = "faces", split = "noisy", recipe = "long" },
    { id = "mean", label = "m", mean_of = ["one", "two"] },
    { id = "loss", label = "l", status = "published-only" },
]

[[tables.rows]]
id = "plain"
label = "p"
method = "vanilla"

[[tables.rows]]
id = "changed"
label = "c"
method = "vanilla"
split_options = { fraction = 0.05 }
recipe_options = { backbone = "b", batch_size = 5 }
"""


def load(tmp_path: Path, text: str = PROTOCOL) -> None:
    (tmp_path / "protocol.toml").write_text(text, encoding="utf-8")
    load_protocol(tmp_path)


def test_a_rows_options_change_every_columns_split_and_recipe(tmp_path: Path) -> None:
    load(tmp_path)
    one, two = cells(load_protocol(tmp_path), "1/changed/*")[:2]
    assert [(cell.split.fraction, cell.split.noise) for cell in (one, two)] == [(0.05, 0.0), (0.05, 0.2)]
    assert [(cell.recipe("paper").backbone, cell.recipe("paper").epochs) for cell in (one, two)] == [("b", 1), ("b", 9)]
    plain = cells(load_protocol(tmp_path), "1/plain/one")[0]
    assert (plain.split.fraction, plain.recipe("paper").backbone) == (1.0, "a")


def test_a_preset_stands_before_a_rows_options(tmp_path: Path) -> None:
    load(tmp_path)
    (cell,) = cells(load_protocol(tmp_path), "1/changed/one")
    assert (cell.recipe("paper").batch_size, cell.recipe("cpu").batch_size) == (5, 1)
    assert cell.recipe("cpu").backbone == "b"


def test_columns_that_stand_for_others_have_nothing_to_run(tmp_path: Path) -> None:
    load(tmp_path)
    chosen = cells(load_protocol(tmp_path), "1/plain")
    assert [cell.published_only for cell in chosen] == [False, False, True, True]


WRONG = {
    "split key of another kind": (
        "{ fraction = 0.05 }",
        "{ n1 = 5 }",
        "rows[changed].split_options: 'n1' does not belong",
    ),
    "split value": (
        "{ fraction = 0.05 }",
        "{ fraction = 2.0 }",
        "split_options.fraction: must be at most 1.0, got 2.0",
    ),
    "unknown split key": ("{ fraction = 0.05 }", "{ share = 1 }", "split_options: unknown key 'share'"),
    "recipe value": ("batch_size = 5 }", "batch_size = 0 }", "recipe_options.batch_size: must be at least 1, got 0"),
    "unknown recipe key": (
        '{ backbone = "b"',
        '{ backbon = "b"',
        "recipe_options: unknown key 'backbon'; did you mean",
    ),
    "mean of nothing": ('["one", "two"]', '["one", "tow"]', "columns[mean].mean_of: no 'tow'; did you mean 'two'?"),
    "mean of a mean": ('["one", "two"]', '["one", "mean"]', "columns[mean].mean_of: no 'mean'"),
    "unknown unit": ("epochs = 9", 'epoch_of = "pass"', "recipes.long.epoch_of: 'pass' is not known"),
}


@pytest.mark.parametrize(("old", "new", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert PROTOCOL.count(old) == 1
    with pytest.raises(ProtocolError) as caught:
        load(tmp_path, PROTOCOL.replace(old, new))
    assert expected in str(caught.value) and "\n" not in str(caught.value)
