"""What a table's runs would cost, in hours of one data-centre GPU: an estimate to plan by."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from ferbench.bench.tables.planning.implemented import COMPARABLE
from ferbench.bench.training.length import BACKWARD, evaluation_interval, planned
from ferbench.protocols import Cell, Recipe

FLOP_PER_S = 12e12  # that a card of the A100's class keeps up
SHORTEST_S = 0.0025  # of a step's launches
TESTED = 4  # training images for each test image, as in RAF-DB, where a protocol says how many there are


def table_hours(chosen: Sequence[Cell]) -> float:
    """Estimated GPU-hours of all runs of these cells under the paper's recipe, the runs they start from included.

    Raises WeightsError for a backbone that is not there.
    """
    hours: dict[tuple[str, int], float] = {}
    for cell in chosen:
        tested = cell.data(cell.dataset).images // TESTED
        one = gpu_hours(_long(cell, cell.recipe(COMPARABLE)), bool(cell.unlabelled), tested)
        hours |= {(cell.id, seed): one for seed in cell.seeds}
        stage, recipe = cell.row.after, cell.recipe_name
        while stage:
            recipe = stage.recipe or recipe
            unlabelled = cell.unlabelled if stage.unlabelled is None else stage.unlabelled
            one = gpu_hours(_long(cell, cell.protocol.recipe(recipe, COMPARABLE)), bool(unlabelled), tested)
            hours |= {(f"{cell.column.id}/{stage}", seed): one for seed in cell.seeds}  # once for rows that share it
            stage = stage.after
    return sum(hours.values())


def _long(cell: Cell, recipe: Recipe) -> Recipe:
    return planned(recipe, cell.split, cell.data(cell.dataset).images)


def gpu_hours(recipe: Recipe, unlabelled: bool, test_images: int = 0) -> float:
    """Estimated hours of one run on one data-centre GPU: an order of magnitude to plan by, nothing that was measured.

    Assumed: each step trains on the labelled images and on two views of each unlabelled one, where there are any;
    forward and backward pass together cost three forward passes; the card keeps up 12 TFLOP/s (ResNet-18 at 224 pixels:
    1,100 images a second, what cards of the A100's class reach in float32 with TF32 convolutions); no step is shorter
    than the kernels of a replayed graph, a thousand of 2.5 us; and the test images are scored by the student and, where
    there is one, the average, as often as the loop does. Checkpoints, second passes of some methods, half precision and
    lengths that depend on the number of images are left out.
    """
    images = recipe.batch_size * (1 + 2 * recipe.mu * unlabelled)
    one = forward_flop(recipe.backbone, recipe.input_size) / FLOP_PER_S
    models = 2 if recipe.ema > 0 else 1
    tests = -(-recipe.epochs // evaluation_interval(recipe, images, test_images, models))
    training = recipe.epochs * recipe.steps_per_epoch * max(SHORTEST_S, images * BACKWARD * one)
    return (training + tests * models * test_images * one) / 3600


def forward_flop(backbone: str, size: int) -> int:
    """Floating-point operations (a multiply-add is two) of one image's forward pass, looked up or else counted.

    The sizes of the shipped protocols stand in flop.csv, so that a list of hours does not wait for torch.
    Raises WeightsError for a backbone that is not there.
    """
    return _table().get((backbone, size)) or counted_flop(backbone, size)


@cache
def counted_flop(backbone: str, size: int) -> int:
    """The same, counted without running the pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ferbench.bench.training.networks.backbones import make_classifier

    with torch.device("meta"), torch.no_grad():
        model = make_classifier(backbone, 7, size=size, dropout=0.0).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, size, size))
    return int(counter.get_total_flops())


@cache
def _table() -> dict[tuple[str, int], int]:
    text = files(__package__).joinpath("flop.csv").read_text(encoding="utf-8")
    return {(row["backbone"], int(row["size"])): int(row["flop"]) for row in csv.DictReader(text.splitlines())}
