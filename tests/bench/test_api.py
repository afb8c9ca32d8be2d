"""ferbench from Python: records come back, and mistakes are the command's own lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ferbench
from ferbench.bench.board.leaderboard import collect
from ferbench.bench.training.recording.records import run_id
from ferbench.errors import UserError

SMALL = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4}


@pytest.fixture
def small_table(tmp_path: Path) -> Path:
    """A protocol of two short runs."""
    from ferbench.bench.templates import write_new

    path = write_new("protocol", "small", tmp_path)
    text = path.read_text().replace("epochs = 5", "epochs = 1").replace("steps_per_epoch = 100", "steps_per_epoch = 2")
    path.write_text(text)
    return path.parent


def test_train_returns_the_record_and_does_not_train_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {
        "split": "total:labels=40",
        "recipe": SMALL,
        "data_options": {"scale": 0.1},
        "results": tmp_path,
        "quiet": True,
    }
    first = ferbench.train("fixmatch", options={"threshold": 0.5}, **asked)
    assert first.spec["options"]["threshold"] == 0.5 and first.spec["recipe"]["batch_size"] == 4
    assert first.name == run_id(first.spec) and 0 <= first.metrics["last"]["mean"] <= 100
    assert first.record["evidence"]["rules"]
    again = ferbench.train("fixmatch", options={"threshold": 0.5}, **asked)
    assert again.finished_at == first.finished_at and again.record == first.record
    assert capsys.readouterr().out == ""


def test_reproduce_returns_every_run_and_remembers_the_protocol(tmp_path: Path, small_table: Path) -> None:
    found = ferbench.reproduce(f"{small_table}/1", seeds=1, results=tmp_path / "results", quiet=True)
    assert [run.spec["method"] for run in found] == ["vanilla", "fixmatch"] and {run.spec["seed"] for run in found} == {
        1
    }
    board = collect(tmp_path / "results")
    assert {line.row for line in board.lines if line.paper == "small" and line.run_ids} == {"vanilla", "fixmatch"}


def test_mistakes_are_the_commands_lines(tmp_path: Path) -> None:
    for call in (
        lambda: ferbench.train("fixmach", results=tmp_path),
        lambda: ferbench.train("fixmatch", recipe={"epoch": 1}, results=tmp_path),
        lambda: ferbench.reproduce("remop/44", results=tmp_path),
        lambda: ferbench.reproduce("demo", preset="large", results=tmp_path),
        lambda: ferbench.reproduce("demo", variant="other", results=tmp_path),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_import_alone_costs_nothing() -> None:
    code = "import sys, ferbench; assert 'torch' not in sys.modules and 'pandas' not in sys.modules; ferbench.train"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ferbench.trian  # type: ignore[attr-defined]  # noqa: B018
