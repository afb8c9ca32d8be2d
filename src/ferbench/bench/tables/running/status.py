"""How far a table is, from the files of its runs alone: nothing is locked, started or changed by looking."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ferbench.bench.files import alive, open_regular
from ferbench.bench.tables.planning.measured import Known, duration, known
from ferbench.bench.tables.running.plan import Plan, needs
from ferbench.bench.tables.running.reproduce import can_be_started_from
from ferbench.bench.tables.running.watched import NOTE, read_note
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training.recording.environment import device_name
from ferbench.bench.training.recording.standing import finished, finished_record, last_failure
from ferbench.bench.training.state import Run
from ferbench.protocols import Cell

STATES = ("running", "failed", "waiting", "to continue", "to run", "finished")  # in the order they are shown
QUIET_S = 900.0  # a run on another machine that wrote no note for so long is not running any more


@dataclass(frozen=True)
class Standing:
    """step: the last one that is known of, of `total`; hours: left, None where nothing says how long a step takes;
    said: where and since when it runs, what it waits for, why it failed, when it was finished."""

    name: str
    cell: str
    seed: int
    state: str
    step: int
    total: int
    hours: float | None
    said: str

    def __str__(self) -> str:
        left = "" if not self.hours else f"{duration(self.hours)} left"
        done = f"{self.step}/{self.total}"
        return f"{self.state:<11} {done:>15} {left:>11}  {self.name}{f'  {self.said}' if self.said else ''}"


def standings(plan: Plan, workspace: Workspace) -> list[Standing]:
    """One for each run, those that are worked on first."""
    times = times_of(workspace.results)
    found = [_standing(cell, seed, run, workspace, times) for cell, seed, run in plan.runs]
    return sorted(found, key=lambda one: STATES.index(one.state))


def times_of(results: Path) -> Known:
    """What most finished runs of a results folder say of step times; of this machine where there are none."""
    made: Counter[tuple[str, int]] = Counter()
    for path in (results / "runs").glob("*/record.json"):
        record = finished_record(path.parent) or {}
        if isinstance(record.get("device"), str) and isinstance(record.get("threads"), int):
            made[record["device"], record["threads"]] += 1
    device, threads = made.most_common(1)[0][0] if made else (device_name(), 1)
    return known(results, device, threads)


def summary(found: Iterable[Standing], left_out: int) -> str:
    """All of it in a line."""
    runs = list(found)
    counts = Counter(one.state for one in runs)
    parts = [f"{counts['finished']} of {len(runs)} runs are finished"]
    parts += [f"{counts[state]} {state}" for state in STATES if counts[state] and state != "finished"]
    parts += [f"{left_out} cells left out"] if left_out else []
    hours = [one.hours for one in runs if one.state != "finished"]
    if hours and None not in hours:
        total = sum(hour for hour in hours if hour is not None)
        at_once = f", {duration(total / counts['running'])} at {counts['running']} at once" if counts["running"] else ""
        parts.append(f"about {duration(total)} of work left{at_once}")
    return ", ".join(parts)


def as_json(found: Iterable[Standing], plan: Plan) -> dict[str, Any]:
    runs = [asdict(one) for one in found]
    return {
        "runs": runs,
        "left_out": [{"cell": cell.id, "why": why} for cell, why in plan.left_out],
        "finished": sum(run["state"] == "finished" for run in runs),
        "hours_left": None if any(run["hours"] is None for run in runs) else sum(run["hours"] for run in runs),
    }


def _standing(cell: Cell, seed: int, run: Run, workspace: Workspace, times: Known) -> Standing:
    folder = workspace.folder(run)
    total = run.recipe.epochs * run.recipe.steps_per_epoch
    state, step, said = _state(cell, run, folder, workspace)
    step = total if state == "finished" else min(step, total)
    whole = times.estimate(run.spec, run.recipe, len(run.test))
    hours = 0.0 if state == "finished" else whole.hours * (1 - step / total) if whole else None
    return Standing(folder.name, cell.id, seed, state, step, total, hours, said)


def _state(cell: Cell, run: Run, folder: Path, workspace: Workspace) -> tuple[str, int, str]:
    """State, the last step known of, and what is to be said."""
    if record := finished_record(folder):
        return "finished", 0, str(record.get("finished_at", ""))
    note, saved = read_note(folder / NOTE), _saved(folder / "checkpoint.pt")
    if note and _is_fresh(note, folder / NOTE):
        return "running", note["step"], f"on {note['where']} since {note['since']}: {note['status']}"
    if failed := last_failure(folder):
        return "failed", saved, f"{failed[1]}: {failed[0]}"
    for other, needed in needs(cell, run):
        before = workspace.folder(needed)
        if needed is run.trained_by and finished(before):
            continue
        if not can_be_started_from(before):
            why = ", which failed" if last_failure(before) else ""
            return "waiting", saved, f"for {other.id} seed {run.seed}{why}"
    quiet = f"not heard of since {note['since']} on {note['where']}" if note else ""
    return "to continue" if saved else "to run", saved, quiet


def _is_fresh(note: dict[str, Any], path: Path) -> bool:
    """Whether who wrote the note is still there: known of a process of this machine, else by the note's age."""
    if note["host"] == socket.gethostname():
        return alive(note["process"])
    try:
        return time.time() - path.stat().st_mtime < QUIET_S
    except OSError:
        return False


def _saved(path: Path) -> int:
    """The step after which a checkpoint was written, 0 where there is none that can be read."""
    try:
        return _step_of(path, path.stat().st_mtime_ns)
    except OSError:
        return 0


@lru_cache(maxsize=4096)
def _step_of(path: Path, _: int) -> int:
    import torch

    try:
        with open_regular(path):  # no pipe
            step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
    except Exception:  # whatever is wrong with it, the run that continues says
        return 0
    return step if isinstance(step, int) else 0
