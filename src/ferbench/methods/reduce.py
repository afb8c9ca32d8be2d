"""Sums and means over a whole batch, also when the batch is shared between processes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

Reduction = Literal["mean", "sum"]


def processes() -> int:
    """How many processes share the batch, each with its part of the rows."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Sum or mean of per-sample losses [B]; a mean divides by B, masked-out zeros included.

    Gradients are averaged over processes afterwards. That makes a mean over equal parts one over the whole batch; a sum
    is multiplied by the number of processes for the same end.
    """
    return values.sum() * processes() if reduction == "sum" else values.mean()


def kept_count(mask: Tensor) -> Tensor:
    """How many rows of `mask` [B] are kept, as a 0-d float tensor without gradient; 1 where none is.

    With several processes it is the average count per process: gradients are averaged over processes afterwards, so
    `sum / kept_count` gives what one process with the whole batch would compute.
    """
    count = mask.sum(dtype=torch.float32)
    if processes() > 1:
        dist.all_reduce(count)
        count = count / processes()
    return torch.where(count > 0, count, torch.ones_like(count))
