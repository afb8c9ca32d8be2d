"""What a selection of cells comes to: runs in order, each after those that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ferbench.bench.data.faceset import DataError
from ferbench.bench.tables.counting.distinct import indistinct
from ferbench.bench.tables.planning.implemented import implemented
from ferbench.bench.tables.runs import Workspace, boxes_warning, resolve_cell
from ferbench.bench.training.networks.backbones import WeightsError
from ferbench.bench.training.rescore import network_of
from ferbench.bench.training.state import Run
from ferbench.methods import Variant
from ferbench.protocols import Cell


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
                plan.runs += [stage for item in found for stage in stages(*item)]
            except (DataError, WeightsError) as error:
                plan.left_out.append((cell, str(error)))
    plan.runs.sort(key=lambda item: item[1])  # every cell's first seed before any second one
    unique: dict[Path, tuple[Cell, int, Run]] = {}
    for item in plan.runs:
        unique.setdefault(workspace.folder(item[2]), item)
    plan.runs = _one_training_each(list(unique.values()))
    plan.warnings = sorted({line for _, _, run in plan.runs if (line := boxes_warning(run))})
    return plan


def _one_training_each(runs: Sequence[tuple[Cell, int, Run]]) -> list[tuple[Cell, int, Run]]:
    """Runs that differ in their test set alone name the first of them, which trains the network of all."""
    first: dict[str, Run] = {}
    named = []
    for cell, seed, run in runs:
        trains = first.setdefault(network_of(run.spec), run)
        named.append((cell, seed, run if trains is run else replace(run, trained_by=trains)))
    return named


def stages(cell: Cell, seed: int, run: Run) -> list[tuple[Cell, int, Run]]:
    """The run, after those that it needs."""
    earlier = [stage for other, needed in needs(cell, run) for stage in stages(other, seed, needed)]
    return [*earlier, (cell, seed, run)]


def needs(cell: Cell, run: Run) -> list[tuple[Cell, Run]]:
    """The runs that must be finished before this one: where it starts, whose predictions make its candidates, and
    which trains its network."""
    pairs = [(cell.before, run.before), *zip(cell.scored_by(len(run.scorers)), run.scorers, strict=True)]
    pairs.append((cell, run.trained_by))
    return [(other, needed) for other, needed in pairs if other and needed]
