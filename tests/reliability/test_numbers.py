"""Numbers that cannot be meant end in one line before anything is drawn, trained or allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]
HUGE = "1" + "0" * 400
RECIPE = {
    "lr": (HUGE, "Infinity", "NaN", "1e31", "-1", "[[[["),
    "batch_size": ("1000000000000", HUGE, "0", "1e3"),
    "mu": ("1000000000000", "0"),
    "epochs": ("1000000000", HUGE),
    "warmup_epochs": (HUGE,),
    "input_size": ("1000000", "100000000000000000000"),
    "crop_padding": ("100000000000000000000",),
    "randaugment_ops": ("1000000000",),
    "weight_decay": ("1e308",),
    "clip": ("Infinity",),
}
OTHERS = {
    "option": (("fixmatch", "--option", f"threshold={HUGE}"), ("fixmatch", "--option", "threshold=NaN")),
    "data option": (
        ("vanilla", "--data-option", f"scale={HUGE}"),
        ("vanilla", "--data-option", "scale=NaN"),
    ),
    "split": (
        ("vanilla", "--split", "kfold:folds=2,fraction=0.5,fold_seed=1099511627776"),
        ("vanilla", "--split", f"long_tailed:n1=4,gamma={HUGE}"),
        ("vanilla", "--split", "long_tailed:n1=1e400,gamma=20"),
    ),
}


@pytest.mark.parametrize("key", RECIPE)
def test_recipes(ferbench: Command, key: str) -> None:
    for value in RECIPE[key]:
        done = ferbench("train", "vanilla", "--recipe", f"{key}={value}")
        assert done.code == 2 and key in done.error() and len(done.error()) < 1000


@pytest.mark.parametrize("kind", OTHERS)
def test_options(ferbench: Command, kind: str) -> None:
    for asked in OTHERS[kind]:
        done = ferbench("train", *asked, "--data-option", "size=16")
        assert done.code == 2 and done.error()
