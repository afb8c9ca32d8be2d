"""The search for learning rates over the runs of one cell: what `ferbench tune` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ferbench.bench.studies.tune import BOUNDS, Bounds, Search, grey_wolf
from ferbench.bench.tables.running.claims import claimed, holder
from ferbench.bench.tables.runs import Workspace, resolve_cell
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import finished
from ferbench.bench.training.state import Run
from ferbench.protocols import Cell, ProtocolError, Recipe, select
from ferbench.validation import build as build_checked


def one_cell(target: str) -> Cell:
    """The cell that `target` names. Raises ProtocolError for less than PAPER/TABLE/ROW/COLUMN, or a wrong name."""
    chosen = select(target)
    if len(chosen) > 1:
        raise ProtocolError(f"{target} names {len(chosen)} cells; a search is for one, PAPER/TABLE/ROW/COLUMN")
    return chosen[0]


def bounds_of(items: Sequence[str] | None) -> Bounds:
    """NAME=LOWEST:HIGHEST as bounds; the usual ones where none are given. Raises ProtocolError."""
    bounds = {}
    for item in items or ():
        name, _, ends = item.partition("=")
        lowest, _, highest = ends.partition(":")
        try:
            bounds[name] = (float(lowest), float(highest))
        except ValueError as error:
            raise ProtocolError(f"--bound {item}: write NAME=LOWEST:HIGHEST, such as lr=1e-5:1e-3") from error
    return bounds or BOUNDS


def trial(cell: Cell, preset: str, rates: Mapping[str, float], held_out: float) -> Cell:
    """The cell with other rates and with `held_out` of its labels for validation.

    A row that starts after another run is tuned there, as SSFER tunes its supervised stage. Raises ProtocolError for a
    name or value that a recipe does not have.
    """
    cell = cell.before or cell
    protocol = cell.protocol
    build_checked(Recipe, {**vars(cell.recipe(preset)), **rates}, "--bound", ProtocolError)
    splits = {**protocol.splits, cell.split_name: replace(protocol.splits[cell.split_name], validation=held_out)}
    presets = {**protocol.presets, preset: {**protocol.presets[preset], **rates}}
    return replace(cell, protocol=replace(protocol, splits=splits, presets=presets))


def tune(
    cell: Cell,
    preset: str,
    bounds: Bounds,
    *,
    wolves: int,
    rounds: int,
    held_out: float,
    seed: int,
    workspace: Workspace,
    train: Callable[[Run, Path], Any],
    report: Callable[[str], None],
) -> Search:
    """Search the rates of `cell`; runs that are there already are not done again. Raises what training raises.

    workspace: its results are a folder for these runs alone, since none of them is a run of a table.
    """
    if cell.published_only:
        raise ProtocolError(f"{cell.id}: published only, there is nothing to tune")

    def score(rates: Mapping[str, float]) -> float:
        run = resolve_cell(trial(cell, preset, rates, held_out), preset, seed, workspace)
        if not len(run.split.validation):
            raise records.RunError(f"{cell.id}: no image is left for validation; raise --validation")
        accuracy = validation_accuracy(_finish(run, workspace, train))
        report(" ".join(f"{name}={value:g}" for name, value in rates.items()) + f": {accuracy:.2f} % on validation")
        return accuracy

    search = grey_wolf(score, bounds, wolves=wolves, rounds=rounds, seed=seed)
    tried = [{"rates": rates, "validation": accuracy} for rates, accuracy in search.tried]
    best = {"rates": search.best[0], "validation": search.best[1]}
    records.write_json(
        workspace.results / f"{cell.id.replace('/', '-')}-{preset}-s{seed}.json",
        {"cell": cell.id, "preset": preset, "bounds": dict(bounds), "held_out": held_out, "best": best, "tried": tried},
    )
    return search


def _finish(run: Run, workspace: Workspace, train: Callable[[Run, Path], Any]) -> Path:
    """Train the run, and what it starts from, unless they are there; returns its folder."""
    if run.before:
        _finish(run.before, workspace, train)
    folder = workspace.folder(run)
    with claimed(folder) as free:
        if not free:
            raise records.RunError(f"{folder}: {holder(folder)} is working on this run")
        if not finished(folder):
            train(run, folder)
    return folder


def validation_accuracy(folder: Path) -> float:
    """Overall accuracy in percent on the validation part after the last epoch, of the model that was evaluated."""
    evaluated = records.read_json(folder / "record.json")["evaluated"]
    last = records.read_lines(folder / "metrics.jsonl")[-1]
    return float(next(iter(last["validation"][evaluated].values()))["overall"])
