"""The papers' claims put to the test: does the first row stand above the second, by how much, and how surely?

A protocol says which rows a claim is of (`protocols.Claim`). Every column and preset in which both rows have runs with
seeds in common is a test of it. The verdict is of the 95 % interval of the paired difference (`statistics`): it needs
five seeds, and it knows two questions, whether there is a difference at all and whether it can be the published one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ferbench.bench.board.compare import Side, by_rule, compare, own_variant
from ferbench.bench.board.leaderboard import Leaderboard
from ferbench.bench.board.resolution import evidence_of
from ferbench.bench.board.statistics import Difference, Interval, seeds_needed
from ferbench.bench.tables.counting.counted import Run
from ferbench.bench.training.recording.evidence import Evidence
from ferbench.bench.training.recording.records import RunError
from ferbench.protocols import Cell, Claim, Protocol, cells

FEWEST = 5  # seeds
METRICS = ("overall", "mean")
UNTOLD = "cannot tell"
ONE_CLASS = 0.9  # of all answers


@dataclass(frozen=True)
class Outcome:
    """One metric of a test, in percentage points.

    published: the printed difference, None where there is none. needed: how many seeds would tell a difference of that
    size from none in four of five cases; None where that is not known, or no number does.
    """

    metric: str
    published: float | None
    difference: Difference
    needed: int | None
    verdict: str


@dataclass(frozen=True)
class Finding:
    """A claim in one column, on the seeds that both rows have.

    presets: of the first row and of the second; starts: the weights that these start from; runs: names of both's.
    remarks: on rows that have not learnt.
    """

    claim: Claim
    first: Cell
    second: Cell
    presets: tuple[str, str]
    starts: tuple[str, str]
    seeds: int
    runs: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    remarks: tuple[str, ...] = ()


def put_to_the_test(
    board: Leaderboard, papers: Sequence[str] = ()
) -> tuple[list[Finding], list[tuple[Protocol, Claim]]]:
    """The tests that the board's runs make, of these papers or all, and the claims that none of them is a test of."""
    found: list[Finding] = []
    untested: list[tuple[Protocol, Claim]] = []
    for protocol in board.protocols:
        for claim in protocol.claims if not papers or protocol.name in papers else ():
            tests = list(_tests(protocol, claim, board))
            found += _once(tests)
            untested += [] if tests else [(protocol, claim)]
    return found, untested


def _once(tests: Sequence[Finding]) -> list[Finding]:
    """Without those by the same runs as an earlier one: one run serves the cells of several tables."""
    return list({(test.runs, test.presets): test for test in reversed(tests)}.values())[::-1]


def _tests(protocol: Protocol, claim: Claim, board: Leaderboard) -> Iterable[Finding]:
    for table in claim.tables:
        (row, _, rule), (other_row, _, other_rule) = (name.partition("@") for name in (claim.first, claim.second))
        columns = zip(cells(protocol, f"{table}/{row}"), cells(protocol, f"{table}/{other_row}"), strict=True)
        for first, second in columns:
            mine, others = _by_preset(first, rule, board), _by_preset(second, other_rule, board)
            pairs = [claim.presets] if claim.presets else [(preset, preset) for preset in mine]
            for one, other in pairs:
                if set(mine.get(one, {})) & set(others.get(other, {})):
                    yield _test(claim, (first, second), (one, other), (mine[one], others[other]))


def _by_preset(cell: Cell, rule: str, board: Leaderboard) -> dict[str, dict[int, Run]]:
    """The runs of the row's own variant by preset and seed; by `rule` where one is named.

    A run whose record does not keep that rule is none of them, nor is one that was asked for in another variant: the
    claim is of the row as its protocol has it.
    """
    found: dict[str, dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in board.runs.get(cell.id, ()):
        with suppress(RunError):
            found[run.preset][run.variant][run.seed] = by_rule(run, rule) if rule else run
    own = {preset: own_variant(cell, preset) for preset in found}
    return {preset: variants[own[preset]] for preset, variants in found.items() if own[preset] in variants}


def _test(
    claim: Claim, pair: tuple[Cell, Cell], presets: tuple[str, str], runs: tuple[Mapping[int, Run], Mapping[int, Run]]
) -> Finding:
    common = sorted(set(runs[0]) & set(runs[1]))
    sides = [Side(cell.id, {seed: of_cell[seed] for seed in common}) for cell, of_cell in zip(pair, runs, strict=True)]
    by_metric = {one.what: one.difference for one in compare(*sides).compared}
    starts = [str(one.recipe(preset).weights) for one, preset in zip(pair, presets, strict=True)]
    metrics = [metric for metric in METRICS if metric in by_metric]
    names = tuple(run.id for side in sides for run in side.runs.values())
    kept = [[found for run in side.runs.values() if (found := evidence_of(run))] for side in sides]
    said = [
        f"{which} row {one}" for which, row in zip(("first", "second"), kept, strict=True) if (one := one_class(row))
    ]
    return Finding(
        claim, *pair, presets, (starts[0], starts[1]), len(common), names,
        tuple(_outcome(metric, _published(claim, pair, metric), by_metric[metric]) for metric in metrics), tuple(said),
    )  # fmt: skip


def one_class(kept: Sequence[Evidence]) -> str:
    """What to say of runs that answer one class for nearly all images, which are not nearly all of that class."""
    counts = sum((one.headline.confusion for one in kept), np.zeros(()))
    if not counts.any():
        return ""
    answers, truth = counts.sum(axis=0) / counts.sum(), counts.sum(axis=1) / counts.sum()
    most = int(answers.argmax())
    if answers[most] < ONE_CLASS or truth[most] > ONE_CLASS - 0.1:
        return ""
    return f"answers {kept[0].classes[most]} for {100 * answers[most]:.0f} % of the images: it has not learnt"


def _published(claim: Claim, pair: tuple[Cell, Cell], metric: str) -> float | None:
    one_row = pair[0].id == pair[1].id  # by two rules, or under two presets
    numbers = [None if one_row else cell.published(metric) for cell in pair]
    if None in numbers and claim.published:
        tables = {table.id: table for table in pair[0].protocol.tables}
        places = [place.split("/") for place in claim.published]
        numbers = [tables[table].published.get((row, column, metric)) for table, row, column in places]
    first, second = numbers
    return None if first is None or second is None else first.mean - second.mean


def _outcome(metric: str, published: float | None, difference: Difference) -> Outcome:
    parts = difference.parts
    needed = seeds_needed(parts, difference.seeds, published) if parts and published else None
    return Outcome(metric, published, difference, needed, verdict(difference, published))


def verdict(difference: Difference, published: float | None) -> str:
    """What the interval says of a difference above zero, and of the published one. Under five seeds it says nothing."""
    interval = difference.interval
    if interval is None or difference.seeds < FEWEST:
        return f"no verdict from {difference.seeds} seed{'s' if difference.seeds > 1 else ''}"
    if interval.high < 0:
        return "refuted: the reverse is shown"
    if interval.low > 0:
        size = "" if published is None else _size(published, interval)
        return f"shown{size}"
    if published is not None and published > interval.high:
        return "refuted at the published size"
    return UNTOLD


def _size(published: float, interval: Interval) -> str:
    if published > interval.high:
        return ", smaller than published"
    return ", larger than published" if published < interval.low else ", may be as published"
