"""What steps need from the host, drawn for many of them at once: a row of bytes per step, sent in one transfer.

A row holds the step's learning rates, the share of training done, and, where views are made from plans alone, the
indices and plans of its batches: all functions of (seed, step), so that a restart draws the same. `Layout` says where
each of them lies, in a row of a chunk and in the one row that a step reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ferbench.bench.data.randomness import derive
from ferbench.bench.data.views.batches import Share
from ferbench.bench.data.views.static import Field, StaticBatches
from ferbench.bench.training import schedule
from ferbench.protocols import Recipe

LOG_EVERY = 50  # steps between looks at the device: the bar, and the check for NaN
ALIGNED = 16  # bytes; every field starts at a multiple


class Layout:
    """Fields of fixed type and shape, side by side in a row of bytes."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._places: dict[str, tuple[int, int, Field]] = {}
        self.width = 0
        for name, (dtype, shape) in fields.items():
            end = self.width + prod(shape) * dtype.itemsize
            self._places[name] = (self.width, end, (dtype, shape))
            self.width = -(-end // ALIGNED) * ALIGNED

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Each field of rows [..., width] uint8 as a view [..., *shape] of its type."""
        return {
            name: rows[..., start:end].view(dtype).view((*rows.shape[:-1], *shape))
            for name, (start, end, (dtype, shape)) in self._places.items()
        }


@dataclass(frozen=True)
class Chunk:
    """Consecutive or chosen steps: their rows [n, width] uint8 on the device, and a seed each for the network's."""

    steps: Sequence[int]
    rows: Tensor
    seeds: Sequence[int]


class Feed:
    """Chunks of a run of `recipe` by `seed`; rates: the learning rate of each optimiser group before the schedule."""

    def __init__(
        self, recipe: Recipe, seed: int, rates: Sequence[float], batches: StaticBatches | None, share: Share,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._recipe, self._seed, self._rates, self._batches = recipe, seed, rates, batches
        self._share, self._device = share, device
        self.total = recipe.epochs * recipe.steps_per_epoch
        # the fused optimisers of a GPU read float32; on the CPU a rate has the bits of Python's number
        rate = torch.float64 if device.type == "cpu" else torch.float32
        self.layout = Layout({
            "fraction": (torch.float32, ()),
            "rate": (torch.float64, ()),
            "group rates": (rate, (len(rates),)),
            **(batches.fields() if batches else {}),
        })  # fmt: skip

    def chunk(self, first: int) -> Chunk:
        """The steps from `first` to the next look: a multiple of LOG_EVERY, or the end of an epoch."""
        per_epoch = self._recipe.steps_per_epoch
        count = min(LOG_EVERY - first % LOG_EVERY, per_epoch - first % per_epoch)
        return self.of(range(first, first + count))

    def of(self, steps: Sequence[int]) -> Chunk:
        """A chunk of any steps."""
        rows = torch.empty(len(steps), self.layout.width, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        fields = self.layout.views(rows)
        factors = [schedule.factor(self._recipe, step) for step in steps]
        drawn = {
            "fraction": torch.tensor([step / self.total for step in steps]),
            "rate": torch.tensor([self._recipe.lr * factor for factor in factors], dtype=torch.float64),
            "group rates": torch.tensor(
                [[rate * factor for rate in self._rates] for factor in factors], dtype=torch.float64
            ),
            **(self._batches.draw(steps) if self._batches else {}),
        }
        for name, values in drawn.items():
            fields[name].copy_(values)
        share = self._share
        seeds = [derive(self._seed, "network", step * share.world + share.rank) for step in steps]
        return Chunk(steps, rows.to(self._device, non_blocking=True), seeds)
