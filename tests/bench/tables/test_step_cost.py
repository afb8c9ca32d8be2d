"""Images per step of every baseline, and the list of methods that shows them."""

from __future__ import annotations

import pytest

from ferbench.bench.tables.planning.listing import methods, tables_with
from ferbench.bench.tables.planning.step_cost import step_cost
from ferbench.methods import METHODS

COSTS = {  # images with gradient; without
    "vanilla": ("B", ""),
    "fixmatch": ("B + U", "U"),
    "flexmatch": ("B + U", "U"),
    "freematch": ("B + U", "U"),
    "softmatch": ("B + U", "U"),
    "dash": ("B + U", "U"),
    "uda": ("B + U", "U"),
    "adamatch": ("4B + 2U", ""),  # the labelled views twice, everything in one pass
    "defixmatch": ("2B + U", "U"),
    "pseudo_label": ("B + U", ""),
    "pi_model": ("B + U", "U"),
    "mean_teacher": ("B + U", "U"),
    "vat": ("B + 3U", ""),  # clean, the power iteration, moved
    "mixmatch": ("B + 2U", "2U"),
    "remixmatch": ("B + 5U", "U"),  # mixed, anchor, rotation
    "comatch": ("B + 3U", ""),
    "simmatch": ("B + U", "B + U"),
    "ccssl": ("B + 2U", "U"),
    "marginmix": ("2B + 2U", "2U"),
    "lion": ("B + 2U", ""),
    "progressive_teacher": ("B + U", "B + U"),
    "cpe": ("B + 2U", ""),
    "scn": ("B", ""),
    "rul": ("B", ""),
    "eac": ("2B", ""),  # the images and their mirror images
    "abc": ("B + 2U", "U"),
    "adsh": ("B + U", "U"),
    "inpl": ("B + U", "U"),
}


@pytest.mark.parametrize("name", COSTS)
def test_images_per_step(name: str) -> None:
    gradient, plain = COSTS[name]
    assert str(step_cost(name)) == gradient + (f", {plain} without gradient" if plain else "")


@pytest.mark.parametrize(("name", "cost"), [("fixmatch", "B + 2U"), ("adamatch", "B + 2U"), ("abc", "B + 2U")])
def test_images_per_step_in_the_toolbox(name: str, cost: str) -> None:
    assert str(step_cost(name, "usb")) == cost


def test_every_method_is_listed_with_its_tables() -> None:
    *lines, _ = methods(None)
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert all(len(line) > 45 for line in lines)  # each has a sentence
    assert "demo/1" in tables_with()["fixmatch"] and "remop/1" in tables_with()["remop"]
