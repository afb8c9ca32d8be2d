"""kill -9 at random instants, half of them while a file is being written: what is started again ends bit for bit where
an undisturbed run ends, whatever number of threads each life begins with. FERBENCH_KILLS: how many for each command."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from reliability.lives import Child, amount, assert_same, children, command, row, write_protocol

from ferbench.bench.tables.running import workers

SMALL = ("--data-option", "scale=0.01", "--data-option", "size=16", "--split", "balanced:per_class=2")
TIMES = ("epochs=3", "steps_per_epoch=4", "batch_size=8", "input_size=32")
STEPS = [word for change in TIMES for word in ("--recipe", change)]
PRETRAINING = [word for change in (*TIMES, "warmup_epochs=0") for word in ("--set", change)]
SETS = ("--candidates", "votes_multi_target")
COMMANDS = {
    **{name: ("train", name, *SMALL, *STEPS) for name in ("fixmatch", "remop")},
    **{name: ("train", name, *SMALL, *STEPS, *SETS) for name in ("pico",)},
    "mae": ("pretrain", "mae", "--dataset", "synthetic", *SMALL[:4], "--backbone", "vit_tiny", *PRETRAINING),
    "table": ("reproduce", "table", "--jobs", "1"),
}
MORE = {name: ("train", name, *SMALL, *STEPS) for name in ("leaf", "comatch", "dash", "simmatch", "lion", "ssfer")}
QUICK = ("fixmatch", "table")
LIVES = 12  # of a run at most
AFTER = 'after = { method = "vanilla" }'


def is_writing(results: Path) -> bool:
    return any(results.rglob(".ferbench-*.tmp"))


def kill_at_random(child: Child, results: Path, lasts: float, rng: random.Random) -> int | None:
    """Kill the child somewhere in its life, or when it next writes a file; its exit code where it was done before."""
    ends, at_a_write = time.monotonic() + rng.uniform(0.05, 0.8) * lasts, rng.random() < 0.5
    while time.monotonic() < ends or (at_a_write and not is_writing(results)):
        if (code := child.poll()) is not None:
            return code
        time.sleep(0.0005)
    os.kill(child.pid, signal.SIGKILL)
    return None if child.wait() == -signal.SIGKILL else 0


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in (*COMMANDS, *MORE)],
)
def test_a_run_that_is_killed_again_and_again_ends_where_it_would_have(tmp_path: Path, name: str) -> None:
    rng, asked = random.Random(name), (COMMANDS | MORE)[name]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_protocol(folder / "table", [row("vanilla"), row("ssfer", AFTER), row("fixmatch")])
    began = time.monotonic()
    assert command(*asked, folder=whole, threads=2).wait() == 0
    lasts, kills, wanted = time.monotonic() - began, 0, amount("KILLS", 2)
    while kills < wanted:
        shutil.rmtree(killed / "results", ignore_errors=True)
        for life in range(LIVES):
            # a run that has not saved anything begins anew, with the threads of its life
            begun = life and (asked[0] == "reproduce" or any(killed.rglob("checkpoint.pt")))
            child = command(*asked, folder=killed, threads=rng.choice((1, 2)) if begun else 2)
            last = life == LIVES - 1 or kills >= wanted
            code = child.wait() if last else kill_at_random(child, killed / "results", lasts, rng)
            kills += code is None
            assert code in (None, 0), child.said()[-2000:]
            if code == 0:
                break
        assert_same(whole / "results", killed / "results")
        assert not is_writing(killed / "results")
    print(f"{name}: {kills} kills, 0 runs that end elsewhere")


SAVING = "from ferbench.bench.training import train; train.SAVED_EVERY_S, train.SAVING_SHARE = 0.0, 1e9; "


def kill_one_at_random(child: Child, results: Path, lasts: float, rng: random.Random) -> int | None:
    """Kill the command or one of its workers while there is training; its exit code where none was killed."""
    began = time.time()
    while not any(path.stat().st_mtime > began for path in results.rglob("*.json*")):
        if (code := child.poll()) is not None:
            return code
        time.sleep(0.01)
    ends, at_a_write = time.monotonic() + rng.uniform(0.0, lasts), rng.random() < 0.5
    while time.monotonic() < ends or (at_a_write and not is_writing(results)):
        if (code := child.poll()) is not None:
            return code
        time.sleep(0.0005)
    victim = rng.choice([child.pid, *children(child.pid)])
    os.kill(victim, signal.SIGKILL)
    code = child.wait(300)
    assert code == -signal.SIGKILL if victim == child.pid else code in (0, 2), child.said()[-2000:]
    return None


@pytest.mark.slow
def test_a_table_whose_command_or_workers_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers and no number of threads; the next life begins while workers of the last may still be saving."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers, "_COMMAND", SAVING + workers._COMMAND)
    rng, kills, wanted = random.Random("two workers"), 0, amount("KILLS", 2)
    # no row is what another one starts from: its spec would name the cell that was reached first
    rows = [row("ssfer", AFTER), row("fixmatch"), row("remop")]
    write_protocol(tmp_path / "table", rows, epochs=6, steps_per_epoch=6)
    asked = ("reproduce", "table", "--jobs", "2", "--results")
    child, began = command(*asked, "whole", folder=tmp_path), time.monotonic()
    while not list(tmp_path.glob("whole/runs/*/spec.json")):
        assert child.poll() is None, child.said()[-2000:]
        began = time.monotonic()
    assert child.wait(300) == 0, child.said()[-2000:]
    lasts, lives = time.monotonic() - began, 0
    while kills < wanted:
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        for life in range(LIVES):
            lives += 1
            child = command(*asked, "killed", folder=tmp_path)
            last = life == LIVES - 1 or kills >= wanted
            code = child.wait(300) if last else kill_one_at_random(child, tmp_path / "killed", lasts, rng)
            kills += code is None
            assert code in (None, 0), child.said()[-2000:]
            if code == 0:
                break
        assert_same(tmp_path / "whole" / "runs", tmp_path / "killed" / "runs")
    print(f"two workers: {kills} kills in {lives} lives, 0 runs that end elsewhere")
