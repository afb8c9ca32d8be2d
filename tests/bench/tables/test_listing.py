"""What `ferbench list protocols` says: runs, implemented rows, and an estimate of what the runs would cost."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from ferbench.bench.tables.planning import hours, listing
from ferbench.bench.tables.planning.hours import forward_flop, gpu_hours, table_hours
from ferbench.bench.tables.planning.measured import Known
from ferbench.protocols import Cell, cells, load_protocol, protocol_names, select
from ferbench.protocols.schema import Stage


def test_operations_of_the_small_network_counted_by_hand() -> None:
    """Convolutions and the head at 48 pixels; a multiply-add is two operations, normalisation is not counted."""
    total, side, inputs = 0, 24, 16
    total += 9 * 3 * 16 * side**2  # stem, stride 2
    for width, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        side //= stride
        total += 9 * (inputs * width + width * width) * side**2
        total += inputs * width * side**2 if stride == 2 else 0  # shortcut
        inputs = width
    total += 128 * 7
    assert forward_flop("resnet_small", 48) == 2 * total


def test_resnet18_at_224_pixels_is_the_literatures_1_8_billion_multiply_adds() -> None:
    assert forward_flop("resnet18", 224) / 2 == pytest.approx(1.8136e9, rel=1e-3)


def test_hours_of_one_run_by_hand() -> None:
    recipe = load_protocol("adacm").recipe("resnet18", "paper")
    flop = forward_flop("resnet18", 224)
    assert gpu_hours(recipe, True) == pytest.approx(20 * 800 * 48 * 3 * flop / 12e12 / 3600)
    assert gpu_hours(recipe, False) == pytest.approx(gpu_hours(recipe, True) / 3)
    assert gpu_hours(replace(recipe, mu=5), True) == pytest.approx(gpu_hours(recipe, True) * 11 / 3)


def test_no_step_is_shorter_than_its_launches() -> None:
    recipe = load_protocol("adacm").recipe("resnet18", "cpu")
    assert gpu_hours(recipe, True) == pytest.approx(recipe.epochs * recipe.steps_per_epoch * 0.0025 / 3600)


def test_hours_of_tests_are_those_of_the_epochs_that_are_scored() -> None:
    """Student and average after each of 20 epochs; after every 104th of 1,000 epochs of 3 steps, and the last."""
    recipe = replace(load_protocol("adacm").recipe("resnet18", "paper"), ema=0.999)
    one = forward_flop("resnet18", 224) / 12e12 / 3600
    assert gpu_hours(recipe, True, 3000) - gpu_hours(recipe, True) == pytest.approx(20 * 2 * 3000 * one)
    long = replace(recipe, epochs=1000, steps_per_epoch=3, ema=0.0, batch_size=32)
    assert gpu_hours(long, False, 3000) - gpu_hours(long, False) == pytest.approx(10 * 3000 * one)


def test_hours_of_a_table_are_those_of_its_runs() -> None:
    chosen = select("adacm/1")
    recipe = chosen[0].recipe("paper")
    one, supervised = gpu_hours(recipe, True), gpu_hours(recipe, False)
    assert table_hours(chosen) == pytest.approx(5 * 2 * (7 * one + supervised))  # seeds, columns, rows


def test_a_run_that_rows_start_from_counts_once() -> None:
    first, second = select("adacm/1/margin/rafdb-100") + select("adacm/1/adacm/rafdb-100")
    stage = Stage("vanilla", unlabelled=(), after=Stage("fixmatch", recipe="affectnet"))
    both = [Cell(cell.protocol, cell.table, replace(cell.row, after=stage), cell.column) for cell in (first, second)]
    one, supervised = gpu_hours(first.recipe("paper"), True), gpu_hours(first.recipe("paper"), False)
    assert table_hours(both) == pytest.approx(5 * (2 * one + supervised + one))


def test_the_table_of_operations_is_what_counting_gives_and_covers_every_protocol() -> None:
    """The list of protocols does not wait for torch because flop.csv has what it would count."""
    with Path(hours.__file__).with_name("flop.csv").open(newline="") as file:
        table = {(row["backbone"], int(row["size"])): int(row["flop"]) for row in csv.DictReader(file)}
    assert table == {key: hours.counted_flop(*key) for key in table}
    wanted = {
        (cell.recipe("paper").backbone, cell.recipe("paper").input_size)
        for name in protocol_names()
        if "paper" in load_protocol(name).presets
        for cell in cells(load_protocol(name))
        if not cell.published_only
    }
    assert wanted <= table.keys()


def test_list_of_protocols(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ada-CM's Table 1 with every method and without; the demo has no paper's recipe and so no estimate."""
    without = {name: None for name in ("vanilla", "fixmatch")}
    monkeypatch.setattr("ferbench.bench.tables.planning.implemented.METHODS", without)
    lines = {line.split()[0]: line for line in listing.protocols(None, tmp_path)}
    estimate = f"{table_hours(select('adacm/1')):.0f}"
    assert lines["adacm/1"].endswith(
        f"8 rows x 2 columns, 40 runs (40 more not implemented), about {estimate} GPU-hours"
    )
    assert lines["demo/1"].endswith("3 rows x 2 columns, 8 runs (4 more not implemented)")
    assert "80 runs (200 more not implemented)" in lines["adacm/2"]  # published-only rows need no run


def test_hours_are_scaled_by_what_runs_took_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tenth of the model's, and it is said which of the two it was."""
    assert list(listing.protocols(None, tmp_path))[-2] == ("GPU-hours: a model's estimate, an order of magnitude")
    monkeypatch.setattr(listing, "on_a_gpu", lambda results: Known("NVIDIA H200", 12, {}, 0.1))
    lines = list(listing.protocols(None, tmp_path))
    assert lines[-2] == "GPU-hours: scaled by what 12 finished runs took on NVIDIA H200"
    first = next(line for line in lines if line.startswith("adacm/1"))
    assert first.endswith(f"about {table_hours(select('adacm/1')) / 10:.0f} GPU-hours")
    assert any("by row (scaled by what 12 finished" in line for line in listing.protocols_card("adacm", tmp_path))


def test_a_card_says_what_each_row_would_cost(tmp_path: Path) -> None:
    """The rows' hours are the table's; the demo has no paper's recipe."""
    lines = list(listing.protocols_card("adacm", tmp_path))
    costs = lines[lines.index(next(line for line in lines if line.startswith("adacm/1:"))) + 3]
    by_row = [part.split() for part in costs.partition(": ")[2].split(", ")]
    assert [row for row, _ in by_row] == [row.id for row in load_protocol("adacm").tables[0].rows]
    assert sum(float(hours) for _, hours in by_row) == pytest.approx(table_hours(select("adacm/1")), abs=4)
    assert not any("GPU-hours" in line for line in listing.protocols_card("demo", tmp_path))
