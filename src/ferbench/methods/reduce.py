"""Means over a whole batch, also when the batch is shared between processes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

Reduction = Literal["mean", "sum"]


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Sum or mean of per-sample losses [B]; a mean divides by B, masked-out zeros included."""
    return values.sum() if reduction == "sum" else values.mean()


def kept_count(mask: Tensor) -> Tensor:
    """How many rows of `mask` [B] are kept, at least 1, as a 0-d float tensor without gradient.

    With several processes it is the average count per process: gradients are averaged over processes afterwards, so
    `sum / kept_count` gives what one process with the whole batch would compute.
    """
    count = mask.sum(dtype=torch.float32)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return torch.where(count > 0, count, torch.ones_like(count))
