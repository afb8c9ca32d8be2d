"""Speed case of the moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import timm
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Step, Work
from ferbench.kernels import MovingAverage, ema_update, reference

MODELS = ("resnet18", "vit_large_patch16_224")


class Ema(Case):
    """All floating-point tensors of a model, `model` being an index into `MODELS`."""

    op = "ema_update"
    sizes = {"quick": {"model": 0}, "paper": {"model": 0}, "large": {"model": 1}}

    def floor(self, size: dict[str, int]) -> Work:
        """Averages and values read, averages written."""
        return Work(12 * sum(math.prod(shape) for shape in shapes(size)))

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        return [[torch.randn(shape, device=device) for shape in shapes(size)] for _ in range(2)]

    def label(self, size: dict[str, int]) -> str:
        return MODELS[size["model"]]

    def ours(self, averages: list[Tensor], values: list[Tensor]) -> Sequence[Tensor]:
        ema_update(averages, values, 0.999)
        return averages

    def bound(self, forward: Forward, inputs: Inputs, backward: bool = True) -> Step:
        """Ours as a loop uses it: checked and tabled once."""
        if forward != self.ours:
            return super().bound(forward, inputs, backward)
        average = MovingAverage(*inputs)

        def step() -> list[Tensor]:
            average.update(0.999)
            return average.averages

        return step

    def eager(self, averages: list[Tensor], values: list[Tensor]) -> Sequence[Tensor]:
        reference.ema_update(averages, values, 0.999)
        return averages

    def others(self) -> dict[str, Forward]:
        return {"per-tensor": per_tensor, "swa_utils": swa_utils}


def shapes(size: dict[str, int]) -> list[torch.Size]:
    """Of the floating-point tensors of a model."""
    with torch.device("meta"):
        model = timm.create_model(MODELS[size["model"]])
    return [value.shape for value in model.state_dict().values() if value.is_floating_point()]


def per_tensor(averages: list[Tensor], values: list[Tensor]) -> Sequence[Tensor]:
    """The loop that training codes write, ReMoP's among them."""
    for average, value in zip(averages, values, strict=True):
        average.mul_(0.999).add_(value, alpha=0.001)
    return averages


def swa_utils(averages: list[Tensor], values: list[Tensor]) -> Sequence[Tensor]:
    """torch's own multi-tensor average."""
    get_ema_multi_avg_fn(0.999)(averages, values, None)  # type: ignore[no-untyped-call]
    return averages
