"""Processes that write and read the same files at once: no error, no torn read, no temporary file left.

FERBENCH_ROUNDS: rounds of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reliability.lives import Child, amount, assert_same, command, fork, row, write_protocol
from reliability.stored_runs import put, spec_and_record

from ferbench.bench import files
from ferbench.bench.training.recording import records


def all_fine(children: list[Child]) -> None:
    for child in children:
        assert child.wait(300) == 0, child.said()[-2000:]


def write_arrays(path: Path) -> None:
    records.write_predictions(path, {"main": np.full((200, 7), 0.5, np.float32)}, index=np.arange(200))


def write_table(path: Path) -> None:
    files.write(path, lambda file: file.write(b"line of a table\n" * 20_000))


def read_arrays(path: Path) -> None:
    assert records.read_arrays(path)["scores_main"].shape == (200, 7)


def read_table(path: Path) -> None:
    assert files.read_text(path).count("line of a table\n") == 20_000


@pytest.mark.parametrize(
    ("write", "read"), [(write_arrays, read_arrays), (write_table, read_table)], ids=["training.npz", "leaderboard.csv"]
)
def test_two_writers_and_a_reader(tmp_path: Path, write: Callable[[Path], None], read: Callable[[Path], None]) -> None:
    path, rounds = tmp_path / "shared" / "file", amount("ROUNDS", 40)
    write(path)

    def many(work: Callable[[Path], None]) -> Callable[[], None]:
        return lambda: [work(path) for _ in range(rounds)][:0] and None

    all_fine([fork(many(work), tmp_path / f"{number}.txt") for number, work in enumerate((write, write, read))])
    assert [left.name for left in path.parent.iterdir()] == ["file"]
    print(f"{rounds} rounds, 0 errors")


def test_two_leaderboards_at_once(tmp_path: Path) -> None:
    spec, record = spec_and_record()
    put(tmp_path / "results" / "runs" / records.run_id(spec), spec, record)
    for _ in range(amount("ROUNDS", 1)):
        asked = ("leaderboard", "--paper", "demo")
        all_fine([command(*asked, folder=tmp_path) for _ in range(2)])
    assert b"50.00" in (tmp_path / "results" / "leaderboard.csv").read_bytes()
    assert not list((tmp_path / "results").glob(".ferbench-*"))


def test_two_tables_at_once(tmp_path: Path) -> None:
    """Each run is trained by one of them; both end with the whole table."""
    write_protocol(tmp_path / "table", [row("vanilla"), row("fixmatch")])
    assert command("reproduce", "table", "--jobs", "1", "--results", "alone", folder=tmp_path).wait(300) == 0
    for number in range(amount("ROUNDS", 1)):
        asked = ("reproduce", "table", "--jobs", "1", "--results", f"r{number}")
        all_fine([command(*asked, folder=tmp_path) for _ in range(2)])
        assert_same(tmp_path / "alone" / "runs", tmp_path / f"r{number}" / "runs")


def test_a_temporary_file_of_a_dead_process_is_swept_and_a_live_ones_is_not(tmp_path: Path) -> None:
    child = fork(lambda: None, tmp_path / "log.txt")
    child.wait()
    dead = tmp_path / f"{files.TEMPORARY}{files._host()}-{child.pid}-0.tmp"
    alive = tmp_path / f"{files.TEMPORARY}{files._host()}-{os.getpid()}-0.tmp"
    others = [tmp_path / f"{files.TEMPORARY}elsewhere-1-0.tmp", tmp_path / "mine.tmp", tmp_path / ".file.tmp"]
    for path in (dead, alive, *others):
        path.write_bytes(b"half")
    files.sweep(tmp_path)
    assert not dead.exists() and all(path.exists() for path in (alive, *others))
    os.utime(others[0], (0, 0))
    files.sweep(tmp_path)
    assert not others[0].exists() and others[1].exists()


def test_what_a_killed_process_left_in_a_finished_run_goes_with_the_next_command(tmp_path: Path) -> None:
    """The other worker, which finished the run, may have seen the dead one as a process that still is."""
    write_protocol(tmp_path / "table", [row("vanilla")])
    assert command("reproduce", "table", folder=tmp_path).wait() == 0
    (run,) = (tmp_path / "results" / "runs").iterdir()
    child = fork(lambda: None, tmp_path / "other.txt")
    child.wait()
    left = run / f"{files.TEMPORARY}{files._host()}-{child.pid}-0.tmp"
    left.write_bytes(b"half")
    assert command("reproduce", "table", folder=tmp_path).wait() == 0
    assert not left.exists() and (run / "record.json").exists()


def test_a_file_of_the_users_beside_ours_is_not_touched(tmp_path: Path) -> None:
    for name in ("x.tmp", ".x.json.tmp"):
        (tmp_path / name).write_text("mine")
    files.write(tmp_path / "x.json", lambda file: file.write(b"{}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.json.tmp", "x.json", "x.tmp"]
    assert (tmp_path / "x.tmp").read_text() == "mine"
