"""From a plan to finished runs: what is done is skipped, what was interrupted continues.

Each run is locked by the process that does it, so several may work on one results folder: `--jobs` starts such
processes, and a second command, or another machine on a shared folder, may join in. A run that fails is its own affair:
the others are done, and at the end it is said what failed and why.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ferbench.bench import terminal
from ferbench.bench.files import sweep
from ferbench.bench.tables.candidate_sets import SCORES
from ferbench.bench.tables.running import cards
from ferbench.bench.tables.running.claims import claimed, holder
from ferbench.bench.tables.running.plan import Plan, needs
from ferbench.bench.tables.running.watched import Noting, remove_note
from ferbench.bench.tables.running.workers import command_id, is_worker
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.terminal import complain, say
from ferbench.bench.training import processes
from ferbench.bench.training.progress import Bar, Reporter
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.code import method_code
from ferbench.bench.training.recording.standing import (
    failure,
    finished,
    finished_record,
    forget_failure,
    note_failure,
    set_aside,
)
from ferbench.bench.training.rescore import score_network
from ferbench.bench.training.state import Run
from ferbench.bench.training.train import train
from ferbench.errors import UserError
from ferbench.protocols import Cell

MOST_JOBS = 4  # each takes about 1 GB
WAIT_S = 1.0  # between looks at runs that other processes are at
MENDABLE = (UserError, MemoryError, torch.OutOfMemoryError)  # what ends a run and not the command


def can_be_started_from(folder: Path) -> bool:
    """Whether another run may start here: finished, and its weights, or the scores they gave, are still there.

    A folder that holds the record alone (copied, or shipped with a repository) is trained again.
    """
    return finished(folder) and any((folder / name).exists() for name in ("checkpoint.pt", SCORES))


def execute(plan: Plan, workspace: Workspace, *, again: bool = False) -> None:
    """Run what is not finished, and wait for runs that others are at.

    A worker of `--jobs` leaves those to the others of its command, unless its own runs start from them. A run that
    fails is noted in its folder and left. again: train anew what other code finished or began.
    """
    table = Table(workspace, again)
    waiting = plan.runs
    while waiting:
        later = [item for item in waiting if not table.attempt(*item)]
        if len(later) == len(waiting):
            time.sleep(WAIT_S)
        waiting = later
    for folder in (workspace.folder(run) for _, _, run in plan.runs):
        if finished(folder):
            remove_note(folder)  # of a process that was killed when it had just finished the run,
            sweep(folder)  # or another one was finishing it


def unfinished(plan: Plan, workspace: Workspace, again: bool = False) -> list[Run]:
    """The runs of the plan that are still to be done."""
    table = Table(workspace, again)
    return [run for _, _, run in plan.runs if not table.done(run)]


def finished_by(plan: Plan, workspace: Workspace) -> tuple[list[str], list[str]]:
    """Names of the runs that this code finished, and of those that other code did."""
    table = Table(workspace, False)
    ours: list[str] = []
    others: list[str] = []
    for run in (run for _, _, run in plan.runs if table.done(run)):
        (ours if table.by_this_code(run) else others).append(workspace.folder(run).name)
    return ours, others


def failures(plan: Plan, workspace: Workspace) -> list[str]:
    """A line for each run of the plan that is not finished: why it failed, or which failed run it waits for."""
    lines = []
    for cell, seed, run in plan.runs:
        if not finished(workspace.folder(run)):
            name, why = f"{cell.id} seed {seed}", _why(cell, run, workspace)
            lines.append(f"{name}: {why}")
    return lines


def _why(cell: Cell, run: Run, workspace: Workspace) -> str:
    if reason := failure(workspace.folder(run), command_id()):
        return f"failed: {reason}"
    for other, needed in needs(cell, run):
        if not can_be_started_from(workspace.folder(needed)):
            return f"waiting for {other.id}"
    return "not finished"


@dataclass
class Table:
    """One pass over a plan by one process."""

    workspace: Workspace
    again: bool
    _said: set[Path] = field(default_factory=set)

    def attempt(self, cell: Cell, seed: int, run: Run, needed_by_us: bool = False) -> bool:
        """Finish the run; False where another process is at it, or at one that it starts from. True also for a run
        that failed, now or before in this command, or that needs such a run."""
        folder = self.workspace.folder(run)
        if processes.agreed(self.done(run, needed_by_us) or failure(folder, command_id()) is not None):
            return True
        for other, needed in needs(cell, run):
            before = self.workspace.folder(needed)
            if needed is run.trained_by and finished(before):
                continue  # without its checkpoint there is nothing to score, and this run trains the network itself
            if not processes.agreed(can_be_started_from(before)):
                # whoever was at it may have been killed
                if not self.attempt(other, seed, needed, needed_by_us=True):
                    return False
                if not processes.agreed(can_be_started_from(before)):
                    return True  # it failed; `failures` says so
        with claimed(folder) as free:
            if free and not processes.agreed(self.done(run, needed_by_us)):
                self._train(f"{cell.id} seed {seed}", run, folder)
        return free or (is_worker() and not needed_by_us) or self._wait(folder)

    def done(self, run: Run, needed_by_us: bool = False) -> bool:
        folder = self.workspace.folder(run)
        if self.again and not self.by_this_code(run):
            return False
        return can_be_started_from(folder) if needed_by_us else finished(folder)

    def by_this_code(self, run: Run) -> bool:
        record = finished_record(self.workspace.folder(run))
        return record is not None and record.get("code") == method_code(run.method, run.values)

    def _train(self, title: str, run: Run, folder: Path) -> None:
        """Train the run; what goes wrong with it is said and noted, and the table goes on."""
        try:
            if not is_worker():
                cards.settle()
            if self.again and processes.rank() == 0:
                set_aside(folder, records.spec_hash(run.spec), method_code(run.method, run.values))
            with Noting(folder, title, None if is_worker() else Bar(terminal.console, title)) as reporter:
                record = self._record(run, folder, reporter)
        except MENDABLE as error:
            if processes.several():  # the others are in the middle of the step
                raise
            reason = str(error) if isinstance(error, UserError) else "out of memory"
            note_failure(folder, command_id(), reason)
            complain(f"{title}: {reason}")
            return
        if processes.rank() == 0:
            forget_failure(folder)
            remove_note(folder)  # of a worker that was killed
            scored = record["metrics"]["last"]
            say(f"{title}: overall {scored['overall']:.2f} mean {scored['mean']:.2f} ({record['seconds']:.0f} s)")

    def _record(self, run: Run, folder: Path, reporter: Reporter) -> dict[str, Any]:
        """Trained, or scored by the network of the run that trains it."""
        if run.trained_by and not processes.several():
            trained = self.workspace.folder(run.trained_by)
            if (trained / "checkpoint.pt").exists():
                return score_network(run, folder, trained, reporter)
        return train(run, folder, reporter=reporter)

    def _wait(self, folder: Path) -> bool:
        """False: not done yet. Says once who is at it."""
        if folder not in self._said and not is_worker():
            self._said.add(folder)
            say(f"waiting for {holder(folder)}, which is at {folder.name}")
        return False


def default_jobs(runs: int) -> int:
    """One process under torchrun and for each GPU that is free; on the CPU one per core, up to four."""
    if processes.several():
        return 1
    if torch.cuda.is_available():
        return max(1, min(runs, cards.free()))
    return max(1, min(runs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MOST_JOBS))


def one_thread_each(threads: int | None) -> None:
    """Give every run of a table the same number of CPU threads, however many are missing: `threads`, or one."""
    if threads is None and not torch.cuda.is_available():
        torch.set_num_threads(1)
