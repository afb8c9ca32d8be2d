"""Epochs that are passes over the images, and more of them where labels are few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.views.batches import Stream
from ferbench.bench.training.length import evaluation_interval, fitted, planned
from ferbench.bench.training.state import Run
from ferbench.protocols import Recipe, Split, select

RECIPE = Recipe(backbone="resnet_small", batch_size=8, epochs=10, steps_per_epoch=7, lr=1e-3, mu=3)


def test_a_recipe_in_steps_is_left_as_it_is() -> None:
    assert fitted(RECIPE, 5, 0) == RECIPE


@pytest.mark.parametrize(("images", "steps"), [(8, 1), (15, 1), (16, 2), (100, 12), (7, 1), (1, 1)])
def test_a_pass_over_labelled_images_is_whole_batches(images: int, steps: int) -> None:
    recipe = fitted(replace(RECIPE, epoch_of="labelled"), images, 1000)
    assert (recipe.epochs, recipe.steps_per_epoch) == (10, steps)


@pytest.mark.parametrize(("images", "steps"), [(24, 1), (48, 2), (71, 2), (10, 1)])
def test_a_pass_over_unlabelled_images_counts_mu(images: int, steps: int) -> None:
    assert fitted(replace(RECIPE, epoch_of="unlabelled"), 4, images).steps_per_epoch == steps


def test_a_pass_is_the_streams_pass() -> None:
    """The stream shuffles anew when the epoch ends, not before or after."""
    import numpy as np

    stream = Stream(np.arange(20, dtype=np.int64), 8, 1, "labelled")
    steps = fitted(replace(RECIPE, epoch_of="labelled"), 20, 0).steps_per_epoch
    first = [index for step in range(steps) for index in stream.at(step).tolist()]
    assert len(set(first)) == len(first) == 16
    assert steps == 2


def test_without_unlabelled_images_there_is_no_pass_over_them() -> None:
    with pytest.raises(DataError, match="pass over the unlabelled images, and there are none"):
        fitted(replace(RECIPE, epoch_of="unlabelled"), 4, 0)


@pytest.mark.parametrize(("labels", "epochs"), [(499, 1000), (500, 10), (501, 10)])
def test_few_labels_take_more_epochs(labels: int, epochs: int) -> None:
    assert fitted(replace(RECIPE, few_labels=500, few_epochs=1000), labels, 0).epochs == epochs


@pytest.mark.parametrize(("held_out", "epochs"), [(0, 1000), (122, 1000), (123, 10)])
def test_labels_that_validate_count_as_labels(held_out: int, epochs: int) -> None:
    """A fifth of RAF-DB's 613 labels held out leaves 490, which are still not few."""
    recipe = replace(RECIPE, few_labels=613, few_epochs=1000, epoch_of="labelled")
    found = fitted(recipe, 490, 0, held_out)
    assert (found.epochs, found.steps_per_epoch) == (epochs, 61)


@pytest.mark.parametrize(
    ("split", "labelled", "unlabelled"),
    [
        (Split("full"), 1000, 1),
        (Split("fraction", fraction=0.25), 250, 750),
        (Split("kfold", folds=5, fraction=0.5), 400, 400),
        (Split("balanced", per_class=10), 80, 920),
        (Split("total", labels=400), 400, 600),
        (Split("long_tailed", n1=100, gamma=5.0), 500, 500),
    ],
)
def test_planned_lengths(split: Split, labelled: int, unlabelled: int) -> None:
    for unit in ("labelled", "unlabelled"):
        recipe = replace(RECIPE, epoch_of=unit, few_labels=100, few_epochs=77)
        assert planned(recipe, split, 1000) == fitted(recipe, labelled, unlabelled)
        assert planned(recipe, split, 0) == recipe


def test_planned_lengths_of_ssfer_are_those_of_its_data_sets() -> None:
    for cell in select("ssfer/10/ssfer"):
        images, share = cell.data(cell.dataset).images, cell.split.fraction or 0.0
        steps = planned(cell.recipe("paper"), cell.split, images).steps_per_epoch
        assert steps == (images - round(share * images)) // 64


@pytest.mark.parametrize(("few", "epochs"), [(24, 3), (25, 7)])
def test_a_run_with_labels_held_out_is_as_long_as_one_with_all(
    make_tiny_run: Callable[..., Run], few: int, epochs: int
) -> None:
    """24 labels in all, half of them for validation."""
    split = ("balanced", {"per_class": 8, "validation": 0.5})
    run = make_tiny_run("vanilla", split=split, few_labels=few, few_epochs=7)
    assert len(run.split.labelled) == len(run.split.validation) == 12
    assert run.recipe.epochs == epochs


def test_the_run_has_the_length_and_the_spec_keeps_the_protocols_words(make_tiny_run: Callable[..., Run]) -> None:
    run = make_tiny_run("vanilla", epoch_of="labelled", few_labels=100, few_epochs=2)
    assert (run.recipe.epochs, run.recipe.steps_per_epoch) == (2, 6)  # 24 labelled images in batches of 4
    assert (run.spec["recipe"]["epochs"], run.spec["recipe"]["steps_per_epoch"]) == (3, 5)
    assert run.spec["recipe"]["epoch_of"] == "labelled"


ONE, TWO = 8, 8 + 2 * 24  # images a step


@pytest.mark.parametrize(
    ("epochs", "steps", "images", "tested", "models", "every"),
    [
        (25, 1, ONE, 7000, 2, 1),  # few epochs
        (100, 1000, TWO, 3068, 2, 1),  # 6,136 test passes against 168,000 of training
        (1000, 2, ONE, 3068, 1, 640),  # SSFER with 70 labels at batches of 8: 48 passes of training an epoch
        (1000, 15, ONE, 3068, 1, 86),
        (30, 1, ONE, 3068, 2, 30),  # at the last epoch alone
    ],
)
def test_test_passes_take_a_tenth_of_long_runs(
    epochs: int, steps: int, images: int, tested: int, models: int, every: int
) -> None:
    recipe = replace(RECIPE, epochs=epochs, steps_per_epoch=steps)
    assert evaluation_interval(recipe, images, tested, models) == every
    assert epochs <= 25 or every == epochs or models * tested <= 0.1 * every * steps * 3 * images
