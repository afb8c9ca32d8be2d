"""`ferbench status`: what each run of a table is at, told from its folder alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from reliability.lives import row, write_protocol

from ferbench.bench.tables.planning.measured import Known
from ferbench.bench.tables.running import status
from ferbench.bench.tables.running.plan import Plan, make_plan
from ferbench.bench.tables.running.status import Standing, as_json, standings, summary
from ferbench.bench.tables.running.watched import NOTE, write_note
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import note_failure
from ferbench.protocols import cells, load_protocol

ROWS = [
    row("vanilla"),
    row("fixmatch"),
    row("remop"),
    row("ssfer", 'after = { method = "vanilla", recipe = "long" }'),
]


@pytest.fixture
def workspace(tmp_path: Path, drawn_faces: Path) -> Workspace:
    return Workspace(tmp_path / "results", drawn_faces)


@pytest.fixture
def plan(tmp_path: Path, workspace: Workspace) -> Plan:
    path = write_protocol(tmp_path / "table", ROWS) / "protocol.toml"
    text = path.read_text(encoding="utf-8")
    more = '[recipes.long]\nextends = "r"\nepochs = 4\n'
    path.write_text(text.replace("[presets.cpu]", f"{more}[presets.cpu]"), encoding="utf-8")
    return make_plan(cells(load_protocol(tmp_path / "table")), "cpu", None, workspace, None)


@pytest.fixture
def folders(plan: Plan, workspace: Workspace) -> dict[str, Path]:
    """The folder of each run, made, with its settings, by the name of its row."""
    found = {}
    for cell, _, run in plan.runs:
        folder = found[cell.row.id] = workspace.folder(run)
        records.write_json(folder / "spec.json", run.spec)
    return found


def finish(folder: Path, device: str = "P", seconds: float = 12.0) -> None:
    spec = records.read_json(folder / "spec.json")
    steps = spec["recipe"]["epochs"] * spec["recipe"]["steps_per_epoch"]
    record = {
        "status": "finished", "finished_at": "2026-11-29T10:00:00Z", "device": device, "threads": 1,
        "seconds": seconds, "steps": steps, "split": {"test": 9},
    }  # fmt: skip
    records.write_json(folder / "record.json", record)


def save(folder: Path, step: int) -> None:
    spec = records.spec_hash(records.read_json(folder / "spec.json"))
    records.save_checkpoint(folder / "checkpoint.pt", {"step": step, "spec": spec})


def states(plan: Plan, workspace: Workspace) -> dict[str, Standing]:
    return {one.cell.split("/")[2]: one for one in standings(plan, workspace)}


def test_a_table_that_nobody_began(plan: Plan, workspace: Workspace) -> None:
    found = states(plan, workspace)
    assert {name: one.state for name, one in found.items()} == {
        "vanilla": "to run", "fixmatch": "to run", "remop": "to run", "ssfer.before": "to run", "ssfer": "waiting",
    }  # fmt: skip
    assert found["ssfer"].said == "for small/1/ssfer.before/c seed 1"
    assert found["ssfer.before"].total == 12 and found["ssfer"].total == 6
    assert all(one.hours is None for one in found.values())
    assert summary(found.values(), 0) == "0 of 5 runs are finished, 1 waiting, 4 to run"
    assert not workspace.results.exists(), "looking changes nothing"


def test_every_state(plan: Plan, workspace: Workspace, folders: dict[str, Path]) -> None:
    finish(folders["vanilla"])
    write_note(folders["fixmatch"], "t", 3, 6, "loss 1.250", "node7", "2026-11-29T09:00:00Z")
    save(folders["remop"], 2)
    note_failure(folders["ssfer.before"], "another command", "losses are not finite")
    found = states(plan, workspace)
    assert {name: (one.state, one.step) for name, one in found.items()} == {
        "vanilla": ("finished", 6), "fixmatch": ("running", 3), "remop": ("to continue", 2),
        "ssfer.before": ("failed", 0), "ssfer": ("waiting", 0),
    }  # fmt: skip
    assert found["fixmatch"].said == "on node7 since 2026-11-29T09:00:00Z: loss 1.250"
    assert found["ssfer.before"].said.endswith("Z: losses are not finite")
    assert found["ssfer"].said == "for small/1/ssfer.before/c seed 1, which failed"
    order = ["running", "failed", "waiting", "to continue", "finished"]
    assert [one.state for one in standings(plan, workspace)] == order
    said = str(found["fixmatch"])
    assert said.split()[:2] == ["running", "3/6"] and folders["fixmatch"].name in said


def test_hours_left_are_those_of_measured_steps(plan: Plan, workspace: Workspace, folders: dict[str, Path]) -> None:
    """Of the device that most runs were finished on: 6 steps took 12 s, and 4 of 6 are left."""
    finish(folders["vanilla"], "P", 12.0)
    finish(folders["fixmatch"], "P", 12.0)
    finish(folders["ssfer.before"], "Q", 1.0)
    save(folders["remop"], 2)
    times = status.times_of(workspace.results)
    assert isinstance(times, Known) and times.device == "P" and times.runs == 2
    found = states(plan, workspace)
    estimated = times.estimate(plan.runs[2][2].spec, plan.runs[2][2].recipe, len(plan.runs[2][2].test))
    assert estimated and estimated.source == "scaled"
    assert found["remop"].hours == pytest.approx(estimated.hours * 4 / 6) and found["vanilla"].hours == 0
    (folders["vanilla"] / "record.json").unlink()
    save(folders["vanilla"], 2)
    finish(folders["remop"], "P", 6.0)
    again = states(plan, workspace)["vanilla"]
    assert again.state == "to continue" and again.hours and "left" in str(again)


def test_who_died_or_was_not_heard_of_does_not_run(plan: Plan, workspace: Workspace, folders: dict[str, Path]) -> None:
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    write_note(folders["vanilla"], "t", 3, 6, "s", "here", "2026-11-29T09:00:00Z")
    path = folders["vanilla"] / NOTE
    alter(path, process=dead)
    assert states(plan, workspace)["vanilla"].state == "to run"
    alter(path, host="elsewhere")
    assert states(plan, workspace)["vanilla"].state == "running"
    os.utime(path, (1, 1))
    quiet = states(plan, workspace)["vanilla"]
    assert quiet.state == "to run" and quiet.said == "not heard of since 2026-11-29T09:00:00Z on here"
    path.write_text("[")
    assert states(plan, workspace)["vanilla"].said == ""


def alter(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_for_programs(plan: Plan, workspace: Workspace, folders: dict[str, Path]) -> None:
    finish(folders["vanilla"])
    found = json.loads(json.dumps(as_json(standings(plan, workspace), plan)))
    assert found["finished"] == 1 and found["left_out"] == [] and len(found["runs"]) == 5
    assert set(found["runs"][0]) == {"name", "cell", "seed", "state", "step", "total", "hours", "said"}
    assert found["hours_left"] == pytest.approx(sum(run["hours"] for run in found["runs"]))


def test_the_command(ferbench: Any, tmp_path: Path) -> None:
    """Before and after, with what is left out and why; the names of `--dry-run` are whole."""
    numbers_alone = '[[tables.rows]]\nid = "other"\nlabel = "other"\nstatus = "published-only"\n'
    write_protocol(tmp_path / "table", [row("vanilla"), numbers_alone])
    asked = (tmp_path / "table", "--results", tmp_path / "results")
    said = ferbench("status", *asked)
    assert said.code == 0, said.err
    assert said.out.startswith("to run") and "left out: 1/other/c: published only" in said.out
    assert "0 of 1 runs are finished, 1 to run, 1 cells left out" in said.out
    planned = ferbench("reproduce", *asked, "--dry-run")
    assert ferbench("reproduce", *asked, "--jobs", 1).code == 0
    (name,) = (path.name for path in (tmp_path / "results" / "runs").iterdir())
    assert planned.out.splitlines()[1].endswith(f" {name}") and len(name) > 30
    for last in (("--watch",), ("--watch", "--json")):
        said = ferbench("status", *asked, *last)
        assert said.code == 0
    assert json.loads(said.out)["finished"] == 1 and json.loads(said.out)["hours_left"] == 0
    assert not list((tmp_path / "results" / "runs" / name).glob(NOTE))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"[" * 100_000, b'{"step": 1e999}', b"\xff", None], ids=lambda content: str(content)[:12]
)
def test_a_note_or_a_checkpoint_that_is_none(
    plan: Plan, workspace: Workspace, folders: dict[str, Path], content: bytes | None
) -> None:
    """Whatever somebody's folder holds in their places, pipes too, the run is one that nobody began."""
    for name in (NOTE, "checkpoint.pt"):
        path = folders["fixmatch"] / name
        os.mkfifo(path) if content is None else path.write_bytes(content)
    assert (states(plan, workspace)["fixmatch"].state, states(plan, workspace)["fixmatch"].step) == ("to run", 0)
