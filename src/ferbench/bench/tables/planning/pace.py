"""Whether a shorter preset leaves what learns at a pace of its own the share of the run that it has in the paper.

A network's rate is tuned for each preset; an average of its weights, a running threshold, a class centre or a queue has
a pace of its own, which a preset of a tenth of the steps makes ten times too slow unless it says otherwise. Of every
such setting this module works out the share of a run:

    decays (of averages, thresholds, prototypes)    1 / (1 - decay) steps of all steps
    lengths in epochs, batches or images            of all epochs, batches or images
    what is added in every epoch                    times the epochs
    rates (of centres)                              the sum of the rate over all steps

A share is kept where it lies within FACTOR of the paper's. Where a preset departs from it on purpose, the protocol says
why, in `[off_pace.PRESET]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ferbench.bench.tables.planning.implemented import COMPARABLE as PAPER
from ferbench.bench.tables.planning.implemented import implemented
from ferbench.bench.tables.settings import settings
from ferbench.bench.training.length import planned
from ferbench.bench.training.schedule import factor
from ferbench.protocols import Cell, Protocol, Recipe, cells

FACTOR = 2.0

# Names of methods' options, which all methods that have one use alike.
DECAYS = ("decay", "momentum", "prototype_momentum")
EPOCHS = ("forget_epochs", "from_epoch", "prototype_epoch", "relabel_epoch", "warmup_epochs")
PER_EPOCH = ("negative_step", "threshold_step")
BATCHES = ("window",)
IMAGES = ("queue",)
RATES = ("center_lr",)
LENGTHS = ("epochs", "steps_per_epoch")  # a preset that sets one of them is a shorter one


def shares(recipe: Recipe, options: Mapping[str, Any]) -> dict[str, float]:
    """Share of the run by setting, for those that are in use; `options` are a method's, all of them."""
    steps = recipe.epochs * recipe.steps_per_epoch
    found = {"ema": _horizon(recipe.ema) / steps, "warmup_epochs": recipe.warmup_epochs / recipe.epochs}
    for name, value in options.items():
        key = f"method.{name}"
        if name in RATES:
            found[key] = _moved(recipe, recipe.lr if value is None else value)
        elif not isinstance(value, int | float):
            continue
        elif name in DECAYS:
            found[key] = _horizon(value) / steps
        elif name in EPOCHS:
            found[key] = value / recipe.epochs
        elif name in PER_EPOCH:
            found[key] = value * recipe.epochs
        elif name in BATCHES:
            found[key] = value / steps
        elif name in IMAGES:
            found[key] = value / (recipe.batch_size * recipe.mu * steps)
    return {key: share for key, share in found.items() if share}


def _horizon(decay: float) -> float:
    """How many steps an average goes back, 0 for none."""
    return 1 / (1 - decay) if 0 < decay < 1 else 0.0


def _moved(recipe: Recipe, rate: float) -> float:
    """The sum of a rate that follows the recipe's schedule."""
    steps = recipe.epochs * recipe.steps_per_epoch
    sampled = range(0, steps, max(1, steps // 1000))
    return rate * steps * sum(factor(recipe, step) for step in sampled) / len(sampled)


def ratios(cell: Cell, preset: str) -> dict[str, float]:
    """By setting: its share of the run under `preset` over the paper's; infinite where the paper does without.

    A method's settings are named "METHOD.option", the recipe's by their own names. Raises UserError.
    """
    of_preset, of_paper = (_shares(cell, one) for one in (preset, PAPER))
    found = {
        key: of_preset.get(key, 0.0) / of_paper[key] if key in of_paper else math.inf
        for key in sorted(of_preset.keys() | of_paper.keys())
    }
    return {key.replace("method.", f"{cell.method}."): ratio for key, ratio in found.items()}


def _shares(cell: Cell, preset: str) -> dict[str, float]:
    options = settings(cell, preset, cell.seeds[0])["options"]
    return shares(planned(cell.recipe(preset), cell.split, cell.data(cell.dataset).images), options)


def shorter_presets(protocol: Protocol) -> Iterator[str]:
    """The presets that shorten the paper's runs."""
    for name, preset in protocol.presets.items():
        if name != PAPER and any(key in preset for key in LENGTHS):
            yield name


def off_pace(protocol: Protocol, preset: str) -> dict[str, float]:
    """The settings whose share of the run no cell keeps under `preset`, with the ratio that is nearest to 1.

    A preset has one length for data sets whose runs differ forty times in the paper, so one cell is enough.
    """
    nearest: dict[str, float] = {}
    for cell in _with_their_starts(protocol):
        for key, ratio in ratios(cell, preset).items():
            if key not in nearest or _distance(ratio) < _distance(nearest[key]):
                nearest[key] = ratio
    return {key: ratio for key, ratio in sorted(nearest.items()) if _distance(ratio) > math.log(FACTOR) + 1e-9}


def _with_their_starts(protocol: Protocol) -> Iterator[Cell]:
    """Every cell that can be run, and the runs that it starts from."""
    for one in cells(protocol):
        cell = one if not one.published_only and implemented(one) else None
        while cell:
            yield cell
            cell = cell.before


def _distance(ratio: float) -> float:
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def unexplained(protocol: Protocol, preset: str) -> list[str]:
    """What is off the paper's pace with no reason in the protocol, and reasons for what is not: a line for each."""
    found, reasons = off_pace(protocol, preset), protocol.off_pace.get(preset, {})
    new = [f"{key} has {ratio:.3g} times the paper's share of a run" for key, ratio in found.items()]
    new = [line for line in new if line.partition(" ")[0] not in reasons]
    return new + [f"[off_pace.{preset}] excuses {key}, which keeps the paper's" for key in reasons if key not in found]
