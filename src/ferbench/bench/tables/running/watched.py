"""What the processes of a table are at, on the screen of the command that started them, or of whoever asks.

Whoever trains a run leaves a note in its folder about once a second: where, since when, how far it is, and its losses.
The command reads the notes and draws a line per worker, and above them how many runs are done and how long the rest
will take.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from ferbench.bench.files import beside
from ferbench.bench.terminal import Terminal
from ferbench.bench.training.progress import Bar, status_of
from ferbench.bench.training.recording import records

NOTE = "progress.json"
EVERY_S = 1.0
_NOTED: dict[str, type] = {
    "title": str, "step": int, "total": int, "status": str, "where": str, "since": str, "process": int, "host": str,
}  # fmt: skip


class Noting:
    """A reporter, as a context manager: the note is there while the run is being worked on.

    bar: what a person looks at besides; None in a process that nobody looks at
    """

    def __init__(self, folder: Path, title: str, bar: Bar | None = None) -> None:
        self._folder, self._title, self._bar, self._written = folder, title, bar, 0.0
        self._since = records.now()

    def __enter__(self) -> Noting:
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        remove_note(self._folder)
        if self._bar:
            self._bar.__exit__(*_)

    def note(self, text: str) -> None:
        if self._bar:
            self._bar.note(text)

    def step(self, step: int, total: int, means: Mapping[str, float]) -> None:
        if self._bar:
            self._bar.step(step, total, means)
        if time.monotonic() - self._written >= EVERY_S:
            self._written = time.monotonic()
            write_note(self._folder, self._title, step, total, status_of(means), socket.gethostname(), self._since)

    def epoch(self, line: Mapping[str, Any]) -> None:
        if self._bar:
            self._bar.epoch(line)


def write_note(folder: Path, title: str, step: int, total: int, status: str, where: str, since: str) -> None:
    """where: the machine that trains; this process, which is there as long as the note holds, may be on another."""
    note = {
        "title": title, "step": step, "total": total, "status": status, "where": where, "since": since,
        "process": os.getpid(), "host": socket.gethostname(),
    }  # fmt: skip
    temporary = beside(folder / NOTE)
    with suppress(OSError):  # a note that cannot be written harms nothing
        temporary.write_text(json.dumps(note), encoding="utf-8")
        temporary.replace(folder / NOTE)


def remove_note(folder: Path) -> None:
    with suppress(OSError):
        (folder / NOTE).unlink(missing_ok=True)


def read_note(path: Path) -> dict[str, Any] | None:
    """A note, None where there is none that can be read."""
    try:
        note = records.read_json(path)
        return {key: kind(note[key]) for key, kind in _NOTED.items()}
    except (records.RunError, ValueError, KeyError, TypeError, OverflowError):
        return None


class Watch:
    """The lines on the screen; `look` brings them up to date. Nothing is drawn where there is no terminal.

    steps: for the folder of each run that is missing, how many steps it has
    hours: what each is estimated to take, None where nothing says so; at_once: how many runs are worked on together
    """

    def __init__(
        self, console: Terminal, steps: Mapping[Path, int], hours: Mapping[Path, float | None] | None = None,
        at_once: int = 1,
    ) -> None:  # fmt: skip
        self._steps, self._done, self._first = dict(steps), dict.fromkeys(steps, 0), dict[Path, int]()
        self._seconds, self._at_once = _seconds_a_step(steps, hours or {}), at_once
        self._looked, self._began = 0.0, time.monotonic()
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._progress = Progress(
            BarColumn(bar_width=16), MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False, table_column=rest),
            console=console, transient=True, expand=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._all = self._progress.add_task(f"of {len(steps)} runs", total=len(steps))
        self._lines: dict[Path, TaskID] = {}

    def __enter__(self) -> Watch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def look(self) -> None:
        """Read the notes, at most once a second."""
        if self._progress.disable or time.monotonic() - self._looked < EVERY_S:
            return
        self._looked = time.monotonic()
        finished = 0
        for folder, total in self._steps.items():
            note = read_note(folder / NOTE)
            if note is None and (folder / "record.json").exists():
                self._done[folder] = total
                self._first.setdefault(folder, 0)
                finished += 1
            elif note is not None:
                self._done[folder] = int(note["step"])
                self._first.setdefault(folder, int(note["step"]))
            self._draw(folder, note)
        text = f"runs done{self._left()}"
        self._progress.update(self._all, completed=finished, description=text)

    def _draw(self, folder: Path, note: Mapping[str, Any] | None) -> None:
        if note is None:
            if folder in self._lines:
                self._progress.remove_task(self._lines.pop(folder))
            return
        if folder not in self._lines:
            self._lines[folder] = self._progress.add_task("", total=int(note["total"]))
        text = f"{note['title']}: {note['status']}"
        self._progress.update(self._lines[folder], completed=int(note["step"]), description=text)

    def _left(self) -> str:
        """How long the rest will take at the pace since the command began; before there is one, by the estimates.

        Where those are known a step counts as long as it takes: runs of a table differ in that.
        """
        each = self._seconds or dict.fromkeys(self._steps, 1.0)
        made = sum(each[folder] * (self._done[folder] - first) for folder, first in self._first.items())
        rest = sum(each[folder] * (total - self._done[folder]) for folder, total in self._steps.items())
        passed = time.monotonic() - self._began
        if made > 0 and passed >= 5:
            return f", about {duration(rest * passed / made)} left"
        return f", about {duration(rest / self._at_once)} left" if self._seconds else ""


def _seconds_a_step(steps: Mapping[Path, int], hours: Mapping[Path, float | None]) -> dict[Path, float] | None:
    """Of each run; None unless all are known."""
    found = {folder: 3600 * took / steps[folder] for folder, took in hours.items() if took and steps.get(folder)}
    return found if found.keys() == steps.keys() else None


def duration(seconds: float) -> str:
    """A rough duration for people: 50 s, 12 min, 3 h, 4 days."""
    for limit, unit, word in ((100, 1, "s"), (6000, 60, "min"), (100 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / 86400:.0f} days"
