"""Two rows of a table, or two runs, held against each other seed by seed and image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferbench.bench.board.leaderboard import Leaderboard, Line
from ferbench.bench.board.own import OWN, own_runs
from ferbench.bench.board.resolution import evidence_of
from ferbench.bench.board.run_names import find_cells, find_folder, no_such_run
from ferbench.bench.board.statistics import Difference, Discordant, Parts, mcnemar, paired, student
from ferbench.bench.tables.counting.counted import Run, counted_runs, runs_of
from ferbench.bench.tables.counting.stored import read_stored
from ferbench.bench.tables.settings import settings
from ferbench.bench.training.recording.evidence import Evidence
from ferbench.bench.training.recording.records import RunError
from ferbench.protocols import Cell, ProtocolError
from ferbench.validation import unknown

NO_CELL: Any = None  # a run that is named by itself stands for no cell
METRICS = ("overall", "mean", "f1")


@dataclass(frozen=True)
class Side:
    """One of two: what it is called, and its runs by seed."""

    name: str
    runs: Mapping[int, Run]


@dataclass(frozen=True)
class Compared:
    """One metric, or the recall of one class, of both sides on their common seeds."""

    what: str
    first: float
    second: float
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """images: whether the differences are paired image by image. note: why they are not."""

    first: Side
    second: Side
    seeds: tuple[int, ...]
    images: bool
    note: str
    compared: tuple[Compared, ...]
    tests: Mapping[int, Discordant] = field(default_factory=dict)  # McNemar's by seed


def side(target: str, results: Path, preset: str | None = None, variant: str | None = None) -> Side:
    """The runs that `target` names: one run, or the seeds of one cell under one preset and variant.

    With `@RULE` at its end: by that inference rule, where a run keeps several. Where a preset has runs of several
    variants and none is chosen, those of the row's own are meant.
    Raises RunError or ProtocolError, one line, also where several settings were run and none is chosen.
    """
    name, at, rule = target.rpartition("@")
    if at and "/" not in rule:
        whole = side(name, results, preset, variant)
        return Side(f"{whole.name} by {rule}", {seed: by_rule(run, rule) for seed, run in whole.runs.items()})
    folder = find_folder(target, results)
    if folder:
        stored = read_stored(folder)
        if stored is None:
            raise RunError(f"{folder}: is not finished")
        setting = stored.spec["variant"], stored.spec["preset"], stored.spec["seed"]
        run = Run(folder.name, NO_CELL, *setting, stored.metrics, spec=stored.spec, record=stored.record)
        return Side(folder.name, {run.seed: run})
    cell, found = _runs_of_cell(target, results)
    known_settings = sorted({(run.preset, run.variant) for run in found})
    chosen = [pair for pair in known_settings if preset in (None, pair[0]) and variant in (None, pair[1])]
    if len({one for one, _ in chosen}) == 1 and cell:
        chosen = [pair for pair in chosen if pair[1] == own_variant(cell, pair[0])] or chosen
    if len(chosen) != 1:
        known = ", ".join(f"--preset {one} --variant {other}" for one, other in known_settings)
        raise RunError(f"{target}: runs of {len(chosen)} settings fit; choose one of: {known}")
    mine = [run for run in found if (run.preset, run.variant) == chosen[0]]
    return Side(f"{target} ({chosen[0][1]}, {chosen[0][0]})", {run.seed: run for run in mine})


def by_rule(run: Run, rule: str) -> Run:
    """The run with what its record keeps of this inference rule in place of its headline. Raises RunError."""
    rules = (run.record.get("evidence") or {}).get("rules") or {}
    if rule not in rules:
        raise RunError(unknown("inference rule", rule, rules, run.id))
    head = "" if rule == next(iter(rules)) else f"{rule}/"
    metrics = {
        part: {key.removeprefix(head): float(one) for key, one in row.items() if key.startswith(head)}
        for part, row in run.record["metrics"].items()
    }
    evidence = {**run.record["evidence"], "rules": {rule: rules[rule]}}
    return replace(run, metrics=metrics, record={**run.record, "evidence": evidence})


def own_variant(cell: Cell, preset: str) -> str:
    """The variant in which a row runs under this preset where nobody asks for another."""
    return str(settings(cell, preset, 0)["variant"])


def _runs_of_cell(target: str, results: Path) -> tuple[Cell | None, list[Run]]:
    """The cell, None for one of nobody's tables, and its finished runs in all settings."""
    cell = None
    if target.partition("/")[0] == OWN:
        found = own_runs(results)[1].get(target, [])
    else:
        try:
            chosen = find_cells(target, results)
        except ProtocolError as error:
            raise no_such_run(target, results, error) from error
        if len(chosen) != 1:
            raise RunError(f"{target} names {len(chosen)} cells; write PAPER/TABLE/ROW/COLUMN")
        cell = chosen[0]
        protocol = cell.protocol
        by_cell: dict[str, list[Run]] = {}
        for run in counted_runs(results, {protocol.name: protocol})[0]:
            by_cell.setdefault(run.cell.id, []).append(run)
        found = runs_of(cell, by_cell)
    if not found:
        raise RunError(f"{target}: no finished run in {results / 'runs'}; `ferbench reproduce {target}` makes them")
    return cell, found


def compare(first: Side, second: Side) -> Comparison:
    """Over the seeds that both have, or over a pair of single runs whatever their seeds. Raises RunError."""
    if len(first.runs) == len(second.runs) == 1:
        pairs = {min(first.runs): (next(iter(first.runs.values())), next(iter(second.runs.values())))}
    else:
        common = sorted(set(first.runs) & set(second.runs))
        pairs = {seed: (first.runs[seed], second.runs[seed]) for seed in common}
    if not pairs:
        raise RunError(f"{first.name} and {second.name} have no seed in common")
    kept = [(evidence_of(one), evidence_of(other)) for one, other in pairs.values()]
    note = _why_not_by_image(kept)
    seeds = tuple(pairs)
    by_metric = [_over_seeds(name, list(pairs.values())) for name in METRICS]
    if note:
        return Comparison(first, second, seeds, False, note, tuple(one for one in by_metric if one))
    answers = [(one.headline, other.headline) for one, other in kept if one and other]
    bits = [np.stack([pair[position].right for pair in answers]) for position in (0, 1)]
    sizes, classes = answers[0][0].sizes, next(one for one, _ in kept if one).classes
    compared = [
        Compared(str(metric), *_means(metric, pairs), paired(bits[0], bits[1], sizes, metric))
        for metric in ("overall", "mean")
    ]  # fmt: skip
    compared += [one for one in by_metric if one and one.what == "f1"]
    for position, name in enumerate(classes):
        if sizes[position]:
            recalls = [
                float(np.mean([100 * pair[which].confusion[position, position] / sizes[position] for pair in answers]))
                for which in (0, 1)
            ]
            found = paired(bits[0], bits[1], sizes, position)
            compared.append(Compared(f"{name} ({sizes[position]} images)", recalls[0], recalls[1], found))
    tests = {seed: mcnemar(one.right, other.right) for seed, (one, other) in zip(seeds, answers, strict=True)}
    return Comparison(first, second, seeds, True, "", tuple(compared), tests)


def _why_not_by_image(kept: Sequence[tuple[Evidence | None, Evidence | None]]) -> str:
    if any(one is None or other is None for one, other in kept):
        return "not every record keeps its answers image by image: over seeds alone"
    images = {found.images for pair in kept for found in pair if found}
    if any(one.images != other.images for one, other in kept if one and other):
        return "the two were not tested on the same images: over seeds alone"
    if len(images) > 1:
        return "each seed has test images of its own, whose differences lie in those of the seeds: over seeds alone"
    return ""


def _over_seeds(metric: str, pairs: Sequence[tuple[Run, Run]]) -> Compared | None:
    values = [[run.metrics["last"].get(metric) for run in pair] for pair in pairs]
    known = [(one, other) for one, other in values if one is not None and other is not None]
    if len(known) != len(pairs):
        return None
    differences = [one - other for one, other in known]
    first, second = (float(np.mean([pair[position] for pair in known])) for position in (0, 1))
    interval = student(differences)
    spread = float(np.var(differences, ddof=1)) / len(known) if len(known) > 1 else 0.0
    parts = Parts(first - second, spread, 0.0) if len(known) > 1 else None
    return Compared(metric, first, second, Difference(first - second, len(known), interval, interval, parts=parts))


def _means(metric: str, pairs: Mapping[int, tuple[Run, Run]]) -> tuple[float, float]:
    first, second = (
        float(np.mean([pair[position].metrics["last"][metric] for pair in pairs.values()])) for position in (0, 1)
    )
    return first, second


@dataclass(frozen=True)
class Against:
    """How a line of the board differs from the chosen row in its column, under the same preset."""

    line: Line
    difference: Difference | None  # None where the two have no seed in common
    images: bool


def against(row: str, board: Leaderboard, metrics: Sequence[str] = ("overall", "mean")) -> list[Against]:
    """Every measured line of the last epoch, less the row of this name in its column; rows without it are left out."""
    found = []
    for line in board.lines:
        if not line.run_ids or line.selection != "last" or line.metric not in metrics or line.row == row:
            continue
        mine = _setting(board, line, line.row, line.variant)
        others = _base(board, line, row)
        if not others:
            continue
        common = set(mine) & set(others)
        if not common:
            found.append(Against(line, None, False))
            continue
        pair = compare(
            Side(line.row, {seed: mine[seed] for seed in common}), Side(row, {seed: others[seed] for seed in common})
        )
        one = next((entry for entry in pair.compared if entry.what == line.metric), None)
        found.append(Against(line, one.difference if one else None, pair.images and line.metric in ("overall", "mean")))
    return found


def _setting(board: Leaderboard, line: Line, row: str, variant: str) -> dict[int, Run]:
    runs = board.runs.get(f"{line.paper}/{line.table}/{row}/{line.column}", ())
    return {run.seed: run for run in runs if (run.variant, run.preset) == (variant, line.preset)}


def _base(board: Leaderboard, line: Line, row: str) -> dict[int, Run]:
    """The chosen row's runs: of the line's own variant where there are some, else of the one that has most."""
    runs = board.runs.get(f"{line.paper}/{line.table}/{row}/{line.column}", ())
    variants = sorted({run.variant for run in runs if run.preset == line.preset})
    return max(
        (_setting(board, line, row, variant) for variant in variants),
        key=lambda found: (next(iter(found.values())).variant == line.variant, len(found)),
        default={},
    )
