"""Runs of `ferbench train`, protocols of one's own, and names of runs: all on the board, none forgotten."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from ferbench.bench.board.leaderboard import Leaderboard, collect
from ferbench.bench.board.own import OWN, own_runs
from ferbench.bench.board.remembered import known_protocols, remember
from ferbench.bench.board.run_names import find_cells, find_folder, list_runs
from ferbench.bench.studies.plot_runs import find_runs
from ferbench.bench.training.recording.records import RunError
from ferbench.protocols import load_protocol, protocol_names, select
from tests.bench.board.conftest import Command, EvidentRun, edit

MINE = "own/1/fixmatch/synthetic-200-20"


def own_lines(board: Leaderboard) -> dict[str, tuple[int, ...]]:
    return {
        f"{line.row_label}|{line.column}": line.seeds
        for line in board.lines
        if line.paper == OWN and (line.metric, line.selection) == ("mean", "last")
    }


@pytest.fixture
def own_protocol(tmp_path: Path) -> Path:
    """A protocol folder of the user's own: the demo by another name, with a number."""
    folder = tmp_path / "elsewhere" / "own"
    shutil.copytree(load_protocol("demo").path.parent, folder)
    text = (folder / "protocol.toml").read_text(encoding="utf-8").replace('paper = "demo"', 'paper = "own"')
    (folder / "protocol.toml").write_text(text, encoding="utf-8")
    (folder / "table1.csv").write_text("row,column,metric,mean,std\nfixmatch,synthetic-200-20,overall,77.7,\n")
    return folder


def test_runs_of_train_are_tables_by_data_set_split_and_settings(tmp_path: Path, evident_run: EvidentRun) -> None:
    for seed in (1, 2):
        evident_run(own=True, seed=seed)
    options = {"threshold": 0.5, "unlabelled_weight": 1.0, "reduction": "mean"}
    evident_run(own=True, seed=1, options=options)
    other = {"kind": "total", "parameters": {"labels": 40}}
    evident_run("vanilla", own=True, split=other)
    evident_run(seed=3)  # made for the demo
    assert own_lines(collect(tmp_path)) == {
        "fixmatch threshold=0.95|long_tailed-200-20": (1, 2),
        "fixmatch threshold=0.5|long_tailed-200-20": (1,),
        "vanilla|total-40": (1,),
    }
    board = collect(tmp_path)
    of_demo = {line.seeds for line in board.lines if line.paper == "demo" and line.run_ids and line.selection == "last"}
    assert (1, 2, 3) in of_demo  # the demo's cell has the same settings
    protocol, _ = own_runs(tmp_path)
    assert protocol and [table.id for table in protocol.tables] == ["synthetic"]


def test_other_data_options_are_another_table(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run(own=True)
    evident_run(own=True, dataset={"reader": "synthetic", "options": {"scale": 1.0}})
    protocol, _ = own_runs(tmp_path)
    assert protocol and [table.id for table in protocol.tables] == ["synthetic", "synthetic-2"]


def test_of_two_runs_of_one_seed_the_one_that_finished_later_stands(tmp_path: Path, evident_run: EvidentRun) -> None:
    first, second = evident_run(own=True), evident_run(own=True, weights={"sha256": "other"}, right=0.9)
    edit(tmp_path / "runs" / first / "record.json", lambda record: record.update(finished_at="2027-01-01T00:00:00Z"))
    (found,) = [
        line
        for line in collect(tmp_path).lines
        if line.paper == OWN and (line.metric, line.selection) == ("mean", "last")
    ]
    assert found.run_ids == (first,) and second != first


def test_a_folder_whose_name_is_not_its_settings_is_no_run_of_yours(tmp_path: Path, evident_run: EvidentRun) -> None:
    name = evident_run(own=True)
    (tmp_path / "runs" / name).rename(tmp_path / "runs" / "renamed")
    assert own_runs(tmp_path) == (None, {})


def test_hostile_and_broken_folders_do_not_stop_the_board(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run(own=True)
    for name, spec in {"list": "[]", "text": '"x"', "half": '{"method": "fixmatch"}', "none": ""}.items():
        folder = tmp_path / "runs" / name
        folder.mkdir()
        (folder / "spec.json").write_text(spec)
        (folder / "record.json").write_text('{"status": "finished"}')
    assert len(own_lines(collect(tmp_path))) == 1


def test_a_protocol_from_a_path_is_remembered_and_stays_in_the_file(
    tmp_path: Path, evident_run: EvidentRun, own_protocol: Path, command: Command
) -> None:
    protocol = load_protocol(own_protocol)
    made_for = {"protocol": "own", "version": protocol.version, "hash": protocol.hash, "cell": MINE}
    evident_run(made_for=made_for)
    remember(protocol, tmp_path)
    remember(load_protocol("demo"), tmp_path)
    shutil.rmtree(own_protocol)
    assert [one.name for one in known_protocols(tmp_path)] == [*protocol_names(), "own"]
    assert command("leaderboard", "--results", str(tmp_path), "--paper", "demo") == 0
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        mine = [row for row in csv.DictReader(file) if row["paper"] == "own" and row["run_ids"]]
    assert {row["published_mean"] for row in mine if row["metric"] == "overall"} == {"77.70"}
    assert [cell.id for cell in find_cells(MINE, tmp_path)] == [MINE]
    assert [run.seed for run in find_runs(MINE, tmp_path)] == [1]


def test_a_newer_protocol_takes_the_place_of_the_older_copy(tmp_path: Path, own_protocol: Path) -> None:
    remember(load_protocol(own_protocol), tmp_path)
    path = own_protocol / "protocol.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("version = 2", "version = 7"), encoding="utf-8")
    remember(load_protocol(own_protocol), tmp_path)
    again = known_protocols(tmp_path)[-1]
    assert again.version == 7 and again.hash == load_protocol(own_protocol).hash
    remember(again, tmp_path)  # from the copy itself


def test_part_of_a_name_is_enough_and_an_ambiguous_one_says_so(tmp_path: Path, evident_run: EvidentRun) -> None:
    first, second = evident_run(seed=1), evident_run(seed=2)
    assert find_folder(first, tmp_path) == tmp_path / "runs" / first
    assert find_folder(first[-8:], tmp_path) == tmp_path / "runs" / first
    assert find_folder(second[-5:], tmp_path) == tmp_path / "runs" / second
    assert find_folder(first[:-3], tmp_path) == tmp_path / "runs" / first
    assert find_folder(str(tmp_path / "runs" / first), tmp_path) == tmp_path / "runs" / first
    assert find_folder("xyz", tmp_path) is find_folder("nothing-like-it", tmp_path) is None
    with pytest.raises(RunError, match="may be 2 runs"):
        find_folder("synthetic-long_tailed", tmp_path)
    assert find_runs(first[-8:], tmp_path)[0].folder.name == first


def test_list_of_runs_with_states_and_short_names(
    tmp_path: Path, evident_run: EvidentRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    done, broken, begun = evident_run(seed=1), evident_run(seed=2), evident_run("vanilla", seed=3)
    (tmp_path / "runs" / broken / "record.json").write_text("{")
    (tmp_path / "runs" / begun / "record.json").unlink()
    states = {run.folder.name: run.state for run in list_runs(tmp_path)}
    assert states == {done: "finished", broken: "damaged", begun: "begun"}
    assert command("runs", "vanilla", "--results", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert begun in printed and done not in printed and printed.endswith("1 runs\n")
    assert all(len(run.short) == 8 for run in list_runs(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("leaderboard", "--results"),
        ("runs", "--results"),
        ("verify",),
        ("compare", "a", "b", "--results"),
    ],
)
def test_a_results_folder_that_is_not_there_is_an_error_and_is_not_made(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert command(*arguments, str(tmp_path / "nope")) == 2
    assert "nope: no such results folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_cells_of_nobody_are_named(tmp_path: Path) -> None:
    assert [cell.id for cell in find_cells("demo/1/fixmatch/synthetic-200-20", tmp_path)] == [
        select("demo/1/fixmatch/synthetic-200-20")[0].id
    ]
