"""The grey wolf search on objectives that need no training, and `ferbench tune` on runs of a second."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.studies.tune import BOUNDS, grey_wolf
from ferbench.bench.studies.tune_runs import bounds_of, trial
from ferbench.bench.training.recording.records import RunError
from ferbench.protocols import ProtocolError, select

Ferbench = Callable[..., Any]
pytest.importorskip("niapy")
TUNED = {"lr": 1.23e-4, "min_lr": 3.29e-5, "warmup_lr": 3.69e-5}  # SSFER, Section 4.9


def closeness(values: Mapping[str, float]) -> float:
    """Minus the squared distance to the paper's rates, in decades."""
    return -sum(math.log10(values[name] / rate) ** 2 for name, rate in TUNED.items())


def test_the_pack_closes_in_on_the_best_rates() -> None:
    search = grey_wolf(closeness, BOUNDS, wolves=6, rounds=25, seed=1)
    best, score = search.best
    assert len(search.tried) == 6 * 26
    assert score == max(closeness(values) for values, _ in search.tried) == closeness(best)
    assert all(abs(math.log10(best[name] / rate)) < 0.15 for name, rate in TUNED.items())
    first = max(score for _, score in search.tried[:6])
    assert score > first / 4  # scores are negative: at most a quarter of the first look's squared distance


def test_values_stay_within_their_bounds_and_the_same_seed_repeats_the_search() -> None:
    bounds = {"lr": (1e-4, 2e-4)}
    search = grey_wolf(lambda values: values["lr"], bounds, wolves=3, rounds=5, seed=7)
    assert all(1e-4 <= values["lr"] <= 2e-4 for values, _ in search.tried)
    again = grey_wolf(lambda values: values["lr"], bounds, wolves=3, rounds=5, seed=7)
    other = grey_wolf(lambda values: values["lr"], bounds, wolves=3, rounds=5, seed=8)
    assert search.tried == again.tried != other.tried


def test_of_equal_scores_the_first_is_the_best() -> None:
    search = grey_wolf(lambda values: 0.0, BOUNDS, wolves=3, rounds=1)
    assert search.best == search.tried[0]


@pytest.mark.parametrize(
    ("bounds", "pack", "expected"),
    [
        ({"lr": (1e-3, 1e-5)}, {}, "--bound lr=0.001:1e-05: write LOWEST:HIGHEST, both above 0"),
        ({"lr": (0.0, 1e-5)}, {}, "both above 0"),
        (BOUNDS, {"wolves": 2}, "at least 3 wolves and 1 round, not 2 and 4"),
        (BOUNDS, {"rounds": 0}, "not 5 and 0"),
    ],
)
def test_bad_searches_are_one_line(bounds: dict[str, tuple[float, float]], pack: dict[str, int], expected: str) -> None:
    with pytest.raises(RunError) as caught:
        grey_wolf(closeness, bounds, **pack)
    assert expected in str(caught.value)


def test_without_niapy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "niapy", None)
    with pytest.raises(RunError, match=r"pip install 'ferbench\[tune\]'"):
        grey_wolf(closeness, BOUNDS)


def test_a_trial_is_the_supervised_stage_with_other_rates_and_labels_held_out() -> None:
    (cell,) = select("ssfer/16/ssfer-gwo/rafdb-5")
    for preset in ("paper", "cpu"):
        tried = trial(cell, preset, TUNED, 0.2)
        recipe, plain = tried.recipe(preset), cell.protocol.recipe("finetune", preset)
        assert (recipe.lr, recipe.min_lr, recipe.warmup_lr) == tuple(TUNED.values())
        differing = {key for key, value in vars(recipe).items() if value != vars(plain)[key]}
        assert differing <= set(TUNED)
        assert (tried.method, dict(tried.options)) == ("ssfer", {"mix": "facemix", "teacher": False})
        assert (tried.split.validation, tried.split.options) == (0.2, cell.split.options)
    assert cell.split.validation == 0.0


def test_a_row_without_a_first_stage_is_tuned_itself() -> None:
    (cell,) = select("ssfer/10/baseline/rafdb-5")
    tried = trial(cell, "paper", {"lr": 2e-4}, 0.1)
    assert (tried.method, tried.recipe("paper").lr, tried.row.id) == ("vanilla", 2e-4, "baseline")
    with pytest.raises(ProtocolError, match="--bound: unknown key 'lrr'"):
        trial(cell, "paper", {"lrr": 2e-4}, 0.1)


def test_bounds_of_the_command_line() -> None:
    assert bounds_of(None) is BOUNDS
    assert bounds_of(["lr=1e-5:1e-3", "min_lr=1e-7:1e-6"]) == {"lr": (1e-5, 1e-3), "min_lr": (1e-7, 1e-6)}
    for wrong in ("lr", "lr=1", "lr=a:b"):
        with pytest.raises(ProtocolError, match="write NAME=LOWEST:HIGHEST"):
            bounds_of([wrong])


def test_tune_trains_on_held_out_labels_and_goes_on_where_it_was(
    ferbench: Ferbench, tmp_path: Path, tiny_protocol: Path
) -> None:
    target = f"{tiny_protocol.name}/1/vanilla/synthetic-200-20"
    arguments = ("tune", target, "--wolves", 3, "--rounds", 1, "--bound", "lr=1e-3:1e-1", "--validation", 0.4)
    done = ferbench(*arguments)
    assert done.code == 0, done.err
    assert "best of 6: lr = " in done.out
    runs = sorted((tmp_path / "results" / "tune" / "runs").iterdir())
    times = {run: (run / "record.json").stat().st_mtime_ns for run in runs}
    assert len(runs) == 6
    (summary,) = (tmp_path / "results" / "tune").glob("*.json")
    kept = json.loads(summary.read_text())
    assert kept["best"] == max(kept["tried"], key=lambda entry: entry["validation"])
    assert {json.loads((run / "spec.json").read_text())["recipe"]["lr"] for run in runs} == {
        entry["rates"]["lr"] for entry in kept["tried"]
    }
    assert all(json.loads((run / "spec.json").read_text())["split"]["parameters"]["validation"] == 0.4 for run in runs)
    assert ferbench(*arguments).code == 0
    assert times == {run: (run / "record.json").stat().st_mtime_ns for run in runs}


def test_a_search_is_for_one_cell(ferbench: Ferbench) -> None:
    assert "ssfer/16 names 24 cells" in ferbench("tune", "ssfer/16").error()
    assert "published only" in ferbench("tune", "ssfer/2/ran/rafdb").error()
