"""A table in N parts for N machines, which may share nothing.

Runs that need each other (a stage and what starts from it, candidate models and what learns from their sets, a network
and what is scored by it) stay in one part: no part waits for another one, and no run is trained twice. The parts depend
on the plan alone, not on what is finished, so that every machine with the same data divides it alike.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ferbench.bench.tables.running.plan import Plan, needs
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training.state import Run
from ferbench.errors import UserError


class ShardError(UserError):
    """A part of a table that there is not."""


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1, of `of`."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """From I/N. Raises ShardError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ShardError(f"--shard {text}: write it as I/N, I from 1 to N, such as 2/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def part_of(plan: Plan, workspace: Workspace, shard: Shard) -> tuple[Plan, str]:
    """The shard's runs as a plan, and a line on what they are.

    The largest group goes first to the part with the fewest steps so far, and so on.
    """
    groups = _groups(plan, workspace)
    loads, mine = [0] * shard.of, set[Path]()
    for group in sorted(groups, key=lambda group: (-_steps(group.values()), min(path.name for path in group))):
        part = loads.index(min(loads))
        loads[part] += _steps(group.values())
        if part + 1 == shard.number:
            mine |= group.keys()
    names = sorted(workspace.folder(run).name for _, _, run in plan.runs)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    said = f"shard {shard} of plan {digest}: {len(mine)} of {len(names)} runs, which need nothing of the other shards"
    if len(groups) < shard.of:
        said += f"; the runs stand in {len(groups)} groups that need each other, so more shards than that have no work"
    if plan.left_out:
        said += "; the shards make up the whole where every machine names the same plan"
    runs = [item for item in plan.runs if workspace.folder(item[2]) in mine]
    return replace(plan, runs=runs), said


def _groups(plan: Plan, workspace: Workspace) -> list[dict[Path, Run]]:
    """The runs by folder, in groups that need nothing of each other."""
    root: dict[Path, Path] = {}

    def find(folder: Path) -> Path:
        root.setdefault(folder, folder)
        while root[folder] != folder:
            folder = root[folder]
        return folder

    for cell, _, run in plan.runs:
        mine = workspace.folder(run)
        for _, needed in needs(cell, run):
            root[find(workspace.folder(needed))] = find(mine)
    groups: dict[Path, dict[Path, Run]] = defaultdict(dict)
    for _, _, run in plan.runs:
        groups[find(workspace.folder(run))][workspace.folder(run)] = run
    return list(groups.values())


def _steps(runs: Iterable[Run]) -> int:
    """What they train; a run that another one's network is scored for trains nothing."""
    return sum(1 if run.trained_by else run.recipe.epochs * run.recipe.steps_per_epoch for run in runs)
