"""The command line from end to end: what it prints and leaves, what it does not do twice, and how it is stopped."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbench.bench.tables.planning import data_sets, listing
from ferbench.bench.tables.running import reproduce
from ferbench.bench.tables.running.claims import claimed
from ferbench.bench.training import train as loop
from ferbench.bench.training.recording import records

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("methods", ["vanilla", "fixmatch", "remop", "plug-in", "the confident prediction on a weak view"]),
        ("protocols", ["demo/1", "remop/1", "remop/5"]),
        ("datasets", ["synthetic", "ferplus", "scale=0.35"]),
    ],
)
def test_list(ferbench: Command, what: str, words: list[str]) -> None:
    done = ferbench("list", what)
    assert (done.code, done.err) == (0, "")
    for word in words:
        assert word in done.out
    assert all(word in ferbench("list").out for word in words)


@pytest.mark.parametrize(
    ("what", "name", "words"),
    [
        (
            "methods",
            "fixmatch",
            ["Sohn", "threshold = 0.95", "variant usb sets:", "B + U, U without gradient", "leaf/1"],
        ),
        ("protocols", "remop", ["presets: paper, cpu", "remop/4: ", "rows: vanilla,", "columns: "]),
        ("datasets", "rafdb", ["images = aligned: ", "(one of ", "FERBENCH_RAFDB_ROOT"]),
    ],
)
def test_card(ferbench: Command, what: str, name: str, words: list[str]) -> None:
    done = ferbench("list", what, name)
    assert (done.code, done.err) == (0, "")
    for word in words:
        assert word in done.out
    assert name in ferbench("list", what, name + "x").error()


def test_lines_fit_a_terminal_and_are_whole_in_a_pipe(tmp_path: Path) -> None:
    for kind in (listing.methods, partial(listing.protocols, results=tmp_path), data_sets.datasets):
        narrow, whole = list(kind(80)), list(kind(None))
        assert max(map(len, narrow)) <= 80 < max(map(len, whole))
        assert all(
            line == full or (line[-1] == "…" and full.startswith(line[:-1]))
            for line, full in zip(narrow, whole, strict=True)
        )
        assert not any("…" in line for line in whole)


def test_the_bare_command_is_the_help(ferbench: Command) -> None:
    bare = ferbench()
    assert (bare.code, bare.err) == (0, "")
    assert bare.out.strip() == ferbench("--help").out.strip()
    assert len(bare.out.splitlines()) > 15 and "..." not in bare.out.split("Commands:")[1]


def test_help_names_every_command(ferbench: Command) -> None:
    done = ferbench("--help")
    assert done.code == 0
    for command in ("list", "prepare", "train", "reproduce", "leaderboard"):
        assert command in done.out


def test_prepare(ferbench: Command) -> None:
    options = ("--option", "scale=0.01", "--option", "size=16")
    done = ferbench("prepare", "synthetic", *options)
    assert (done.code, done.err) == (0, "")
    assert "happiness" in done.out
    report = json.loads(ferbench("prepare", "synthetic", *options, "--json").out)
    assert (report["dataset"], report["train"], report["test"]) == ("synthetic", 123, 32)


def test_train_and_train_again(
    ferbench: Command, tiny_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ferbench("train", "remop", *tiny_arguments, "--option", "beta=0.3", "--seed", 5)
    assert (done.code, done.err) == (0, "")
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    names = {path.name for path in folder.iterdir()} - {".lock"}
    wanted = {"checkpoint.pt", "metrics.jsonl", "predictions.npz", "record.json", "spec.json", "split.json"}
    assert names == wanted
    spec, record = (records.read_json(folder / name) for name in ("spec.json", "record.json"))
    assert (spec["method"], spec["options"]["beta"], spec["seed"], spec["recipe"]["epochs"]) == ("remop", 0.3, 5, 2)
    assert json.loads(done.out.splitlines()[-2]) == record["metrics"]["last"]
    assert done.out.splitlines()[-1] == f"record: {folder.relative_to(tmp_path) / 'record.json'}"

    monkeypatch.setattr(loop, "make_state", None)  # any training now would fail
    again = ferbench("train", "remop", *tiny_arguments, "--option", "beta=0.3", "--seed", 5)
    assert again.code == 0 and again.out.splitlines()[-2:] == done.out.splitlines()[-2:]


def test_train_on_a_split_file(ferbench: Command, tiny_arguments: list[str], tmp_path: Path) -> None:
    assert ferbench("train", "vanilla", *tiny_arguments).code == 0
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert ferbench("train", "vanilla", *tiny_arguments, "--split", folder / "split.json").code == 0
    specs = [records.read_json(path) for path in (tmp_path / "results" / "runs").glob("*/spec.json")]
    assert len({spec["split"]["fingerprint"] for spec in specs}) == 1


def line_of(path: Path, **wanted: str) -> dict[str, str]:
    with path.open(newline="") as file:
        (found,) = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]
    return found


def test_reproduce_leaderboard_and_a_second_time(
    ferbench: Command, tiny_protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = ferbench("reproduce", "tiny", "--dry-run")
    assert planned.code == 0 and planned.out.count("to run") == 12
    assert not (tmp_path / "results").exists()

    done = ferbench("reproduce", "tiny", "--jobs", 1)
    assert (done.code, done.err) == (0, "")
    folders = sorted((tmp_path / "results" / "runs").iterdir())
    assert len(folders) == 12  # three methods, two columns, two seeds
    found = line_of(
        tmp_path / "results" / "leaderboard.csv",
        paper="tiny", row="remop", column="synthetic-200-50", metric="mean", selection="last",
    )  # fmt: skip
    values = [records.read_json(path / "record.json")["metrics"]["last"]["mean"] for path in folders]
    specs = [records.read_json(path / "spec.json") for path in folders]
    mine = [
        value
        for value, spec in zip(values, specs, strict=True)
        if spec["made_for"]["cell"] == "tiny/1/remop/synthetic-200-50"
    ]
    assert len(mine) == 2 and found["seeds"] == "1 2"
    assert float(found["measured_mean"]) == pytest.approx(np.mean(mine), abs=0.005)
    assert float(found["measured_std"]) == pytest.approx(np.std(mine, ddof=1), abs=0.005)
    assert found["delta"] == found["published_mean"] == ""
    assert f"{np.mean(mine):.2f} ± {np.std(mine, ddof=1):.2f}" in done.out

    monkeypatch.setattr(loop, "make_state", None)  # any training now would fail
    again = ferbench("reproduce", "tiny")
    assert again.code == 0 and "± " in again.out
    assert ferbench("reproduce", "tiny", "--dry-run").out.count("finished") == 12
    board = ferbench("leaderboard", "--paper", "tiny", "--csv", tmp_path / "own.csv")
    assert board.code == 0 and f"{np.mean(mine):.2f} ± " in board.out
    assert (
        line_of(tmp_path / "own.csv", row="remop", column="synthetic-200-50", metric="mean", selection="last") == found
    )


def test_one_row_one_column_more_seeds(ferbench: Command, tiny_protocol: Path, tmp_path: Path) -> None:
    arguments = ("reproduce", "tiny/1/vanilla", "--column", "synthetic-200-20", "--jobs", 1)
    assert ferbench(*arguments, "--seeds", 1).code == 0
    assert ferbench(*arguments, "--seeds", 3).code == 0
    found = line_of(tmp_path / "results" / "leaderboard.csv", paper="tiny", metric="overall", selection="last")
    assert (found["row"], found["seeds"]) == ("vanilla", "1 2 3")


class StillWaiting(Exception):
    """Raised in place of waiting for another process."""


def stop_waiting(seconds: float) -> None:
    raise StillWaiting


def test_two_commands_do_not_do_the_same_run(
    ferbench: Command,
    tiny_protocol: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While one run's lock is held elsewhere, the command does the others, says who is at that one, and waits."""
    arguments = ("reproduce", "tiny/1/vanilla/synthetic-200-20", "--jobs", 1)
    started: list[str] = []
    original = reproduce.train

    def spy(run: Any, folder: Path, **named: Any) -> Any:
        started.append(folder.name)
        return original(run, folder, **named)

    monkeypatch.setattr(reproduce, "train", spy)
    name = next(word for word in ferbench(*arguments, "--dry-run").out.split() if word.startswith("synthetic-long"))
    held = tmp_path / "results" / "runs" / name
    with claimed(held) as free, monkeypatch.context() as patch:
        assert free
        patch.setattr(reproduce.time, "sleep", stop_waiting)
        with pytest.raises(StillWaiting):
            ferbench(*arguments)
        assert len(started) == 1 and name not in started
    assert f"waiting for process {os.getpid()}" in capsys.readouterr().out
    assert ferbench(*arguments).code == 0
    assert len(started) == 2 and started[1] == name


def start(arguments: list[str], cache: Path, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "FERBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ferbench.bench.cli", *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def epochs_done(folder: Path) -> int:
    found = list(folder.glob("results/runs/*/metrics.jsonl"))
    return len(found[0].read_text().splitlines()) if found else 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_signals_and_kill_9_from_outside(
    ferbench: Command, tiny_arguments: list[str], drawn_faces: Path, tmp_path: Path
) -> None:
    """Ctrl-C, SIGTERM and kill -9, each at a random moment after another epoch; then the end, bit for bit."""
    arguments = ["train", "remop", *tiny_arguments, "--recipe", "epochs=12", "--recipe", "steps_per_epoch=12"]
    delays = random.Random(0)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        before = epochs_done(tmp_path)
        process = start(arguments, drawn_faces, tmp_path)
        wait_for(lambda before=before: epochs_done(tmp_path) > before, process)  # type: ignore[misc]
        time.sleep(delays.uniform(0, 0.2))
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert "Traceback" not in errors
        lines = errors.splitlines()
        if code == -9:
            assert not lines
        else:
            assert len(lines) == 1 and lines[0].startswith("ferbench: stopped after step ")
            assert lines[0].endswith(" of 144; run it again to continue")
    assert not list(tmp_path.glob("results/runs/*/record.json"))
    assert ferbench(*arguments).code == 0
    assert ferbench(*arguments, "--results", "whole").code == 0
    first, second = (next((tmp_path / name / "runs").iterdir()) for name in ("results", "whole"))
    with np.load(first / "predictions.npz") as ours, np.load(second / "predictions.npz") as theirs:
        assert set(ours) == set(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (first, second)]
    for part in ("method", "average"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())


@pytest.mark.slow
def test_several_processes_share_the_runs_of_a_table(
    ferbench: Command, tiny_protocol: Path, drawn_faces: Path, tmp_path: Path
) -> None:
    process = start(["reproduce", "tiny/1/vanilla", "--jobs", "2"], drawn_faces, tmp_path)
    out, errors = process.communicate(timeout=400)
    assert (process.returncode, errors) == (0, ""), errors
    assert "4 runs in 2 processes" in out
    assert len(list(tmp_path.glob("results/runs/*/record.json"))) == 4
    assert out.count(" seed 1: overall") == out.count(" seed 2: overall") == 2  # no run was done twice
