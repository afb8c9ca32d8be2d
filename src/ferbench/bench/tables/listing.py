"""What `ferbench list` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from ferbench.bench.data.sets.readers import READERS
from ferbench.bench.tables.leaderboard import COMPARABLE, implemented
from ferbench.bench.tables.step_cost import step_cost
from ferbench.bench.training.length import planned
from ferbench.bench.training.networks.backbones import WeightsError, make_classifier
from ferbench.methods import METHODS, PLUG_INS
from ferbench.protocols import Cell, Recipe, cells, load_protocol, protocol_names


def methods() -> Table:
    """Name, paper, variants, images per step, the tables that have it as a row, options with their defaults."""
    table = Table(
        "method", "paper", "variants", "images per step", "in tables", "options (paper's defaults)", title="methods"
    )
    for name, method in METHODS.items():
        kind = " (plug-in: learner=...)" if name in PLUG_INS else ""
        options = ", ".join(f"{field.name}={field.default}" for field in fields(method.Options))
        tables = ", ".join(tables_with().get(name, ())) or "-"
        table.add_row(name + kind, method.paper, _variants(name), str(step_cost(name)), tables, options)
    return table


def _variants(name: str) -> str:
    """The paper's, and each other with the options that it sets."""
    lines = ["paper"]
    for variant, changed in (("released", METHODS[name].released), ("usb", METHODS[name].usb)):
        if changed:
            lines.append(f"{variant}: " + ", ".join(f"{key}={value}" for key, value in changed.items()))
    return "\n".join(lines)


@cache
def tables_with() -> dict[str, tuple[str, ...]]:
    """The tables (`PAPER/TABLE`) in whose rows each method stands, by itself or as a plug-in's learner."""
    found: dict[str, dict[str, None]] = {}
    for protocol in map(load_protocol, protocol_names()):
        for table in protocol.tables:
            for row in table.rows:
                for name in (row.method, row.options.get("learner")):
                    if name in METHODS:
                        found.setdefault(str(name), {})[f"{protocol.name}/{table.id}"] = None
    return {name: tuple(tables) for name, tables in found.items()}


def protocols() -> Table:
    """Tables with their rows, columns, runs, what the runs would cost, and published numbers."""
    table = Table(
        "table", "caption", "rows run / all", "columns", "runs now / all", "GPU-hours (estimate)", "published",
        title="protocols",
    )  # fmt: skip
    for name in protocol_names():
        protocol = load_protocol(name)
        for entry in protocol.tables:
            needed = [cell for cell in cells(protocol, entry.id) if not cell.published_only]
            ready = [cell for cell in needed if implemented(cell)]
            table.add_row(
                f"{name}/{entry.id}", entry.caption, f"{len({cell.row.id for cell in ready})} / {len(entry.rows)}",
                str(len(entry.columns)), f"{_runs(ready)} / {_runs(needed)}", _hours(needed), str(len(entry.published)),
            )  # fmt: skip
    return table


def _runs(chosen: Sequence[Cell]) -> int:
    return sum(len(cell.seeds) for cell in chosen)


def _hours(chosen: Sequence[Cell]) -> str:
    """The estimate as text; a dash where there is nothing to run, no paper's recipe, or a backbone we do not have."""
    if not chosen or COMPARABLE not in chosen[0].protocol.presets:
        return "-"
    try:
        return f"{table_hours(chosen):,.0f}"
    except WeightsError:
        return "-"


def table_hours(chosen: Sequence[Cell]) -> float:
    """Estimated GPU-hours of all runs of these cells under the paper's recipe, the runs they start from included.

    Raises WeightsError for a backbone that is not there.
    """
    hours = {
        (cell.id, seed): gpu_hours(_long(cell, cell.recipe(COMPARABLE)), bool(cell.unlabelled))
        for cell in chosen for seed in cell.seeds
    }  # fmt: skip
    for cell in chosen:
        stage, recipe = cell.row.after, cell.recipe_name
        while stage:
            recipe = stage.recipe or recipe
            unlabelled = cell.unlabelled if stage.unlabelled is None else stage.unlabelled
            one = gpu_hours(_long(cell, cell.protocol.recipe(recipe, COMPARABLE)), bool(unlabelled))
            hours |= {(f"{cell.column.id}/{stage}", seed): one for seed in cell.seeds}  # once for rows that share it
            stage = stage.after
    return sum(hours.values())


def _long(cell: Cell, recipe: Recipe) -> Recipe:
    return planned(recipe, cell.split, cell.data(cell.dataset).images)


def gpu_hours(recipe: Recipe, unlabelled: bool) -> float:
    """Estimated hours of one run on one data-centre GPU: an order of magnitude to plan by, nothing that was measured.

    Assumed: each step trains on the labelled images and on two views of each unlabelled one, where there are any;
    forward and backward pass together cost three forward passes; the card keeps up 12 TFLOP/s (ResNet-18 at 224 pixels:
    1,100 images a second, what cards of the A100's class reach in float32 with TF32 convolutions); and no step is
    shorter than 10 ms, the time to launch its kernels. Test passes, second passes of some methods, half precision and
    lengths that depend on the number of images are left out.
    """
    images = recipe.batch_size * (1 + 2 * recipe.mu * unlabelled)
    seconds = max(0.010, images * 3 * forward_flop(recipe.backbone, recipe.input_size) / 12e12)
    return recipe.epochs * recipe.steps_per_epoch * seconds / 3600


@cache
def forward_flop(backbone: str, size: int) -> int:
    """Floating-point operations (a multiply-add is two) of one image's forward pass, counted without running it."""
    with torch.device("meta"), torch.no_grad():
        model = make_classifier(backbone, 7, size=size, dropout=0.0)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, size, size))
    return int(counter.get_total_flops())


def datasets() -> Table:
    """Readers with their options."""
    table = Table("data set", "what it is", "options", title="data sets")
    for reader in READERS.values():
        options = ", ".join(f"{name}={option.default}" for name, option in reader.options.items())
        table.add_row(reader.name, reader.summary, options)
    return table
