"""Runs that start after other runs: found once, finished first, and their network taken over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.tables.counting.counted import counted_runs
from ferbench.bench.tables.running import reproduce
from ferbench.bench.tables.running.plan import Plan, make_plan
from ferbench.bench.tables.running.reproduce import claimed, execute, finished
from ferbench.bench.tables.runs import Workspace, resolve_cell
from ferbench.bench.tables.settings import settings
from ferbench.bench.training.networks.backbones import WeightsError, make_classifier
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.stages import Start, finished_start, load_stage
from ferbench.bench.training.state import Run, make_state
from ferbench.bench.training.steps.sums import Sums
from ferbench.protocols import Protocol, ProtocolError, cells, load_protocol

ROWS = """
[[tables.rows]]
id = "direct"
label = "teacher alone"
method = "ssfer"

[[tables.rows]]
id = "staged"
label = "teacher after Mixup"
method = "ssfer"
after = { method = "ssfer", options = { mix = "mixup", teacher = false }, recipe = "short" }

[[tables.rows]]
id = "other"
label = "FixMatch after the same"
method = "fixmatch"
after = { method = "ssfer", options = { mix = "mixup", teacher = false }, recipe = "short" }

[[tables.rows]]
id = "third"
label = "a third stage"
method = "vanilla"
[tables.rows.after]
method = "vanilla"
after = { method = "ssfer", options = { mix = "mixup", teacher = false }, recipe = "short" }

[[tables.columns]]
id = "only"
label = "N1=20"
dataset = "synthetic"
split = "200-20"
recipe = "synthetic"
"""

SHORT = """
[recipes.short]
extends = "synthetic"
epochs = 1
ema = 0.0
evaluate = "student"

[presets.cpu]
"""


@pytest.fixture
def protocol(tiny_protocol: Path) -> Protocol:
    """The tiny protocol with rows that start after other runs, and one column."""
    path = tiny_protocol / "protocol.toml"
    text = path.read_text(encoding="utf-8").replace("[presets.cpu]\n", SHORT)
    path.write_text(text[: text.index("[[tables.rows]]")] + ROWS, encoding="utf-8")
    return load_protocol(tiny_protocol)


@pytest.fixture
def workspace(tmp_path: Path, drawn_faces: Path) -> Workspace:
    return Workspace(tmp_path / "results", drawn_faces)


def resolved(protocol: Protocol, row: str, workspace: Workspace, seed: int = 1) -> Run:
    (cell,) = cells(protocol, f"1/{row}")
    return resolve_cell(cell, "cpu", seed, workspace)


def test_the_earlier_run_has_the_same_data_and_split(protocol: Protocol, workspace: Workspace) -> None:
    run = resolved(protocol, "staged", workspace)
    assert run.before is not None and run.before.before is None
    assert run.before.method == "ssfer" and run.before.values["mix"] == "mixup"
    assert run.before.recipe.epochs == 1 and run.recipe.epochs == 2
    for part in ("dataset", "test", "split", "unlabelled", "preset", "seed"):
        assert run.before.spec[part] == run.spec[part], part
    assert run.spec["after"]["hash"] == records.spec_hash(run.before.spec)
    assert run.before.spec["made_for"]["cell"] == "tiny/1/staged.before/only"
    assert json.loads(json.dumps(run.spec)) == run.spec


def test_the_identity_of_a_run_includes_the_one_before(protocol: Protocol, workspace: Workspace) -> None:
    """Rows that differ in nothing but what they start from are different runs; the same start is one run."""
    direct, staged = (resolved(protocol, row, workspace) for row in ("direct", "staged"))
    assert "after" not in direct.spec
    assert {key: value for key, value in staged.spec.items() if key not in ("after", "made_for")} == {
        key: value for key, value in direct.spec.items() if key != "made_for"
    }
    assert workspace.folder(direct) != workspace.folder(staged)
    other = resolved(protocol, "other", workspace)
    assert staged.before and other.before
    assert workspace.folder(staged.before) == workspace.folder(other.before)
    second = resolved(protocol, "staged", workspace, seed=2)
    assert second.before and workspace.folder(second.before) != workspace.folder(staged.before)


def test_a_plan_holds_each_stage_once_and_before_what_starts_from_it(protocol: Protocol, workspace: Workspace) -> None:
    plan = make_plan(cells(protocol), "cpu", 2, workspace, None)
    folders = [workspace.folder(run) for _, _, run in plan.runs]
    assert len(folders) == len(set(folders)) == 2 * 6  # four cells, the shared first stage, the third's second stage
    for _, _, run in plan.runs:
        assert run.before is None or folders.index(workspace.folder(run.before)) < folders.index(workspace.folder(run))


def test_a_run_starts_with_the_network_the_one_before_ended_with(protocol: Protocol, workspace: Workspace) -> None:
    (cell,) = cells(protocol, "1/staged")
    execute(make_plan([cell], "cpu", 1, workspace, None), workspace)
    run = resolved(protocol, "staged", workspace)
    assert run.before and finished(workspace.folder(run))
    trained = torch.load(workspace.folder(run.before) / "checkpoint.pt", weights_only=True)["method"]
    state = make_state(run, torch.device("cpu"), Silent()).method.state_dict()
    network = {key: value for key, value in trained.items() if key.startswith("model.")}
    assert network
    for key, value in network.items():
        assert torch.equal(state[key], value), key
        assert torch.equal(state[f"teacher.{key}"], value), key  # the teacher starts as the student of stage (b)


def test_a_kill_between_and_inside_the_stages(
    protocol: Protocol, workspace: Workspace, tmp_path: Path, drawn_faces: Path
) -> None:
    """Killed in the first stage, then in the second: both end with the weights of an undisturbed pair."""
    (cell,) = cells(protocol, "1/staged")
    plan = make_plan([cell], "cpu", 1, workspace, None)

    def life(steps: int) -> None:
        child = os.fork()
        if child == 0:
            calls = [0]
            original = Sums.add

            def counted(*args: Any) -> None:
                calls[0] += 1
                if calls[0] == steps:
                    os.kill(os.getpid(), signal.SIGKILL)
                original(*args)

            Sums.add = counted  # type: ignore[method-assign]
            execute(plan, workspace)
            os._exit(0)
        os.waitpid(child, 0)

    first, second = plan.runs[0][2], plan.runs[1][2]
    life(1)  # in the only epoch of two steps
    assert not finished(workspace.folder(first))
    life(3)  # the first stage is done, the second dies in its first step
    assert finished(workspace.folder(first)) and not finished(workspace.folder(second))
    life(4)  # in the second epoch
    assert not finished(workspace.folder(second))
    life(100)
    calm = Workspace(tmp_path / "calm", drawn_faces)
    execute(make_plan([cell], "cpu", 1, calm, None), calm)
    for run in (first, second):
        ours, theirs = (
            torch.load(space.folder(run) / "checkpoint.pt", weights_only=True)["method"] for space in (workspace, calm)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_stage_whose_weights_are_gone_is_done_again_where_it_is_needed(
    protocol: Protocol, workspace: Workspace
) -> None:
    """A record alone, as a repository ships it, is enough for the table and not for what starts from the run."""
    (cell,) = cells(protocol, "1/staged")
    plan = make_plan([cell], "cpu", 1, workspace, None)
    execute(plan, workspace)
    first, second = (workspace.folder(run) for _, _, run in plan.runs)
    before = torch.load(first / "checkpoint.pt", weights_only=True)["method"]
    (first / "checkpoint.pt").unlink()
    execute(plan, workspace)
    assert not (first / "checkpoint.pt").exists()  # both are finished: nothing to do
    shutil.rmtree(second)
    execute(plan, workspace)
    assert finished(second)
    again = torch.load(first / "checkpoint.pt", weights_only=True)["method"]
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_who_waits_for_another_process_goes_on_when_it_has_finished(
    protocol: Protocol, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "WAIT_S", 0.05)
    (cell,) = cells(protocol, "1/staged")
    plan = make_plan([cell], "cpu", 1, workspace, None)
    first, second = plan.runs[0][2], plan.runs[1][2]
    with claimed(workspace.folder(first)) as free:
        assert free
        worker = threading.Thread(target=execute, args=(plan, workspace))
        worker.start()
        time.sleep(0.5)
        assert worker.is_alive() and not (workspace.folder(second) / "spec.json").exists()
    worker.join(60)
    assert not worker.is_alive() and finished(workspace.folder(second))


def test_stages_have_no_line_of_their_own_on_the_leaderboard(protocol: Protocol, workspace: Workspace) -> None:
    execute(make_plan(cells(protocol), "cpu", 1, workspace, None), workspace)
    runs, ignored = counted_runs(workspace.results, {protocol.name: protocol})
    assert not ignored
    assert {run.cell.row.id for run in runs} == {"direct", "staged", "other", "third"}
    board = collect(workspace.results, [protocol])
    assert {line.row for line in board.lines if line.run_ids} == {"direct", "staged", "other", "third"}


def test_another_network_cannot_be_started_from(protocol: Protocol, workspace: Workspace, tmp_path: Path) -> None:
    (cell,) = cells(protocol, "1/staged")
    (first, _) = make_plan([cell], "cpu", 1, workspace, None).runs
    execute(Plan([first], []), workspace)
    folder = workspace.folder(first[2])
    start = finished_start(folder)
    with pytest.raises(WeightsError, match="cannot be started from: its network is another one"):
        load_stage(make_classifier("resnet18", 7, size=32, dropout=0.0), start)
    with pytest.raises(records.RunError, match="belongs to another run or version"):
        load_stage(make_classifier("resnet_small", 7, size=16, dropout=0.0), Start(folder, "0" * 64))
    with pytest.raises(records.RunError, match="no finished run to start after"):
        finished_start(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('recipe = "short"', r"after.recipe: no .*shrt"),
        ("mix", "unknown option 'mixx'"),
    ],
)
def test_what_a_stage_may_name(tiny_protocol: Path, protocol: Protocol, change: str, message: str) -> None:
    path = tiny_protocol / "protocol.toml"
    text = path.read_text(encoding="utf-8")
    if change == "mix":
        path.write_text(text.replace("{ mix = ", "{ mixx = "), encoding="utf-8")
        with pytest.raises(Exception, match=message):
            settings(cells(load_protocol(tiny_protocol), "1/staged")[0], "cpu", 1)
    else:
        path.write_text(text.replace(change, 'recipe = "shrt"'), encoding="utf-8")
        with pytest.raises(ProtocolError, match=message):
            load_protocol(tiny_protocol)


def test_the_command_starts_after_a_finished_run(
    ferbench: Callable[..., Any], tiny_arguments: list[str], tmp_path: Path
) -> None:
    first = ferbench("train", "ssfer", *tiny_arguments, "--option", "mix=mixup", "--option", "teacher=false")
    assert first.code == 0, first.err
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    second = ferbench("train", "ssfer", *tiny_arguments, "--after", folder)
    assert second.code == 0 and f"starting after {folder.name}" in second.out
    (other,) = set((tmp_path / "results" / "runs").iterdir()) - {folder}
    spec = records.read_json(other / "spec.json")
    assert spec["after"] == {"hash": records.spec_hash(records.read_json(folder / "spec.json"))}
    assert "no finished run to start after" in ferbench("train", "ssfer", *tiny_arguments, "--after", "no").error()
