"""Rows that a preset cannot tell apart: found in every paper, left out of plans and leaderboards, and only those."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.tables.counting.distinct import indistinct
from ferbench.bench.tables.planning.implemented import COMPARABLE, implemented
from ferbench.bench.tables.running.plan import make_plan
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.tables.settings import same_run, settings
from ferbench.methods import option_values
from ferbench.protocols import Cell, cells, load_protocol, protocol_names

RecordRun = Callable[..., str]
PRESETS = [(name, preset) for name in protocol_names() for preset in load_protocol(name).presets]
RESULTS = Path(__file__).parents[3] / "results"


@cache
def all_left_out(name: str, preset: str) -> dict[str, str]:
    return indistinct(cells(load_protocol(name)), preset)


def shared(name: str, preset: str) -> list[list[Cell]]:
    """The cells of one table and column that are one run although they are of one inference rule."""
    found: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells(load_protocol(name)):
        if not cell.published_only and implemented(cell):
            found[(cell.table.id, cell.column.id, cell.row.rule, same_run(settings(cell, preset, 0)))].append(cell)
    return [group for group in found.values() if len(group) > 1]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_no_two_rows_of_a_column_share_a_run_but_those_that_are_left_out(name: str, preset: str) -> None:
    groups = shared(name, preset)
    left_out = all_left_out(name, preset)
    assert {cell.id for group in groups for cell in group} == set(left_out)
    assert not (preset == COMPARABLE and groups)


def test_what_is_left_out() -> None:
    """Only tables that compare backbones, starting weights or rates; a change here is to be meant."""
    tables = {
        (name, preset): sorted({cell.split("/")[1] for cell in all_left_out(name, preset)}) for name, preset in PRESETS
    }
    of_ssfer = ["11", "16", "5", "6", "9"]
    assert {key: value for key, value in tables.items() if value} == {
        ("pll", "cpu"): ["5", "6", "7", "figure4"],
        ("pll", "cpu-vit"): ["7"],
        ("ssfer", "cpu"): of_ssfer, ("ssfer", "cpu-vit"): of_ssfer, ("ssfer", "cpu-mae"): of_ssfer,
    }  # fmt: skip


def test_small_counterparts() -> None:
    """Where a preset has one for a backbone or for starting weights, the rows differ in it."""
    chosen = cells(load_protocol("adacm"), "4/*/ckplus-100")
    backbones = {cell.row.id: cell.recipe("cpu").backbone for cell in chosen if not cell.published_only}
    assert {backbones["wrn-adacm"], backbones["resnet18-adacm"]} == {"resnet_narrow", "resnet_small"}
    without, with_weights = cells(load_protocol("pll"), "6/*/ferplus")
    assert (without.recipe("cpu-vit").weights, with_weights.recipe("cpu-vit").weights) == ("none", "maskfeat_tiny")


def test_a_plan_leaves_them_out_and_says_why(tmp_path: Path) -> None:
    """One row alone as well: what it shares its run with is still in the table."""
    plan = make_plan(
        cells(load_protocol("pll"), "5/maskfeat-pll/ferplus"), "cpu", 1, Workspace(tmp_path, tmp_path), None
    )
    ((_, reason),) = plan.left_out
    assert not plan.runs
    assert (
        reason == "preset cpu cannot tell it from resnet18-pll: it sets backbone, weights, layer_decay for all of them"
    )


def test_a_run_is_not_printed_under_several_rows_names(tmp_path: Path, record_run: RecordRun) -> None:
    """Table I's baseline has it, whose run no other row of its table shares; Table V's two rows, which do, do not."""
    run = record_run("pll/1/baseline/rafdb", 1, 70.0, preset="cpu")
    lines = [line for line in collect(tmp_path).lines if run in line.run_ids]
    assert {(line.table, line.row) for line in lines} == {("1", "baseline")}
    lost = record_run("pll/7/moco/ferplus", 1, 70.0, preset="cpu")
    (ignored,) = (item for item in collect(tmp_path).ignored if item.run_id == lost)
    assert ignored.reason.startswith("preset cpu cannot tell it from resnet18, simmim, mae, maskfeat")


def test_rows_of_one_model_s_several_predictions_share_its_runs(tmp_path: Path, record_run: RecordRun) -> None:
    run = record_run("remop/figure3/mixture/rafdb-2000-150", 1, 70.0)
    record = json.loads((tmp_path / "runs" / run / "record.json").read_text())
    record["metrics"]["last"]["linear/mean"] = 50.0
    (tmp_path / "runs" / run / "record.json").write_text(json.dumps(record))
    found = {
        line.row: line.measured_mean
        for line in collect(tmp_path).lines
        if line.table == "figure3" and run in line.run_ids and (line.metric, line.selection) == ("mean", "last")
    }
    assert found == {"mixture": 60.0, "linear": 50.0}


def test_the_committed_leaderboard_has_no_line_that_two_rows_share() -> None:
    seen: dict[Any, str] = {}
    rules = {
        (name, table.id, row.id): row.rule
        for name in protocol_names() for table in load_protocol(name).tables for row in table.rows
    }  # fmt: skip
    with (RESULTS / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["run_ids"]:
                rule = rules[(line["paper"], line["table"], line["row"])]
                key = (rule, *(line[name] for name in ("paper", "table", "column", "metric", "selection", "run_ids")))
                assert seen.setdefault(key, line["row"]) == line["row"], key


EPOCHS = {  # options that count epochs, and the value that means "not at all"
    "lion": ("relabel_epoch",), "scn": ("relabel_epoch",), "pll_fer": ("warmup_epochs",), "pico": ("prototype_epoch",),
    "comatch": ("from_epoch",), "progressive_teacher": ("forget_epochs",),
}  # fmt: skip


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_what_starts_after_some_epochs_starts_early_enough_to_matter(name: str, preset: str) -> None:
    """Under every preset in the first half of the run, or a preset would never come to what the method is about."""
    for cell in cells(load_protocol(name)):
        if cell.published_only or cell.method not in EPOCHS:
            continue
        spec, recipe = settings(cell, preset, 0), cell.recipe(preset)
        for option in EPOCHS[cell.method]:
            assert spec["options"][option] <= recipe.epochs / 2, (cell.id, option)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_dash_s_first_threshold_comes_early_and_falls_within_the_run(name: str, preset: str) -> None:
    """C rho after at most 5 % of the steps, under every preset that has the method; the floor before the end."""
    for cell in cells(load_protocol(name)):
        if cell.method == "dash":
            values, recipe = settings(cell, preset, 0)["options"], cell.recipe(preset)
            warm_up = max(1, round(values["warm_up"] * recipe.epochs * recipe.steps_per_epoch))
            assert warm_up <= 0.05 * recipe.epochs * recipe.steps_per_epoch
            assert values["warm_up"] + 14 * values["decay_every"] < 1  # from rho 1.2


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_averages_reach_back_over_a_small_part_of_a_run(name: str, preset: str) -> None:
    """1 / (1 - decay) steps: at most an eighth of the run, so that a shorter preset tests no network of its middle."""
    protocol = load_protocol(name)
    for key in protocol.recipes:
        recipe = protocol.recipe(key, preset)
        if recipe.ema and recipe.evaluate == "ema" and recipe.epoch_of == "steps":
            assert 1 / (1 - recipe.ema) <= recipe.epochs * recipe.steps_per_epoch / 8 + 1e-6, key


def test_a_preset_sets_methods_options_but_not_a_row_s() -> None:
    (row,) = cells(load_protocol("remop"), "4/remop/ferplus-1000-150")
    assert settings(row, "cpu", 0)["options"]["center_lr"] == 1e-2
    assert settings(row, "paper", 0)["options"]["center_lr"] is None
    (own,) = cells(load_protocol("pll"), "letter/first-step/ferplus")
    assert settings(own, "cpu", 0)["options"]["warmup_epochs"] == 0


@pytest.mark.parametrize("name", protocol_names())
def test_what_presets_set_in_methods_are_their_options(name: str) -> None:
    for methods in load_protocol(name).method_options.values():
        for method, options in methods.items():
            assert option_values(method, "paper", options)
