"""The ways of doing a step that are timed beside each other train the same model, and the script ends on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ferbench.bench.speed import step as script
from ferbench.bench.speed import ways
from ferbench.bench.speed.ways import authors, make_run, plain, static
from ferbench.bench.training.steps.mode import Mode

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", [script.CASES[1], script.CASES[7]], ids=lambda case: case.name)
def test_plain_and_static_are_the_same_training(case: script.Case) -> None:
    """All bits of student and average after four steps; and they did move."""
    run = make_run(case.method, case.settings(True), case.stored, case.variant)
    (one, state), (other, steps) = plain(run, CPU), static(run, CPU, Mode())
    start = {name: value.clone() for name, value in state.method.state_dict().items()}
    for number in range(4):
        one(number)
        other(number)
    models = [(state.method, steps.step.state.method)]
    if state.average and steps.step.state.average:
        models.append((state.average.method, steps.step.state.average.method))
    for mine, theirs in models:
        ours = theirs.state_dict()
        assert all(torch.equal(value, ours[name]) for name, value in mine.state_dict().items())
    assert not all(torch.equal(value, start[name]) for name, value in state.method.state_dict().items())


def test_the_authors_way_goes_through_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image of a step is read once for each of its views; Ada-CM has one if labelled, else three."""
    case = script.CASES[2]
    run = make_run(case.method, case.settings(True), case.stored)
    way, opened, really = authors(run, CPU), [0], ways.Image.open

    def open_one(file: object) -> object:
        opened[0] += 1
        return really(file)

    monkeypatch.setattr(ways.Image, "open", open_one)
    for steps in (1, 2):
        way(steps - 1)
        assert opened[0] == steps * run.recipe.batch_size * (1 + 3 * run.recipe.mu)


def test_rows_of_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(script.steps(script.CASES[4], CPU, 0.0, 1, "command"))
    assert [row.variant for row in rows] == ["plain, CPU time", "static, CPU time"]
    assert all(row.case == "ReMoP, FERPlus at 48 px: 8 + 8 images, resnet_small, 32 px" for row in rows)
    assert all(isinstance(row.median, float) and row.median > 0 for row in rows)


def test_rows_of_an_epoch_s_end(tmp_path: Path) -> None:
    rows = list(script.epoch_end(CPU, tmp_path, "command"))
    assert [row.variant for row in rows] == ["score 200 images by two models", "checkpoint"]


def test_every_paper_s_size_is_its_recipe_s() -> None:
    """The images of a step, as the papers print them."""
    sizes = {case.name: (case.settings(False).batch_size, case.settings(False).mu) for case in script.CASES}
    assert sizes["Ada-CM, RAF-DB"] == sizes["ReMoP, RAF-DB"] == (16, 1)
    assert sizes["ReMoP, FERPlus at 48 px"] == (32, 1) and sizes["LEAF, released"] == (64, 1)
