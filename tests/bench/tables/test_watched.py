"""What is drawn while several processes work: a line each, runs done, time left."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from ferbench.bench.tables.running.watched import NOTE, Noting, Watch, duration
from ferbench.bench.terminal import Terminal

MEANS = {"loss": 1.25, "loss/supervised": 1.25}


def screen(width: int) -> tuple[Terminal, io.StringIO]:
    file = io.StringIO()
    return Terminal(file=file, force_terminal=True, width=width, height=20, color_system=None), file


def test_a_note_is_there_while_the_run_is_worked_on(tmp_path: Path) -> None:
    with Noting(tmp_path, "demo/1/vanilla seed 1") as note:
        note.step(20, 400, MEANS)
        note.step(21, 400, MEANS)  # within the same second
        assert json.loads((tmp_path / NOTE).read_text())["step"] == 20
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width", [80, 120])
def test_a_line_per_worker_and_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Two of three runs are being worked on; one is finished after ten seconds."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    console, file = screen(width)
    with Watch(console, dict.fromkeys(folders, 400)) as watch:
        for folder in folders[:2]:
            Noting(folder, f"demo/1/{folder.name}/a-column-with-a-long-name seed 1").step(100, 400, MEANS)
        watch.look()
        now += 10
        for folder in folders[:2]:
            Noting(folder, f"demo/1/{folder.name}/a-column-with-a-long-name seed 1").step(200, 400, MEANS)
        (folders[1] / NOTE).unlink()
        (folders[1] / "record.json").write_text("{}")
        watch.look()
        file.truncate(0)
        watch._progress.refresh()  # what stands on the screen now
        text = file.getvalue()
    lines = [line.rstrip() for line in text.split("\n") if "runs done" in line or "demo/1" in line]
    assert len(lines) == 2
    assert "1/3" in lines[0] and "runs done, about 15 s left" in lines[0]  # 600 of 1200 steps left, 400 in ten seconds
    assert "200/400" in lines[1] and "demo/1/a/" in lines[1]
    assert "loss 1.250" in lines[1]


def test_the_time_left_counts_a_step_as_long_as_finished_runs_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a: 100 steps of 1 s; run b: 100 steps of 4 s; two at once."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    console, _ = screen(120)
    hours = dict(zip(folders, (100 / 3600, 400 / 3600), strict=True))
    with Watch(console, dict.fromkeys(folders, 100), hours, at_once=2) as watch:
        watch.look()
        assert watch._progress.tasks[0].description == "runs done, about 4 min left"  # 500 s of work, two at once
        Noting(folders[0], "a").step(0, 100, MEANS)
        now += 1
        watch.look()
        now += 50
        Noting(folders[0], "a").step(50, 100, MEANS)
        watch.look()
        assert watch._progress.tasks[0].description == "runs done, about 8 min left"  # 450 s of work at 50 s in 51
    with Watch(console, dict.fromkeys(folders, 100), {folders[0]: 1.0, folders[1]: None}, at_once=2) as watch:
        now += 10
        watch.look()
        assert watch._progress.tasks[0].description == "runs done"


def test_without_a_terminal_nothing_is_drawn(tmp_path: Path) -> None:
    file = io.StringIO()
    with Watch(Terminal(file=file), {tmp_path: 10}) as watch:
        watch.look()
    assert file.getvalue() == ""


def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    (tmp_path / NOTE).write_text("[")
    console, _ = screen(80)
    with Watch(console, {tmp_path: 10}) as watch:
        watch.look()
        assert len(watch._progress.tasks) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "4 s"), (99, "99 s"), (130, "2 min"), (7200, "2 h"), (360_000, "4 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
