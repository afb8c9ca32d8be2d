"""Which cells of the papers' tables can be run, and under which preset their numbers are the papers' own."""

from __future__ import annotations

from ferbench.methods import LEARNERS, METHODS
from ferbench.protocols import Cell

COMPARABLE = "paper"  # the preset whose numbers stand beside published ones


def implemented(cell: Cell) -> bool:
    """Whether ferbench has the cell's method and, for a plug-in, the learner it is put on."""
    there = cell.method in METHODS and cell.options.get("learner", "fixmatch") in LEARNERS
    return there and (cell.before is None or implemented(cell.before))
