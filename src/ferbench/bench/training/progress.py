"""What a person sees while training: a bar on a terminal, a line per epoch in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from ferbench.bench.terminal import Terminal, mutter


class Reporter(Protocol):
    """Where the loop reports to."""

    def note(self, text: str) -> None: ...

    def step(self, step: int, total: int, means: Mapping[str, float]) -> None: ...

    def epoch(self, line: Mapping[str, Any]) -> None: ...


SAID_EVERY_S = 10.0


def now_and_then() -> Callable[[int, int], None]:
    """A callback that says on stderr, every ten seconds, how many images are done. Shorter work says nothing."""
    said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SAID_EVERY_S:
            said = time.monotonic()
            mutter(f"preparing: {done:,} of {total:,} images")

    return progress


class Silent:
    """Reports nothing."""

    def note(self, text: str) -> None:
        pass

    def step(self, step: int, total: int, means: Mapping[str, float]) -> None:
        pass

    def epoch(self, line: Mapping[str, Any]) -> None:
        pass


def columns() -> tuple[ProgressColumn, ...]:
    """Bar, steps and time left, always whole; what is said of the run has the rest of the line, cut where it ends."""
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return (
        BarColumn(bar_width=16), MofNCompleteColumn(), TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[status]}", markup=False, table_column=rest),
    )  # fmt: skip


class Bar:
    """A run's title, and below it a bar with steps, time left and losses; use it as a context manager."""

    def __init__(self, console: Terminal, title: str) -> None:
        self._console = console
        self._title = title
        self._progress = Progress(
            *columns(), console=console, transient=True, expand=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task(title, total=None, status="")

    def __enter__(self) -> Bar:
        if self._console.is_terminal:
            self._console.print(self._title, markup=False, overflow="ellipsis", no_wrap=True)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", soft_wrap=True)

    def step(self, step: int, total: int, means: Mapping[str, float]) -> None:
        self._progress.update(self._task, completed=step, total=total, status=status_of(means))

    def epoch(self, line: Mapping[str, Any]) -> None:
        if self._console.is_terminal:
            return
        rules: list[Mapping[str, Any]] = list(line.get("test", {}).values())  # student, then the averaged model
        test = next(iter(rules[-1].values())) if rules else None
        scored = f"  overall {test['overall']:.2f} mean {test['mean']:.2f}" if test else ""
        text = f"  {self._title} epoch {line['epoch']} step {line['step']} {status_of(line)}{scored}"
        self._console.print(f"{text}  {line['seconds']:.0f} s", highlight=False, soft_wrap=True)


def status_of(means: Mapping[str, Any]) -> str:
    parts = [f"loss {means['loss']:.3f}"]
    parts += [f"{name.removeprefix('loss/')} {means[name]:.3g}" for name in means if name.startswith("loss/")]
    if "mask rate" in means:
        parts.append(f"kept {means['mask rate']:.2f} right {means['pseudo-label accuracy']:.2f}")
    return " ".join(parts)
