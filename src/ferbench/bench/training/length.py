"""How long a run is: recipes that count epochs in passes over the images, or in more epochs where labels are few."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from ferbench.errors import DataError
from ferbench.protocols import Recipe, Split

if TYPE_CHECKING:
    pass

FEW_EPOCHS = 25  # a run of at most so many is scored after each
SCORING_SHARE = 0.1  # test passes take at most this share of the training's time in longer ones
BACKWARD = 3  # a pass with its gradient costs this many without


def fitted(recipe: Recipe, labelled: int, unlabelled: int, held_out: int = 0) -> Recipe:
    """`recipe` with the epochs and the steps per epoch that these numbers of images give it.

    held_out: labelled images that validate: whether labels are few is asked of all of them, so that a search on some of
    them is for the run with all.
    A pass is whole batches only: the incomplete last one is left out, as the streams do; a set smaller than a batch
    makes one step. Raises DataError where an epoch is a pass over unlabelled images and there are none.
    """
    epochs = recipe.few_epochs if labelled + held_out < recipe.few_labels else recipe.epochs
    if recipe.epoch_of == "steps":
        return replace(recipe, epochs=epochs)
    if recipe.epoch_of == "unlabelled" and not unlabelled:
        raise DataError("an epoch of this recipe is a pass over the unlabelled images, and there are none")
    images = labelled if recipe.epoch_of == "labelled" else unlabelled
    batch = recipe.batch_size if recipe.epoch_of == "labelled" else recipe.batch_size * recipe.mu
    return replace(recipe, epochs=epochs, steps_per_epoch=max(1, images // batch))


def planned(recipe: Recipe, split: Split, images: int) -> Recipe:
    """`recipe` with about the length it will have on a data set of `images` training images, for estimates.

    Unchanged where 0 images are said. A balanced split is taken to have eight classes, a long-tailed one half of them.
    """
    if not images:
        return recipe
    kept = images - images // split.folds if split.folds else images
    labelled = split.labels or 8 * (split.per_class or 0) or round((split.fraction or 0.0) * kept)
    labelled = labelled or (kept if split.kind == "full" else kept // 2)
    return fitted(recipe, labelled, max(1, kept - labelled))


def evaluation_interval(recipe: Recipe, images: int, test_images: int, models: int) -> int:
    """After every how many epochs `models` models are scored on the test images (the last epoch is scored as well).

    images: that a step trains on, one that is seen in two views twice.
    After each in runs of few epochs; else as rarely as keeps the test passes a tenth of the training's. SSFER's runs on
    less than 500 labels are 1,000 epochs of 2 to 15 steps, whose test passes would take nine tenths of the time.
    """
    if recipe.epochs <= FEW_EPOCHS:
        return 1
    training = BACKWARD * images * recipe.steps_per_epoch
    return min(recipe.epochs, max(1, ceil(models * test_images / (SCORING_SHARE * training))))
