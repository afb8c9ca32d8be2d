"""The smallest difference that a column of a table can tell apart, and which of its rows are tied with the best.

The rows of a column have the same seeds, splits and test images, so all of them together say how much one run moves
about its row and its seed (`statistics.residual`): two seeds of seven rows give six degrees of freedom where the two
rows of one difference give one. What the test images add is measured on the answers that records keep. Where they keep
none, overall accuracy takes the most it can be, that of errors which do not depend on each other, and other metrics
have the seeds' part alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

import numpy as np

from ferbench.bench.board import statistics
from ferbench.bench.tables.counting.counted import Run
from ferbench.bench.training.recording import evidence
from ferbench.bench.training.recording.evidence import Evidence

MEASURED, BOUND, UNKNOWN = "measured", "independent errors", "not known"
PAIRED_METRICS = ("overall", "mean")


@dataclass(frozen=True)
class RowRuns:
    """The runs of one row in one column, by seed: values in percent, and the evidence of those that keep some."""

    row: str
    values: Mapping[int, float]
    evidence: Mapping[int, Evidence]
    images: int  # test images, 0 where no record says

    @property
    def mean(self) -> float:
        return fmean(self.values.values())


@dataclass(frozen=True)
class Resolution:
    """Of one column, metric and preset, in percentage points.

    pair: the smallest difference of two rows, chosen beforehand, that the runs tell apart (5 %). of_all: the same where
    each row is compared with the best, with the level shared out (Bonferroni). seeds: that all rows have. images: how
    the test images' part is known.
    standing: "best" or "tie" for rows that the runs do not tell from the best; rows behind it are not named.
    """

    pair: float
    of_all: float
    rows: int
    seeds: int
    images: str
    standing: Mapping[str, str]


def row_runs(row: str, runs: Sequence[Run], metric: str, selection: str = "last") -> RowRuns:
    """Of the runs of one cell under one variant and preset."""
    mine = [run for run in runs if metric in run.metrics.get(selection, {})]
    kept = {run.seed: found for run in mine if (found := evidence_of(run)) is not None}
    sizes = {_tested(run) for run in mine}
    return RowRuns(
        row,
        {run.seed: run.metrics[selection][metric] for run in mine},
        kept if selection == "last" else {},
        min(sizes, default=0),
    )


def _tested(run: Run) -> int:
    """How many images a run was tested on; 0 where its record does not say."""
    parts = run.record.get("split")
    images = parts.get("test") if isinstance(parts, dict) else None
    return images if isinstance(images, int) else 0


def evidence_of(run: Run) -> Evidence | None:
    """The evidence in a run's record, the rule that its row names first.

    None where there is none, or none that agrees with itself (`verify` says why).
    """
    try:
        found = evidence.from_record(run.record)
    except ValueError:
        return None
    rule = run.cell.row.rule if run.cell else ""
    if found is None or not rule:
        return found
    return replace(found, rules={rule: found.rules[rule], **found.rules}) if rule in found.rules else None


def resolve(rows: Sequence[RowRuns], metric: str) -> Resolution | None:
    """None for fewer than two rows with two seeds in common: then nothing is known of how far seeds move."""
    several = [row for row in rows if len(row.values) > 1]
    seeds = sorted(set.intersection(*(set(row.values) for row in several))) if several else []
    if len(several) < 2 or len(seeds) < 2:
        return None
    table = np.array([[row.values[seed] for seed in seeds] for row in several])
    variance, freedom = statistics.residual(table)
    pairs = {(a.row, b.row): _images(a, b, metric) for a, b in combinations(several, 2)}
    known = [found for found in pairs.values() if found is not None]
    over_images = fmean(known) if known else 0.0
    measured = all(_answers(row, metric) for row in several)
    of_seeds = 2 * variance / len(seeds)
    shared = 1 - (1 - statistics.LEVEL) / (len(several) - 1)
    best = max(several, key=lambda row: row.mean)
    standing = {best.row: "best"}
    for row in several:
        if row is best:
            continue
        own = pairs.get((row.row, best.row), pairs.get((best.row, row.row)))
        spread = variance * (1 / len(row.values) + 1 / len(best.values))
        if best.mean - row.mean <= statistics.combined(spread, freedom, own or 0.0, shared):
            standing[row.row] = "tie"
    return Resolution(
        pair=statistics.combined(of_seeds, freedom, over_images),
        of_all=statistics.combined(of_seeds, freedom, over_images, shared),
        rows=len(several),
        seeds=len(seeds),
        images=MEASURED if measured else BOUND if known else UNKNOWN,
        standing=standing,
    )


def _images(first: RowRuns, second: RowRuns, metric: str) -> float | None:
    """What the test images add to the variance of a difference; None where that is not known."""
    mine, others = _answers(first, metric), _answers(second, metric)
    common = sorted(set(mine) & set(others))
    same = {mine[seed].images for seed in common} | {others[seed].images for seed in common}
    if common and len(same) == 1:
        bits = [np.stack([found[seed].headline.right for seed in common]) for found in (mine, others)]
        return statistics.parts(bits[0], bits[1], mine[common[0]].headline.sizes, metric).images
    if len(same) > 1:
        return 0.0  # each seed has test images of its own, a fold say: the seeds' part holds theirs
    if metric == "overall" and (images := min(first.images, second.images)):
        return statistics.unpaired_images(first.mean, second.mean, images)
    return None


def _answers(row: RowRuns, metric: str) -> Mapping[int, Evidence]:
    return row.evidence if metric in PAIRED_METRICS else {}
