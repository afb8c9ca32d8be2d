"""A run that was killed or stopped ends, bit for bit, where an uninterrupted one ends."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbench.bench.training import train as loop
from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.recording import records
from ferbench.bench.training.state import Run
from ferbench.bench.training.steps import feed
from ferbench.bench.training.steps.sums import Sums
from ferbench.bench.training.train import train
from ferbench.methods import METHODS as ALL_METHODS
from ferbench.methods.register import PAPERS, PARTIAL_LABEL

MakeRun = Callable[..., Run]
METHODS = ("vanilla", "fixmatch", "remop", "adacm", "leaf", "pll_fer", "rc", "pico", "ssfer")
STEPS = 15  # of the tiny run: three epochs of five
QUICK = ("flexmatch", "comatch", "simmatch", "lion", "dash", "scn")  # with a table, a queue, a bank, a scalar, labels
EARLY = {"scn": {"relabel_epoch": 1, "relabel_margin": 0.0}}  # what a run of three epochs would not come to


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves but times and versions."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    history = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    assert history == [{key: value for key, value in line.items() if key != "seconds"} for line in state["history"]]
    with np.load(folder / "predictions.npz") as stored:
        predictions = dict(stored)
    record = records.read_json(folder / "record.json")
    return {
        "method": state["method"],
        "average": state["average"],
        "optimizer": state["optimizer"],
        "step": state["step"],
        "history": history,
        "predictions": predictions,
        "metrics": record["metrics"],
        "spec": records.read_json(folder / "spec.json"),
    }


def assert_same(first: Path, second: Path) -> None:
    np.testing.assert_equal(_plain(outcome(second)), _plain(outcome(first)))
    files = [sorted(path.name for path in folder.iterdir()) for folder in (first, second)]
    assert files[0] == files[1] == ["checkpoint.pt", "metrics.jsonl", "predictions.npz", "record.json", "spec.json"]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def exit_code_of(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; the negative signal number where one ended it."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, action: Callable[[], None], owner: Any, name: str, patch: Any) -> None:
    """Make the `number`-th call of `owner.name` do `action` before its own work."""
    original, calls = getattr(owner, name), [0]

    def counted(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            action()
        return original(*args, **named)

    patch(owner, name, counted)


DEATHS: dict[str, tuple[Any, str, int]] = {
    **{f"in step {step}": (Sums, "add", step) for step in sorted(random.Random(5).sample(range(1, STEPS), 3))},
    "writing the first checkpoint": (os, "fsync", 3),  # each file is followed by its folder; the first is spec.json
    "writing the second checkpoint": (os, "fsync", 7),
    "between the last checkpoint and metrics.jsonl": (records, "write_lines", 3),
    "before the predictions": (records, "write_predictions", 1),
    "before the record": (records, "write_json", 2),  # the first one is spec.json
}


@pytest.fixture(autouse=True)
def saved_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is at the end of every epoch of the tiny runs; tests of other moments set their own."""
    monkeypatch.setattr(loop, "SAVED_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)


@pytest.fixture(scope="module")
def uninterrupted(make_tiny_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    done: dict[str, Path] = {}

    def finished(method: str) -> Path:
        if method not in done:
            done[method] = tmp_path_factory.mktemp(method) / "run"
            train(make_tiny_run(method), done[method])
        return done[method]

    return finished


@pytest.mark.parametrize("death", DEATHS)
def test_kill_9(make_tiny_run: MakeRun, tmp_path: Path, uninterrupted: Callable[[str], Path], death: str) -> None:
    owner, name, number = DEATHS[death]

    def work() -> None:
        at_call(number, die, owner, name, setattr)
        train(make_tiny_run("fixmatch"), tmp_path / "run")

    assert exit_code_of(work) == -signal.SIGKILL
    assert not (tmp_path / "run" / "record.json").exists()
    train(make_tiny_run("fixmatch"), tmp_path / "run")
    assert_same(uninterrupted("fixmatch"), tmp_path / "run")


@pytest.mark.parametrize("method", METHODS)
def test_killed_again_and_again(
    make_tiny_run: MakeRun, tmp_path: Path, uninterrupted: Callable[[str], Path], method: str
) -> None:
    """Each life lasts seven steps, so it adds one epoch of five."""

    def work() -> None:
        at_call(7, die, Sums, "add", setattr)
        train(make_tiny_run(method), tmp_path / "run")

    assert [exit_code_of(work) for _ in range(3)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert_same(uninterrupted(method), tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("method", METHODS)
def test_a_stop_request_saves_the_step_it_came_in(
    make_tiny_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Callable[[str], Path],
    method: str,
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    for step in (3, 5):  # of each life: the 3rd, inside an epoch, and the 3 + 5 = 8th; then 13th
        with monkeypatch.context() as patch:
            at_call(step, lambda: os.kill(os.getpid(), number), Sums, "add", patch.setattr)
            with pytest.raises(Interrupted) as caught:
                train(make_tiny_run(method), tmp_path / "run")
        assert caught.value.exit_code == 128 + number
        reached = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
        assert reached == {3: 3, 5: 8}[step]
        assert str(caught.value) == f"stopped after step {reached} of {STEPS}; run it again to continue"
        assert signal.getsignal(number) == before
    train(make_tiny_run(method), tmp_path / "run")
    assert_same(uninterrupted(method), tmp_path / "run")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in ALL_METHODS
        if name not in {*METHODS, *PAPERS, *PARTIAL_LABEL}
    ],
)
def test_a_baseline_goes_on_with_all_it_remembers(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Tables, queues, banks, teachers and random numbers: stopped in the middle of the second of three epochs."""
    short = {"steps_per_epoch": 3, "options": EARLY.get(method)}
    train(make_tiny_run(method, **short), tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_call(5, lambda: os.kill(os.getpid(), signal.SIGTERM), Sums, "add", patch.setattr)
        with pytest.raises(Interrupted):
            train(make_tiny_run(method, **short), tmp_path / "run")
    train(make_tiny_run(method, **short), tmp_path / "run")
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_a_stop_request_at_the_end_of_an_epoch(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Callable[[str], Path]
) -> None:
    for epoch in (1, 2, 3):
        with monkeypatch.context() as patch:
            at_call(1, lambda: os.kill(os.getpid(), signal.SIGTERM), loop, "evaluate", patch.setattr)
            with pytest.raises(Interrupted, match=f"stopped after step {5 * epoch} of {STEPS}"):
                train(make_tiny_run("fixmatch"), tmp_path / "run")
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == epoch
    train(make_tiny_run("fixmatch"), tmp_path / "run")
    assert_same(uninterrupted("fixmatch"), tmp_path / "run")


def test_a_second_ctrl_c_acts_at_once(make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_call(2, twice, Sums, "add", monkeypatch.setattr)
    with pytest.raises(KeyboardInterrupt):
        train(make_tiny_run("vanilla"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_another_run_s_checkpoint_is_refused(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    train(make_tiny_run("vanilla", epochs=1), tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    with pytest.raises(records.RunError, match="belongs to another run or version; delete it to start this run again"):
        train(make_tiny_run("vanilla", epochs=1, lr=0.5), tmp_path / "run")


def test_seconds_add_up_over_lives(make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(clock)))
    with monkeypatch.context() as patch:
        at_call(8, lambda: os.kill(os.getpid(), signal.SIGINT), Sums, "add", patch.setattr)
        with pytest.raises(Interrupted):
            train(make_tiny_run("vanilla"), tmp_path / "run")
    record = train(make_tiny_run("vanilla"), tmp_path / "run")
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert seconds == [10.0, 30.0, 40.0]  # the second epoch in two lives of ten seconds each
    assert record["seconds"] == 40.0


@pytest.mark.parametrize("every", [1.0, 25.0, 60.0])
def test_a_checkpoint_is_written_when_its_time_has_come(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Callable[[str], Path],
    every: float,
) -> None:  # fmt: skip
    """Looks after each second step and each epoch's end, ten seconds apart: not before, and always at the end."""
    monkeypatch.setattr(feed, "LOG_EVERY", 2)
    monkeypatch.setattr(loop, "SAVED_EVERY_S", every)
    now, saved = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    original_look, original_save = Sums.look, records.save_checkpoint

    def look(self: Sums) -> dict[str, float]:
        now[0] += 10
        return original_look(self)

    def save(path: Path, state: Any) -> None:
        saved.append(state["step"])
        original_save(path, state)

    monkeypatch.setattr(Sums, "look", look)
    monkeypatch.setattr(records, "save_checkpoint", save)
    train(make_tiny_run("fixmatch"), tmp_path / "run")
    looks = [2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert saved == {1.0: looks, 25.0: [5, 10, 15], 60.0: [10, 15]}[every]
    assert_same(uninterrupted("fixmatch"), tmp_path / "run")


def test_checkpoints_that_take_long_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing takes a fiftieth of the time at most: after 3 seconds of it the next is due in 150."""
    now = [0.0]
    monkeypatch.undo()
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    saved = loop.LastSaved()
    now[0] = 60.0
    assert saved.due()
    with saved.now():
        now[0] += 3.0
    for later, due in ((60.0, False), (149.0, False), (150.0, True)):
        now[0] = 63.0 + later
        assert saved.due() == due


@pytest.mark.parametrize("method", ["fixmatch", "ssfer"])
def test_killed_between_checkpoints_inside_epochs(
    make_tiny_run: MakeRun, tmp_path: Path, uninterrupted: Callable[[str], Path], method: str
) -> None:
    """Chunks of two, each life three steps long: it goes on from the middle of an epoch."""

    def work() -> None:
        feed.LOG_EVERY = 2
        at_call(4, die, Sums, "add", setattr)
        train(make_tiny_run(method), tmp_path / "run")

    deaths = 0
    while exit_code_of(work) == -signal.SIGKILL:
        deaths += 1
    assert deaths == 5  # with checkpoints after steps 2, 5, 8, 10 and 12
    assert_same(uninterrupted(method), tmp_path / "run")


def test_runs_of_many_epochs_are_scored_now_and_then(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fourth of ten epochs and the last: the metrics are those of a run that is scored after each."""
    run = make_tiny_run("fixmatch", epochs=10, steps_per_epoch=2)
    every = train(run, tmp_path / "each")
    monkeypatch.setattr(loop, "evaluation_interval", lambda *args: 4)
    record = train(run, tmp_path / "rarely")
    assert (every["scored_every"], record["scored_every"]) == (1, 4)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("each", "rarely")
    ]
    assert [line["epoch"] for line in lines[1] if "test" in line] == [4, 8, 10]
    for ours, theirs in zip(*lines, strict=True):
        assert ours["loss"] == theirs["loss"] and theirs.get("test", ours["test"]) == ours["test"]
    assert record["metrics"]["last"] == every["metrics"]["last"]
    assert record["metrics"]["best-on-test"]["epoch"] in (4, 8, 10)
