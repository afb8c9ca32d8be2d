"""The processes of `reproduce --jobs`: their threads, their end with the parent, their failures, a second command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reliability.lives import amount, assert_same, children, command, row, write_protocol

from ferbench.bench.tables.running.claims import claimed, holder
from ferbench.bench.training.recording import records

FERBENCH = [sys.executable, "-P", "-c", "from ferbench.bench.cli import main; main()"]
START_S = 240.0  # an interpreter that imports torch on a busy machine


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the real command in a folder; ended with the test, workers included."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, **more: Any) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        process = subprocess.Popen(
            [*FERBENCH, *map(str, arguments)], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, **more,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        for pid in (*children(process.pid), process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()


def until(true: Callable[[], object], seconds: float = START_S) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def found(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"results/runs/*/{name}"))


SLOW = {"epochs": 40, "steps_per_epoch": 10, "batch_size": 16, "input_size": 32}


@pytest.mark.slow
def test_a_run_that_is_continued_alone_keeps_its_threads(tmp_path: Path, start: Any) -> None:
    """A table of two runs; all its processes are killed when the first is finished; the same command again."""
    write_protocol(tmp_path / "whole", [row("vanilla"), row("fixmatch")], **SLOW)
    whole = start("reproduce", "whole", "--jobs", "2", "--results", "w")
    assert whole.wait(START_S * 2) == 0, whole.stdout.read()
    for number in range(amount("KILLS", 1)):
        results = f"k{number}"
        again = start("reproduce", "whole", "--results", results)
        until(lambda results=results: list(tmp_path.glob(f"{results}/runs/*/record.json")))
        for pid in (again.pid, *children(again.pid)):
            os.kill(pid, signal.SIGKILL)
        assert start("reproduce", "whole", "--results", results).wait(START_S * 2) == 0
        assert_same(tmp_path / "w" / "runs", tmp_path / results / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_workers_end_with_their_parent(tmp_path: Path, start: Any, number: signal.Signals) -> None:
    """However it dies: within seconds and with their state saved."""
    write_protocol(tmp_path / "long", [row("vanilla"), row("fixmatch")], **{**SLOW, "epochs": 2000})
    parent = start("reproduce", "long", "--jobs", "2")
    until(lambda: len(found(tmp_path, "spec.json")) == 2)
    workers = children(parent.pid)
    assert len(workers) == 2
    time.sleep(1)
    parent.send_signal(number)
    until(lambda: not any(is_alive(pid) for pid in workers), 60)
    assert parent.wait(60) in (-signal.SIGKILL, 128 + signal.SIGHUP)
    assert len(found(tmp_path, "checkpoint.pt")) == 2 and not found(tmp_path, "record.json")


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    """The first row diverges, the second starts from it, the third and fourth are done; exit code 2 says why."""
    rows = [row("vanilla", "recipe_options = { lr = 1e30 }"), row("ssfer", 'after = { method = "vanilla" }')]
    rows[1] = rows[1].replace('method = "ssfer"\n', 'method = "ssfer"\nrecipe_options = { lr = 1e30 }\n', 1)
    write_protocol(tmp_path / "table", [*rows, row("fixmatch"), row("remop")])
    child = command("reproduce", "table", "--jobs", "1", folder=tmp_path)
    assert child.wait() == 2, child.said()
    said = child.said()
    assert len(found(tmp_path, "record.json")) == 2
    assert "Traceback" not in said and "not finite" in said
    assert "1/vanilla/c seed 1: failed: " in said and "1/ssfer/c seed 1: waiting for " in said
    assert "2 of 4 runs are not finished; the lines above say why" in said


def test_a_damaged_run_leaves_the_others_alone(tmp_path: Path) -> None:
    write_protocol(tmp_path / "table", [row("vanilla"), row("fixmatch")])
    assert command("reproduce", "table", "--jobs", "1", folder=tmp_path).wait() == 0
    broken, fine = (path.parent for path in found(tmp_path, "record.json"))
    for folder in (broken, fine):
        (folder / "record.json").unlink()
    records.save_checkpoint(broken / "checkpoint.pt", {"spec": "another run", "code": "x", "step": 0})
    child = command("reproduce", "table", "--jobs", "1", folder=tmp_path)
    assert child.wait() == 2
    assert (fine / "record.json").exists() and not (broken / "record.json").exists()
    assert "1 of 2 runs are not finished" in child.said()


def test_an_unreadable_record_is_none(tmp_path: Path) -> None:
    """The run goes on from its checkpoint, which lies beside it, instead of being skipped or refused."""
    write_protocol(tmp_path / "table", [row("vanilla")])
    assert command("reproduce", "table", folder=tmp_path).wait() == 0
    (path,) = found(tmp_path, "record.json")
    good = records.read_json(path)
    for content in (b"", b"[]", b'{"status": "fin', b"\xff\xfe"):
        path.write_bytes(content)
        assert command("reproduce", "table", folder=tmp_path).wait() == 0
        assert records.read_json(path)["metrics"] == good["metrics"]


def test_a_second_command_says_who_is_there_and_waits(tmp_path: Path) -> None:
    """It does not end over an incomplete table, and does not train the run when the other one has."""
    write_protocol(tmp_path / "table", [row("vanilla")])
    assert command("reproduce", "table", folder=tmp_path).wait() == 0
    (path,) = found(tmp_path, "record.json")
    kept = path.read_bytes()
    path.unlink()
    with claimed(path.parent) as free:
        assert free and f"process {os.getpid()} on " in holder(path.parent)
        child = command("reproduce", "table", "--jobs", "1", folder=tmp_path)
        until(lambda: "waiting for process" in child.said(), 60)
        assert f"waiting for process {os.getpid()} on " in child.said() and child.poll() is None
        path.write_bytes(kept)
    assert child.wait() == 0
    assert path.read_bytes() == kept


def test_other_code_is_said_and_trained_anew_only_when_asked(tmp_path: Path) -> None:
    write_protocol(tmp_path / "table", [row("vanilla"), row("fixmatch")])
    assert command("reproduce", "table", "--jobs", "1", folder=tmp_path).wait() == 0
    first, second = found(tmp_path, "record.json")
    record = records.read_json(first)
    records.write_json(first, {**record, "code": "0" * 16, "finished_at": "2026-01-01T00:00:00Z"})
    (tmp_path / "log.txt").unlink()
    child = command("reproduce", "table", "--jobs", "1", folder=tmp_path)
    assert child.wait() == 0
    assert "by other code than this: " in child.said() and "--again trains them anew" in child.said()
    before = second.read_bytes()
    child = command("reproduce", "table", "--jobs", "1", "--again", folder=tmp_path)
    assert child.wait() == 0
    aside = first.parent.with_name(f"{first.parent.name}.by-{'0' * 16}")
    assert records.read_json(aside / "record.json")["code"] == "0" * 16
    assert records.read_json(first)["code"] == record["code"] and second.read_bytes() == before
    assert "with the same settings and seed, was finished on" in child.said()


def test_a_checkpoint_of_other_code_is_not_continued_silently(tmp_path: Path) -> None:
    write_protocol(tmp_path / "table", [row("vanilla")])
    assert command("reproduce", "table", folder=tmp_path).wait() == 0
    (path,) = found(tmp_path, "checkpoint.pt")
    (path.parent / "record.json").unlink()
    state = records.load_checkpoint(path, records.spec_hash(records.read_json(path.parent / "spec.json")))
    records.save_checkpoint(path, {**state, "code": "0" * 16})
    child = command("reproduce", "table", folder=tmp_path)
    assert child.wait() == 2 and "was written by code 0000000000000000" in child.said()
    assert command("reproduce", "table", "--again", folder=tmp_path).wait() == 0


def test_workers_run_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ferbench.bench.tables.running import workers

    monkeypatch.chdir(tmp_path)
    (tmp_path / "csv.py").write_text("open('RUN', 'w')\nraise SystemExit('a file of this folder was run')\n")
    monkeypatch.setattr(workers, "_COMMAND", "import csv, sys; sys.exit(0 if hasattr(csv, 'reader') else 3)")
    workers.run_workers([], 2, lambda: None)
    assert not (tmp_path / "RUN").exists()


def test_a_failure_is_of_its_command_alone(tmp_path: Path) -> None:
    from ferbench.bench.training.recording import standing

    standing.note_failure(tmp_path, "one", "diverged")
    assert standing.failure(tmp_path, "one") == "diverged" and standing.failure(tmp_path, "two") is None
    (tmp_path / standing.FAILURE).write_text("[")
    assert standing.failure(tmp_path, "one") is None
