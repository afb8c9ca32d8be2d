"""What learns at a pace of its own has the paper's share of a run under shorter presets, or a reason why not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ferbench.bench.tables.planning import pace
from ferbench.methods import METHODS, PLUG_INS, option_values
from ferbench.protocols import Recipe, cells, load_protocol, protocol_names

# Numbers that are no pace: what they are compared with or weighed by does not move with the steps.
NO_PACE = (
    "threshold", "weight", "ramp", "temperature", "width", "margin", "dropout", "scale", "cut", "share", "length",
    "lambda", "beta", "alpha", "gamma", "tau", "epsilon", "xi", "steps", "phi", "rho", "erasing", "positives",
    "quantile", "energy", "bound", "factor", "forget", "edge", "experts", "top_k", "projections", "smoothing",
    "ambiguity", "warm_up", "n_sigma", "push", "blocks", "complementary", "negative", "decay_every", "strong_views",
    "head_rate", "unlabelled", "gap",
)  # fmt: skip
OWN_PACE = (*pace.DECAYS, *pace.EPOCHS, *pace.PER_EPOCH, *pace.BATCHES, *pace.IMAGES, *pace.RATES)


def recipe(**changed: float) -> Recipe:
    return replace(
        Recipe("resnet_small", batch_size=32, epochs=80, steps_per_epoch=1000, lr=1e-4, schedule="constant"), **changed
    )  # type: ignore[arg-type]


def test_an_average_goes_back_its_horizon_of_all_steps() -> None:
    assert pace.shares(recipe(ema=0.999), {})["ema"] == pytest.approx(1000 / 80_000)
    assert pace.shares(recipe(), {"momentum": 0.99, "decay": 0.0})["method.momentum"] == pytest.approx(100 / 80_000)


def test_epochs_batches_and_images_are_shares_of_all_of_them() -> None:
    found = pace.shares(
        recipe(warmup_epochs=8), {"relabel_epoch": 20, "window": 800, "queue": 2560, "threshold_step": 0.01}
    )
    assert found == {
        "warmup_epochs": 0.1, "method.relabel_epoch": 0.25, "method.window": 0.01,
        "method.queue": pytest.approx(2560 / (32 * 80_000)), "method.threshold_step": pytest.approx(0.8),
    }  # fmt: skip


def test_a_rate_counts_over_all_steps_of_its_schedule() -> None:
    """A cosine leaves half; the network's rate is taken where there is none of its own."""
    assert pace.shares(recipe(), {"center_lr": None})["method.center_lr"] == pytest.approx(8.0)
    short = recipe(epochs=8, schedule="cosine")
    assert pace.shares(short, {"center_lr": 1e-2})["method.center_lr"] == pytest.approx(40.0, rel=0.01)


def test_centres_at_the_networks_rate_of_a_run_of_a_hundredth_are_off_pace() -> None:
    protocol = load_protocol("remop")
    slow = {"cpu": {**protocol.presets["cpu"], "epochs": 1}}
    changed = replace(protocol, presets={**protocol.presets, **slow}, method_options={}, off_pace={})
    (cell,) = cells(changed, "4/remop/ferplus-1000-150")
    assert pace.ratios(cell, "cpu")["remop.center_lr"] == pytest.approx(0.05, rel=0.01)
    lines = pace.unexplained(changed, "cpu")
    assert any(line.startswith("remop.center_lr has 0.0") for line in lines)
    assert any(line.startswith("ema has ") for line in lines)


def test_a_setting_that_the_paper_does_without_is_off_pace() -> None:
    protocol = load_protocol("remop")
    changed = replace(protocol, presets={**protocol.presets, "cpu": {**protocol.presets["cpu"], "warmup_epochs": 1}})
    assert pace.off_pace(changed, "cpu")["warmup_epochs"] == math.inf


def test_a_reason_for_what_is_not_off_pace_is_named() -> None:
    protocol = load_protocol("remop")
    excused = {**protocol.off_pace["cpu"], "adsh.momentum": "whatever"}
    (line,) = pace.unexplained(replace(protocol, off_pace={"cpu": excused}), "cpu")
    assert line == "[off_pace.cpu] excuses adsh.momentum, which keeps the paper's"


@pytest.mark.parametrize("name", protocol_names())
def test_every_shorter_preset_keeps_the_papers_pace_or_says_why(name: str) -> None:
    protocol = load_protocol(name)
    assert {preset: pace.unexplained(protocol, preset) for preset in pace.shorter_presets(protocol)} == {
        preset: [] for preset in pace.shorter_presets(protocol)
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_a_method_is_known_to_have_a_pace_or_none(name: str) -> None:
    values = option_values(name, "paper", {"learner": "fixmatch"} if name in PLUG_INS else {})
    numbers = [key for key, value in values.items() if type(value) in (int, float) or key in pace.RATES]
    assert [key for key in numbers if key not in OWN_PACE and not any(part in key for part in NO_PACE)] == []
