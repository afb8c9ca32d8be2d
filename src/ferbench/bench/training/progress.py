"""What a person sees while training: a bar on a terminal, a line per epoch in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ferbench.bench.terminal import Terminal, mutter


class Reporter(Protocol):
    """Where the loop reports to."""

    def note(self, text: str) -> None: ...

    def step(self, step: int, total: int, means: Mapping[str, float]) -> None: ...

    def epoch(self, line: Mapping[str, Any]) -> None: ...


SAID_EVERY_S = 10.0


def now_and_then() -> Callable[[int, int], None]:
    """A progress of images that says on stderr, every ten seconds, how far it is: what takes less is silent."""
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


class Bar:
    """A progress bar with losses, mask rate, pseudo-label accuracy and time left; use it as a context manager."""

    def __init__(self, console: Terminal, title: str) -> None:
        self._console = console
        self._title = title
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=None, status="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", soft_wrap=True)

    def step(self, step: int, total: int, means: Mapping[str, float]) -> None:
        self._progress.update(self._task, completed=step, total=total, status=_status(means))

    def epoch(self, line: Mapping[str, Any]) -> None:
        if self._console.is_terminal:
            return
        rules: list[Mapping[str, Any]] = list(line.get("test", {}).values())  # student, then the averaged model
        test = next(iter(rules[-1].values())) if rules else None
        scored = f"  overall {test['overall']:.2f} mean {test['mean']:.2f}" if test else ""
        text = f"  {self._title} epoch {line['epoch']} step {line['step']} {_status(line)}{scored}"
        self._console.print(f"{text}  {line['seconds']:.0f} s", highlight=False, soft_wrap=True)


def _status(means: Mapping[str, Any]) -> str:
    parts = [f"loss {means['loss']:.3f}"]
    parts += [f"{name.removeprefix('loss/')} {means[name]:.3g}" for name in means if name.startswith("loss/")]
    if "mask rate" in means:
        parts.append(f"kept {means['mask rate']:.2f} right {means['pseudo-label accuracy']:.2f}")
    return " ".join(parts)
