"""Rows that a preset cannot tell apart: in the paper they differ, under the preset they would be one and the same run.

A preset that sets one backbone for all makes one run of a table that compares backbones. Printing it under every row's
name says that backbones make no difference, so such rows are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ferbench.bench.tables.planning.implemented import COMPARABLE, implemented
from ferbench.bench.tables.settings import same_run, settings
from ferbench.errors import DataError
from ferbench.methods import MethodError, Variant
from ferbench.protocols import Cell, cells


def indistinct(chosen: Iterable[Cell], preset: str, variant: Variant | None = None) -> dict[str, str]:
    """Of the cells `chosen` those that share a run with another row of their column only because of the preset.

    By the cell's id a line that names the other rows, and what the preset sets for all of them. Rows that are one run
    under the paper's own preset are so by the paper's definition, and not among them.
    """
    reasons: dict[str, str] = {}
    columns = {(cell.protocol.name, cell.table.id, cell.column.id): cell for cell in chosen}
    for (_, table, column), cell in columns.items():
        runs: dict[str, list[Cell]] = defaultdict(list)
        for other in cells(cell.protocol, f"{table}/*/{column}"):
            if not other.published_only and implemented(other):
                try:
                    runs[same_run(settings(other, preset, 0, variant))].append(other)
                except (DataError, MethodError):
                    continue  # whoever resolves the cell says what is wrong with it
        for sharing in runs.values():
            reasons |= merged_by(preset, sharing)
    return reasons


def merged_by(preset: str, served: Sequence[Cell]) -> dict[str, str]:
    """The same for cells, of any tables, that one run serves under `preset`."""
    columns: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in served:
        columns[(cell.protocol.name, cell.table.id, cell.column.id)].append(cell)
    return {name: why for sharing in columns.values() for name, why in _of_column(preset, sharing).items()}


def _of_column(preset: str, sharing: Sequence[Cell]) -> dict[str, str]:
    if len(sharing) < 2 or COMPARABLE not in sharing[0].protocol.presets:
        return {}
    if len({same_run(settings(cell, COMPARABLE, 0)) for cell in sharing}) == 1:
        return {}
    recipes = [vars(cell.recipe(COMPARABLE)) for cell in sharing]
    keys = [key for key in recipes[0] if len({recipe[key] for recipe in recipes}) > 1]
    names = {cell.id: cell.row.id for cell in sharing}
    return {
        cell: f"preset {preset} cannot tell it from {', '.join(name for name in names.values() if name != own)}: "
        f"it sets {', '.join(keys)} for all of them"
        for cell, own in names.items()
    }
