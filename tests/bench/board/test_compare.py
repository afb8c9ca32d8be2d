"""Two rows held against each other: pairs of seeds and images, and what is said where those are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ferbench.bench.board.compare import against, compare, side
from ferbench.bench.board.leaderboard import collect
from ferbench.bench.board.statistics import mcnemar
from ferbench.bench.training.recording.records import RunError
from tests.bench.board.conftest import DEMO, LABELS, Command, EvidentRun, answered, edit

CLASS_NAMES = ("surprise (30 images)", "fear (10 images)", "happiness (60 images)")
FIXMATCH, VANILLA = DEMO.format("fixmatch"), DEMO.format("vanilla")


def both(evident_run: EvidentRun, seeds: tuple[int, ...] = (1, 2), **changes: object) -> list[str]:
    names = [evident_run("fixmatch", seed, 0.9, **changes) for seed in seeds]
    return names + [evident_run("vanilla", seed, 0.5, **changes) for seed in seeds]


def test_rows_are_paired_by_seed_and_image(tmp_path: Path, evident_run: EvidentRun) -> None:
    both(evident_run)
    found = compare(side(FIXMATCH, tmp_path), side(VANILLA, tmp_path))
    assert found.images and found.seeds == (1, 2) and not found.note
    by_name = {one.what: one for one in found.compared}
    assert list(by_name) == [
        "overall",
        "mean",
        "f1",
        "surprise (30 images)",
        "fear (10 images)",
        "happiness (60 images)",
    ]
    right = {
        (row, seed): answered(100 * seed, share).argmax(axis=1) == LABELS
        for row, share in (("fixmatch", 0.9), ("vanilla", 0.5))
        for seed in (1, 2)
    }
    expected = 100 * np.mean([right["fixmatch", seed].mean() - right["vanilla", seed].mean() for seed in (1, 2)])
    assert by_name["overall"].difference.mean == pytest.approx(expected)
    assert by_name["overall"].first - by_name["overall"].second == pytest.approx(expected, abs=1e-3)
    for position, name in enumerate(CLASS_NAMES):
        of_class = LABELS == position
        recall = 100 * np.mean(
            [right["fixmatch", seed][of_class].mean() - right["vanilla", seed][of_class].mean() for seed in (1, 2)]
        )
        assert by_name[name].difference.mean == pytest.approx(recall)
    for seed in (1, 2):
        assert found.tests[seed] == mcnemar(right["fixmatch", seed], right["vanilla", seed])


def test_two_single_runs_are_compared_whatever_their_seeds(tmp_path: Path, evident_run: EvidentRun) -> None:
    first, second = evident_run(seed=1), evident_run(seed=2, right=0.9)
    found = compare(side(first[-8:], tmp_path), side(second, tmp_path))
    assert found.images and len(found.seeds) == 1
    assert all(one.difference.seeds_only is None for one in found.compared)


def test_records_of_old_are_compared_over_seeds_alone(tmp_path: Path, evident_run: EvidentRun) -> None:
    names = both(evident_run)
    edit(tmp_path / "runs" / names[0] / "record.json", lambda record: record.pop("evidence"))
    found = compare(side(FIXMATCH, tmp_path), side(VANILLA, tmp_path))
    assert not found.images and "not every record" in found.note and not found.tests
    assert [one.what for one in found.compared] == ["overall", "mean", "f1"]
    assert all(one.difference.interval == one.difference.seeds_only for one in found.compared)


def test_other_test_images_are_not_paired(tmp_path: Path, evident_run: EvidentRun) -> None:
    for seed in (1, 2):
        evident_run("fixmatch", seed, images="a")
        evident_run("vanilla", seed, images="b")
    assert "not tested on the same" in compare(side(FIXMATCH, tmp_path), side(VANILLA, tmp_path)).note


def test_folds_have_their_images_in_the_seeds(tmp_path: Path, evident_run: EvidentRun) -> None:
    for seed in (1, 2):
        evident_run("fixmatch", seed, images=f"fold {seed}")
        evident_run("vanilla", seed, images=f"fold {seed}")
    assert "each seed has test images of its own" in compare(side(FIXMATCH, tmp_path), side(VANILLA, tmp_path)).note


def test_what_cannot_be_compared_is_one_line(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run("fixmatch", 1)
    evident_run("vanilla", 2)
    evident_run("vanilla", 3)
    with pytest.raises(RunError, match="no seed in common"):
        compare(side(FIXMATCH, tmp_path), side(VANILLA, tmp_path))
    with pytest.raises(RunError, match="names 2 cells"):
        side("demo/1/fixmatch", tmp_path)
    with pytest.raises(RunError, match="no run 'nobody'"):
        side("nobody", tmp_path)
    with pytest.raises(RunError, match="choose one of: --preset cpu --variant paper"):
        side(FIXMATCH, tmp_path, preset="paper")


def test_a_row_s_own_variant_is_meant_where_none_is_named(tmp_path: Path, record_run: Callable[..., str]) -> None:
    cell = "remop/4/remop/ferplus-1000-150"  # released, as the protocol has it
    record_run(cell, 1, 60.0, preset="cpu")
    record_run(cell, 2, 61.0, preset="cpu", variant="paper")
    assert set(side(cell, tmp_path).runs) == set(side(cell, tmp_path, "cpu", "released").runs) == {1}
    assert set(side(cell, tmp_path, variant="paper").runs) == {2}
    record_run(cell, 1, 62.0, preset="paper")
    with pytest.raises(RunError, match="runs of 3 settings fit"):
        side(cell, tmp_path)


def test_two_rules_of_the_same_networks(tmp_path: Path, evident_run: EvidentRun) -> None:
    """Seeds 1 and 2 score the first rule by answers 100 and 200, the second by the next ones."""
    for seed in (1, 2):
        evident_run("fixmatch", seed, rules=("mixture", "linear"))
    found = compare(side(FIXMATCH, tmp_path), side(f"{FIXMATCH}@linear", tmp_path))
    right = {seed: answered(seed, 0.7).argmax(axis=1) == LABELS for seed in (100, 101, 200, 201)}
    expected = 100 * np.mean([right[first].mean() - right[first + 1].mean() for first in (100, 200)])
    overall = next(one for one in found.compared if one.what == "overall")
    assert found.images and overall.difference.mean == pytest.approx(expected)
    assert overall.first - overall.second == pytest.approx(expected, abs=1e-3)
    same = compare(side(f"{FIXMATCH}@mixture", tmp_path), side(FIXMATCH, tmp_path))
    assert all(one.difference.mean == 0 for one in same.compared)
    with pytest.raises(RunError, match="unknown inference rule 'linaer'; did you mean 'linear'"):
        side(f"{FIXMATCH}@linaer", tmp_path)


def test_own_rows_are_compared_too(tmp_path: Path, evident_run: EvidentRun) -> None:
    both(evident_run, own=True)
    first, second = (f"yours/synthetic/{row}/long_tailed-200-20" for row in ("fixmatch", "vanilla"))
    assert compare(side(first, tmp_path), side(second, tmp_path)).images


def test_every_row_against_one(tmp_path: Path, evident_run: EvidentRun) -> None:
    both(evident_run)
    evident_run("remop", 3)
    found = {(one.line.row, one.line.metric): one for one in against("vanilla", collect(tmp_path))}
    assert set(found) == {(row, metric) for row in ("fixmatch", "remop") for metric in ("overall", "mean")}
    assert found["remop", "mean"].difference is None  # no seed in common
    fixmatch = found["fixmatch", "overall"]
    assert fixmatch.images and fixmatch.difference and fixmatch.difference.interval
    expected = compare(side(FIXMATCH, tmp_path), side(VANILLA, tmp_path)).compared[0].difference
    assert fixmatch.difference == expected


def test_commands(
    tmp_path: Path, evident_run: EvidentRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    both(evident_run)
    assert command("compare", FIXMATCH, VANILLA, "--results", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "McNemar, seed 2" in printed and "happiness (60 images)" in printed
    assert "…" not in printed, "on 80 columns no number is cut"
    assert command("leaderboard", "--against", "vanilla", "--results", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "difference from vanilla" in printed and "[" in printed and not (tmp_path / "leaderboard.csv").exists()
    assert command("leaderboard", "--against", "vanila", "--results", str(tmp_path)) == 2
    assert "did you mean 'vanilla'" in capsys.readouterr().err


def test_one_cell_under_two_presets(
    tmp_path: Path, record_run: Callable[..., str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = "remop/4/fixmatch/ferplus-1000-150"
    for seed in (1, 2):
        record_run(cell, seed, 60.0 + seed, preset="cpu")
        record_run(cell, seed, 80.0 - seed, preset="paper")
    asked = ("compare", cell, cell, "--results", str(tmp_path))
    assert command(*asked) == 2 and "runs of 2 settings fit" in capsys.readouterr().err
    assert command(*asked, "--preset", "cpu", "--preset", "paper") == 0
    printed = capsys.readouterr().out
    assert f"first:  {cell} (paper, cpu)" in printed and f"second: {cell} (paper, paper)" in printed
    assert "-17.00" in printed
    assert command(*asked, *["--preset", "cpu"] * 3) == 2
    assert capsys.readouterr().err.startswith("ferbench: --preset stands 3 times")
