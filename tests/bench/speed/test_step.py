"""The ways of doing a step that are timed beside each other train the same model, and the script ends on a CPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from ferbench.bench.speed import step as script
from ferbench.bench.speed import ways
from ferbench.bench.speed.packing import InTurns, in_processes
from ferbench.bench.speed.ways import authors, make_run, plain, static
from ferbench.bench.training.state import State
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
    assert [row.variant for row in rows] == ["static / plain, CPU time", "plain, CPU time", "static, CPU time"]
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


def test_blocks_are_paired_and_the_interval_is_the_binomial_one() -> None:
    """Of ten ratios the second and the ninth hold the median with 97.9 %, the third and the eighth with 89 % alone."""
    others = [2.0, 4.0] * 5
    times = [other * (1 + place / 100) for place, other in enumerate(others)]
    ratios, bounds = script.paired(times[::-1], others[::-1])
    assert ratios == pytest.approx([1 + place / 100 for place in range(10)])
    assert bounds == pytest.approx((1.01, 1.08))
    assert script.paired([3.0, 1.0], [1.0, 1.0])[1] == (1.0, 3.0)


def weights(state: State) -> list[torch.Tensor]:
    models = [state.method, *([state.average.method] if state.average else [])]
    return [value.clone() for model in models for value in model.state_dict().values()]


def test_runs_in_turns_have_the_bits_of_each_alone() -> None:
    """Two runs with dropout, other seeds and methods, step by step in one process; a third fails in its second step."""
    made: dict[str, State] = {}

    def make(name: str, case: script.Case, seed: int) -> ways.Way:
        recipe = replace(case.settings(True), dropout=0.5)
        way, steps = static(make_run(case.method, recipe, case.stored, seed=seed), CPU, Mode())
        made[name] = steps.step.state
        return way

    def fails() -> ways.Way:
        way = make("broken", script.CASES[0], 3)

        def step(number: int) -> None:
            torch.rand(7)  # somebody else's random numbers
            if number == 1:
                raise RuntimeError("out of memory")
            way(number)

        return step

    makers = {name: partial(make, name, case, seed) for name, case, seed in PAIR}
    together = InTurns([makers["first"], fails, makers["second"]], CPU)
    assert [together.step(number) for number in range(4)] == [3, 2, 2, 2]
    assert str(together.failed[1]) == "out of memory" and len(together.failed) == 1
    mixed = {name: weights(made[name]) for name in makers}
    for name, maker in makers.items():
        alone = maker()
        for number in range(4):
            alone(number)
        assert all(map(torch.equal, weights(made[name]), mixed[name]))
    assert not all(map(torch.equal, mixed["first"], weights(made["broken"])))


PAIR = (("first", script.CASES[4], 1), ("second", script.CASES[2], 2))


def test_rows_of_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "in_processes", lambda worker, count: None if count == 2 else 1.0)
    rows = list(script.packing(CPU, 0.01, "command"))
    assert [row.variant for row in rows] == ["1 processes", "1 streams", "2 streams"]
    assert all(isinstance(row.median, float) and row.median > 0 for row in rows)


def test_a_process_that_fails_is_no_figure() -> None:
    said = "print('ready', flush=True); input(); print({})"
    assert in_processes([sys.executable, "-c", said.format(2.5)], 2) == 5.0
    assert in_processes([sys.executable, "-c", "1 / 0"], 2) is None
