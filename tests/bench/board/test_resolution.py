"""The smallest difference a column tells apart, its ties, and what is known of the test images' part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ferbench.bench.board import resolution
from ferbench.bench.board.leaderboard import ColumnKey, collect
from ferbench.bench.board.resolution import BOUND, MEASURED, UNKNOWN, RowRuns, resolve
from ferbench.bench.board.statistics import quantile, residual
from ferbench.bench.training.recording import evidence
from tests.bench.board.conftest import CLASSES, LABELS, EvidentRun, answered

KEY = ColumnKey("demo", "1", "synthetic-200-20", "overall", "cpu")


def rows(values: dict[str, list[float]], images: int = 0) -> list[RowRuns]:
    return [RowRuns(row, dict(enumerate(found, start=1)), {}, images) for row, found in values.items()]


def test_seeds_alone_is_fishers_least_difference_of_the_blocks() -> None:
    values = {"a": [60.0, 61.0], "b": [62.0, 63.4], "c": [70.0, 70.6]}
    variance, freedom = residual(np.array(list(values.values())))
    found = resolve(rows(values), "f1")
    assert found and found.images == UNKNOWN and (found.rows, found.seeds) == (3, 2)
    assert found.pair == pytest.approx(quantile(freedom) * (2 * variance / 2) ** 0.5)
    assert found.of_all == pytest.approx(quantile(freedom, 1 - 0.05 / 2) * (2 * variance / 2) ** 0.5)
    assert found.standing == {"c": "best"}


def test_images_that_are_not_known_one_by_one_add_the_most_they_can() -> None:
    values = {"a": [50.0, 51.0], "b": [50.5, 51.5]}
    found, many = resolve(rows(values, 100), "overall"), resolve(rows(values, 10**9), "overall")
    assert found and many and found.images == BOUND
    assert found.pair == pytest.approx(quantile(float("inf")) * (2 * 2500 / 100) ** 0.5, rel=1e-3)
    assert many.pair < 0.01
    assert found.standing == {"b": "best", "a": "tie"} and many.standing == {"b": "best"}


def test_ties_are_what_the_runs_do_not_tell_from_the_best() -> None:
    found = resolve(rows({"a": [60.0, 62.0], "b": [62.5, 61.0], "c": [20.0, 21.5]}), "mean")
    assert found and found.standing == {"b": "best", "a": "tie"}


def test_one_seed_knows_nothing_of_seeds() -> None:
    assert resolve(rows({"a": [60.0], "b": [62.0]}), "mean") is None
    assert resolve(rows({"a": [60.0, 61.0], "b": [62.0]}), "mean") is None
    only_other_seeds = [RowRuns("a", {1: 1.0, 2: 2.0}, {}, 0), RowRuns("b", {3: 1.0, 4: 2.0}, {}, 0)]
    assert resolve(only_other_seeds, "mean") is None


def test_answers_image_by_image_tell_more_apart_than_the_bound() -> None:
    """Errors of two methods mostly fall on the same images."""
    kept, values = {}, {}
    for row, share in (("a", 0.7), ("b", 0.75)):
        right = {seed: answered(7, share) for seed in (1, 2)}  # the same draws: b is right where a is
        kept[row] = {
            seed: evidence.Evidence("i", CLASSES, {"main": evidence.answers(scores, LABELS)})
            for seed, scores in right.items()
        }
        values[row] = {seed: 100 * float(one.headline.right.mean()) for seed, one in kept[row].items()}
    by_image = resolve([RowRuns(row, values[row], kept[row], 100) for row in kept], "overall")
    bound = resolve([RowRuns(row, values[row], {}, 100) for row in kept], "overall")
    assert by_image and bound and by_image.images == MEASURED
    assert by_image.pair < bound.pair / 2


def test_folds_keep_their_images_in_the_seeds() -> None:
    def row(name: str, shift: float) -> RowRuns:
        kept = {
            seed: evidence.Evidence(f"fold {seed}", CLASSES, {"main": evidence.answers(answered(seed, 0.7), LABELS)})
            for seed in (1, 2)
        }
        return RowRuns(name, {1: 60 + shift, 2: 61 - shift}, kept, 100)

    found = resolve([row("a", 0.0), row("b", 0.5)], "overall")
    alone = resolve(rows({"a": [60.0, 61.0], "b": [60.5, 60.5]}), "f1")
    assert found and alone and found.pair == pytest.approx(alone.pair)


def test_rows_that_are_the_same_runs_count_once(tmp_path: Path, evident_run: EvidentRun) -> None:
    """One row of runs alone has nothing to be told from; two tables' rows may be the same runs."""
    for seed in (1, 2):
        evident_run("fixmatch", seed)
    assert KEY not in collect(tmp_path).resolutions


def test_the_board_says_it(tmp_path: Path, evident_run: EvidentRun) -> None:
    for seed in (1, 2):
        evident_run("fixmatch", seed, 0.9)
        evident_run("vanilla", seed, 0.88)
        evident_run("remop", seed, 0.2)
    board = collect(tmp_path)
    found = board.resolutions[KEY]
    assert (found.rows, found.seeds, found.images) == (3, 2, MEASURED)
    standing = {
        line.row: line.standing
        for line in board.lines
        if line.run_ids
        and (line.table, line.column, line.metric, line.selection) == ("1", KEY.column, "overall", "last")
    }
    assert standing["remop"] == "" and sorted([standing["fixmatch"], standing["vanilla"]]) == ["best", "tie"]
    assert all(line.verifiable for line in board.lines if line.run_ids)
    assert not any(line.standing for line in board.lines if line.selection != "last")


def test_damaged_evidence_is_none(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run()
    (run,) = {id(run): run for runs in collect(tmp_path).runs.values() for run in runs}.values()
    assert resolution.evidence_of(run)
    run.record["evidence"]["rules"]["main"]["confusion"][0][0] += 1  # type: ignore[index]
    assert resolution.evidence_of(run) is None
