"""From a protocol's cells to finished runs: what is done is skipped, what was interrupted continues.

Each run is locked by the process that does it, so several may work on one results folder: `--jobs` starts such
processes, and a second command, or another machine on a shared folder, may join in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ferbench.bench.data.faceset import DataError
from ferbench.bench.tables.candidate_sets import SCORES
from ferbench.bench.tables.distinct import indistinct
from ferbench.bench.tables.implemented import implemented
from ferbench.bench.tables.runs import Workspace, boxes_warning, resolve_cell
from ferbench.bench.training import processes, records
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.networks.backbones import WeightsError
from ferbench.bench.training.progress import Bar, Silent
from ferbench.bench.training.state import Run
from ferbench.bench.training.train import train
from ferbench.methods import Variant
from ferbench.protocols import Cell

try:
    import fcntl
except ImportError:  # Windows: no locks, so one process at a time
    fcntl = None  # type: ignore[assignment]

WORKER = "FERBENCH_WORKER"  # set in the environment of the processes that --jobs starts
MOST_JOBS = 4  # each takes about 1 GB
WAIT_S = 1.0  # between looks at runs that other processes are at


@dataclass
class Plan:
    """What a selection of cells comes to: runs in order, cells that cannot be run, each with the reason, and what runs
    will lack, a line each."""

    runs: list[tuple[Cell, int, Run]]
    left_out: list[tuple[Cell, str]]
    warnings: list[str] = field(default_factory=list)


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
    plan, alike = Plan([], []), indistinct(cells, preset, variant)
    for cell in cells:
        if cell.published_only:
            plan.left_out.append((cell, "the mean of other columns" if cell.column.mean_of else "published only"))
        elif not implemented(cell):
            plan.left_out.append((cell, f"not implemented yet: {cell.method}"))
        elif cell.id in alike:
            plan.left_out.append((cell, alike[cell.id]))
        else:
            try:
                seeds = seeds_of(cell, number)
                found = [(cell, seed, resolve_cell(cell, preset, seed, workspace, variant)) for seed in seeds]
                plan.runs += [stage for item in found for stage in _stages(*item)]
            except (DataError, WeightsError) as error:
                plan.left_out.append((cell, str(error)))
    plan.runs.sort(key=lambda item: item[1])  # every cell's first seed before any second one
    unique: dict[Path, tuple[Cell, int, Run]] = {}
    for item in plan.runs:
        unique.setdefault(workspace.folder(item[2]), item)
    plan.runs = list(unique.values())
    plan.warnings = sorted({line for _, _, run in plan.runs if (line := boxes_warning(run))})
    return plan


def _stages(cell: Cell, seed: int, run: Run) -> list[tuple[Cell, int, Run]]:
    """The run, after those that it needs."""
    earlier = [stage for other, needed in _needed(cell, run) for stage in _stages(other, seed, needed)]
    return [*earlier, (cell, seed, run)]


def _needed(cell: Cell, run: Run) -> list[tuple[Cell, Run]]:
    """The runs that must be finished before this one: where it starts, and whose predictions make its candidates."""
    pairs = [(cell.before, run.before), *zip(cell.scored_by(len(run.scorers)), run.scorers, strict=True)]
    return [(other, needed) for other, needed in pairs if other and needed]


def finished(folder: Path) -> bool:
    return (folder / "record.json").exists()


def can_be_started_from(folder: Path) -> bool:
    """Whether another run may start here: finished, and its weights, or the scores they gave, are still there.

    A folder that holds the record alone (copied, or shipped with a repository) is trained again.
    """
    return finished(folder) and any((folder / name).exists() for name in ("checkpoint.pt", SCORES))


def execute(plan: Plan, workspace: Workspace, console: Console) -> None:
    """Run what is not finished and nobody else is at, and wait for runs that others are at and ours start from."""
    waiting = plan.runs
    while waiting:
        later = [(cell, seed, run) for cell, seed, run in waiting if not _attempt(cell, seed, run, workspace, console)]
        if len(later) == len(waiting):
            time.sleep(WAIT_S)
        waiting = later


def _attempt(
    cell: Cell, seed: int, run: Run, workspace: Workspace, console: Console, done: Callable[[Path], bool] = finished
) -> bool:
    """Finish the run, or leave it to whoever is at it; False where it starts from one that is not finished yet."""
    folder = workspace.folder(run)
    if processes.agreed(done(folder)):
        return True
    for other, needed in _needed(cell, run):
        if not processes.agreed(can_be_started_from(workspace.folder(needed))):
            # whoever was at it may have been killed
            _attempt(other, seed, needed, workspace, console, can_be_started_from)
            if not processes.agreed(can_be_started_from(workspace.folder(needed))):
                return False
    with claimed(folder) as free:
        if free and not processes.agreed(done(folder)):
            title = f"{cell.id} seed {seed}"
            record = _train_quietly(run, folder) if WORKER in os.environ else _train_shown(run, folder, console, title)
            if processes.rank() == 0:
                scored = record["metrics"]["last"]
                took = f"{record['seconds']:.0f} s"
                line = f"{title}: overall {scored['overall']:.2f} mean {scored['mean']:.2f} ({took})"
                console.print(line, highlight=False, soft_wrap=True)
    return True


def _train_shown(run: Run, folder: Path, console: Console, title: str) -> dict[str, Any]:
    with Bar(console, title) as bar:
        return train(run, folder, reporter=bar)


def _train_quietly(run: Run, folder: Path) -> dict[str, Any]:
    return train(run, folder, reporter=Silent())


def default_jobs(runs: int) -> int:
    """One process under torchrun and for each GPU; on the CPU one per core, up to four."""
    if fcntl is None or processes.several():
        return 1
    if torch.cuda.is_available():
        return max(1, min(runs, len(gpus())))
    return max(1, min(runs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MOST_JOBS))


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = said.split(",") if said else list(map(str, range(torch.cuda.device_count())))
    return names[: torch.cuda.device_count()]


def worker_environment(number: int, found: Sequence[str]) -> dict[str, str]:
    """The environment of worker `number`, from 0: a GPU of its own while there are enough, else shared in turn."""
    own = {"CUDA_VISIBLE_DEVICES": found[number % len(found)]} if found else {}
    return {**os.environ, WORKER: "1", "OMP_NUM_THREADS": "1", **own}


def run_workers(arguments: Sequence[str], jobs: int) -> None:
    """`jobs` processes of this same command share its runs, one CPU thread each, spread over the GPUs.

    Raises Interrupted or RunError.
    """
    found = gpus()
    command = [sys.executable, "-m", "ferbench.bench.cli", *arguments]
    with StopRequest() as stop:
        # Sessions of their own: Ctrl-C reaches them through us, once.
        workers = [
            subprocess.Popen(command, env=worker_environment(number, found), start_new_session=True)
            for number in range(jobs)
        ]
        passed_on = False
        while any(worker.poll() is None for worker in workers):
            if stop.requested and not passed_on:
                passed_on = True
                for worker in workers:
                    worker.send_signal(stop.signal)
            time.sleep(0.1)
    if stop.requested:
        raise Interrupted(stop.signal, "stopped; all state is saved; run it again to continue")
    failed = [worker.returncode for worker in workers if worker.returncode]
    if failed:
        raise records.RunError(f"{len(failed)} of {jobs} processes failed (the lines above say why); run it again")


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold the run's lock; False when another command holds it. The system frees it when a process dies.

    Of the processes of one torchrun the first holds it for all.
    """
    if processes.rank() > 0:
        yield processes.agreed(False)
        return
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
            yield processes.agreed(False)
            return
        yield processes.agreed(True)
