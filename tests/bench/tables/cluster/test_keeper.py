"""The process that alone writes a cluster's results: what it takes, from whom, and what it says to whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ferbench.bench.tables.cluster.keeper import CHECKPOINT, SCORES, Keeper
from ferbench.bench.tables.running.claims import claimed
from ferbench.bench.tables.running.watched import NOTE, read_note
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import failure

NOTED = ("t", 3, 6, "loss 1", "node7", "2026-11-29T09:00:00Z")
RECORD = json.dumps({"status": "finished", "code": "c0de"}).encode()


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(str(tmp_path), ("a", "b"), "command")


def begin(keeper: Keeper, run: str = "a", attempt: str = "1", again: bool = False, weights_too: bool = False) -> str:
    return keeper.begin(run, attempt, "identity", "c0de", again, weights_too)[0]


def test_a_run_from_its_beginning_to_its_end(keeper: Keeper, tmp_path: Path) -> None:
    assert keeper.begin("a", "1", "identity", "c0de", False, False) == ("go", {})
    with claimed(tmp_path / "runs" / "a") as free:
        assert not free, "the keeper holds its lock"
    assert keeper.note("a", "1", NOTED) and keeper.keep("a", "1", {CHECKPOINT: b"12"})
    note = read_note(tmp_path / "runs" / "a" / NOTE)
    assert note and (note["step"], note["where"]) == (3, "node7")
    assert keeper.keep("a", "1", {"record.json": RECORD, CHECKPOINT: b"123", "../b": b"", "x": b""})
    keeper.end("a", "1")
    assert {path.name for path in (tmp_path / "runs" / "a").iterdir()} == {".lock", CHECKPOINT, "record.json"}
    assert begin(keeper) == "finished"
    with claimed(tmp_path / "runs" / "a") as free:
        assert free
    assert not (tmp_path / "runs" / "b").exists()


def test_another_try_goes_on_from_what_came_home_and_the_one_before_is_not_heard(keeper: Keeper) -> None:
    assert begin(keeper) == "go" and keeper.keep("a", "1", {CHECKPOINT: b"step 5"})
    assert keeper.begin("a", "2", "identity", "c0de", False, False) == ("go", {CHECKPOINT: b"step 5"})
    assert not keeper.keep("a", "1", {CHECKPOINT: b"step 6"}) and not keeper.note("a", "1", NOTED)
    keeper.end("a", "1", "its own affair")
    assert keeper.keep("a", "2", {CHECKPOINT: b"step 7"})
    assert keeper.fetch("a", (CHECKPOINT, SCORES, "../b", ".lock")) == {CHECKPOINT: b"step 7"}


def test_a_keeper_that_was_started_anew_takes_nothing_of_older_tries(keeper: Keeper, tmp_path: Path) -> None:
    assert begin(keeper) == "go"
    keeper.give_up("a")  # its death frees the lock
    other = Keeper(str(tmp_path), ("a", "b"), "command")
    assert not other.keep("a", "1", {CHECKPOINT: b"x"}) and not other.note("a", "1", NOTED)
    assert begin(other, attempt="2") == "go"


def test_a_run_that_another_command_is_at(keeper: Keeper, tmp_path: Path) -> None:
    with claimed(tmp_path / "runs" / "a"):
        assert begin(keeper) == "busy" and begin(keeper, "b") == "go"
        assert not keeper.is_free("a") and keeper.is_free("b")
    assert keeper.is_free("a") and begin(keeper) == "go"


def test_when_the_command_is_stopped(keeper: Keeper) -> None:
    assert begin(keeper) == "go"
    assert keeper.stop() == ["a"]
    assert not keeper.note("a", "1", NOTED)
    assert keeper.keep("a", "1", {CHECKPOINT: b"saved"}), "what is saved on the way out is taken"
    assert begin(keeper, "b") == "stop"


def test_a_failure_is_noted_for_this_command(keeper: Keeper, tmp_path: Path) -> None:
    begin(keeper)
    keeper.end("a", "1", "loss not finite")
    assert failure(tmp_path / "runs" / "a", "command") == "loss not finite"
    with claimed(tmp_path / "runs" / "a") as free:
        assert free
    begin(keeper, attempt="2")
    keeper.keep("a", "2", {"record.json": RECORD})
    keeper.end("a", "2")
    assert failure(tmp_path / "runs" / "a", "command") is None


def test_the_scores_that_came_home_first_count(keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert keeper.offer("a", b"one") == b"one" and keeper.offer("a", b"other") == b"one"


def test_what_others_start_from_needs_its_weights(keeper: Keeper, tmp_path: Path) -> None:
    """A record alone, copied from elsewhere, is finished and is no start; other code's is trained anew when asked."""
    folder = tmp_path / "runs" / "a"
    records.write_json(folder / "record.json", json.loads(RECORD))
    assert begin(keeper) == "finished" and begin(keeper, weights_too=True) == "go"
    keeper.give_up("a")
    (folder / CHECKPOINT).write_bytes(b"weights")
    assert begin(keeper, weights_too=True) == "finished" == begin(keeper, again=True)
    records.write_json(folder / "record.json", {"status": "finished", "code": "other"})
    assert begin(keeper) == "finished" and begin(keeper, again=True) == "go"
    assert (tmp_path / "runs" / "a.by-other" / "record.json").exists() and not (folder / "record.json").exists()
