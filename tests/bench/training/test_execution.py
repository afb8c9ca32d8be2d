"""What a run depends on belongs to the run: its threads, its code, and numbers that are numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ferbench.bench.training import train as loop
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording import execution, records
from ferbench.bench.training.recording.execution import DAMAGED, Execution
from ferbench.bench.training.recording.finite import TrainingError, check_scores, not_finite
from ferbench.bench.training.train import train

MakeRun = Callable[..., Any]


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def stopped(make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that began with two threads and was stopped."""
    torch.set_num_threads(2)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "requested", property(lambda self: True))
        patch.setattr(StopRequest, "__enter__", lambda self: (setattr(self, "signal", 15), self)[1])
        with pytest.raises(Interrupted):
            train(make_tiny_run("vanilla"), tmp_path)
    torch.set_num_threads(1)
    return tmp_path


def test_a_run_keeps_its_threads(make_tiny_run: MakeRun, stopped: Path) -> None:
    record = train(make_tiny_run("vanilla"), stopped)
    assert record["conditions"]["threads"] == 2 and record["bit-identical"] == "yes"
    assert record["threads"] == 2 and torch.get_num_threads() == 1


def test_threads_that_are_asked_for_are_said(
    make_tiny_run: MakeRun, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "_asked", 1)
    notes = Notes()
    record = train(make_tiny_run("vanilla"), stopped, reporter=notes)
    assert record["bit-identical"].startswith("no, threads 2 -> 1 after step ")
    assert any("not bit-identical" in line and "threads 2 -> 1" in line for line in notes.lines)


@pytest.mark.parametrize("name", ["device", "torch", "precision", "processes"])
def test_other_conditions_are_said(make_tiny_run: MakeRun, stopped: Path, name: str) -> None:
    run = make_tiny_run("vanilla")
    path, spec = stopped / "checkpoint.pt", records.spec_hash(run.spec)
    saved = records.load_checkpoint(path, spec)
    records.save_checkpoint(path, {**saved, "conditions": {**saved["conditions"], name: "another"}})
    record = train(run, stopped)
    assert record["bit-identical"].startswith(f"no, {name} another -> ")


def test_a_checkpoint_of_other_code_is_refused(make_tiny_run: MakeRun, stopped: Path) -> None:
    run = make_tiny_run("vanilla")
    saved = records.load_checkpoint(stopped / "checkpoint.pt", records.spec_hash(run.spec))
    records.save_checkpoint(stopped / "checkpoint.pt", {**saved, "code": "0" * 16})
    with pytest.raises(records.RunError, match="was written by code 0000000000000000 .* --again begins the run anew"):
        train(run, stopped)


def test_a_damaged_checkpoint_is_set_aside_and_said(make_tiny_run: MakeRun, stopped: Path) -> None:
    path, notes = stopped / "checkpoint.pt", Notes()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    record = train(make_tiny_run("vanilla"), stopped, reporter=notes)
    assert record["status"] == "finished" and (stopped / DAMAGED).read_bytes() == content
    assert any("its digest says that it was changed" in line and "set aside" in line for line in notes.lines)


def test_a_whole_checkpoint_that_does_not_fit_is_one_line(make_tiny_run: MakeRun, stopped: Path) -> None:
    run = make_tiny_run("vanilla")
    saved = records.load_checkpoint(stopped / "checkpoint.pt", records.spec_hash(run.spec))
    for changed in ({**saved, "method": {}}, {**saved, "step": "x"}, {**saved, "conditions": {}}, {**saved, "sums": 3}):
        records.save_checkpoint(stopped / "checkpoint.pt", changed)
        with pytest.raises(records.RunError, match="does not fit this run") as caught:
            train(run, stopped)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"lr": 1e30}, {"lr": 1e30, "optimizer": "sgd"}], ids=["adam", "sgd"])
def test_a_last_update_that_spoils_the_weights_leaves_no_record(
    make_tiny_run: MakeRun, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The loss before it was finite, and the class of NaN scores is 0: it would look like a number."""
    with pytest.raises(TrainingError) as caught:
        train(make_tiny_run("vanilla", epochs=1, steps_per_epoch=1, **options), tmp_path)
    assert "not finite" in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.json"]


def test_scores_that_are_not_finite_are_named() -> None:
    model = torch.nn.BatchNorm1d(2)
    model.running_mean[0] = float("nan")
    scores = torch.tensor([[0.5, 0.5], [float("nan"), 1.0], [float("inf"), 0.0]]).numpy()
    with pytest.raises(TrainingError, match="rule 'main' of 2 of 3 images are not finite .running_mean is not finite"):
        check_scores({"other": scores[:1], "main": scores}, model)
    assert not_finite({"a": torch.ones(2), "b": torch.tensor([float("inf")]), "c": torch.tensor([1])}) == ["b"]


def test_the_conditions_of_a_run_on_the_cpu() -> None:
    here = Execution.here("abc", torch.device("cpu"), "bfloat16", 1)
    assert here.conditions["threads"] == torch.get_num_threads() and "bfloat16" in here.conditions["precision"]
    assert here.record()["bit-identical"] == "yes" and loop.SAVED_EVERY_S > 0
