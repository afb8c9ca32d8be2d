"""From a protocol's cells to finished runs: what is done is skipped, what was interrupted continues.

Two `reproduce` commands may work on one results folder at the same time: each run is locked by the one that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ferbench.bench import records
from ferbench.bench.backbones import WeightsError
from ferbench.bench.data.faceset import DataError
from ferbench.bench.leaderboard import implemented
from ferbench.bench.progress import Bar
from ferbench.bench.runs import Workspace, resolve_cell
from ferbench.bench.train import Run, train
from ferbench.methods import Variant
from ferbench.protocols import Cell

try:
    import fcntl
except ImportError:  # Windows: no locks, so one command at a time
    fcntl = None  # type: ignore[assignment]


@dataclass
class Plan:
    """What a selection of cells comes to: runs in order, and cells that cannot be run, each with the reason."""

    runs: list[tuple[Cell, int, Run]]
    left_out: list[tuple[Cell, str]]


def seeds_of(cell: Cell, number: int | None) -> tuple[int, ...]:
    """The table's seeds, or the first `number` of them, going on from the last one where the table has fewer."""
    seeds = cell.seeds
    if number is None:
        return seeds
    return tuple([*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + number - len(seeds))][:number])


def make_plan(
    cells: Sequence[Cell], preset: str, number: int | None, workspace: Workspace, variant: Variant | None
) -> Plan:
    """Resolve every cell; data that is not there or does not fit leaves its cells out, with the reason."""
    plan = Plan([], [])
    for cell in cells:
        if cell.published_only:
            plan.left_out.append((cell, "published only"))
        elif not implemented(cell):
            plan.left_out.append((cell, f"not implemented yet: {cell.method}"))
        else:
            try:
                seeds = seeds_of(cell, number)
                plan.runs += [(cell, seed, resolve_cell(cell, preset, seed, workspace, variant)) for seed in seeds]
            except (DataError, WeightsError) as error:
                plan.left_out.append((cell, str(error)))
    return plan


def finished(folder: Path) -> bool:
    return (folder / "record.json").exists()


def execute(plan: Plan, workspace: Workspace, console: Console, title: Callable[[Cell, int], str]) -> int:
    """Run what is not finished, each cell's first seed before any second one; returns how many runs were done now."""
    done = 0
    for cell, seed, run in sorted(plan.runs, key=lambda item: item[1]):
        folder = workspace.folder(run)
        with claimed(folder) as free:
            if not free or finished(folder):
                continue
            with Bar(console, title(cell, seed)) as bar:
                train(run, folder, reporter=bar)
            done += 1
    return done


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold the run's lock; False when another process holds it. The system frees it when a process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise records.RunError(f"cannot write {folder}: {error.strerror}; choose another --results folder") from error
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    (folder / ".lock").unlink(missing_ok=True)
