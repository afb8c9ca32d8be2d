"""Sums and means over a whole batch, also when the batch is shared between processes."""

from __future__ import annotations

from typing import Any, Literal

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


def batch_mean(values: Tensor) -> Tensor:
    """Mean over the rows [B, ...] of the whole batch, in float32 and without gradient: for running statistics."""
    mean = values.detach().float().mean(dim=0)
    if processes() > 1:
        dist.all_reduce(mean)
        mean = mean / processes()
    return mean


def whole_batch(rows: Tensor) -> Tensor:
    """The rows [B, ...] of all processes, one process's after the other's: for tables that every process keeps."""
    if processes() == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(processes())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows [B, ...] of all processes with gradient to one's own: for a loss that compares rows with each other.

    Every process computes the same loss of the whole batch. Gradients are averaged over processes afterwards, so what
    flows back to a process's own rows is multiplied by their number.
    """
    return rows if processes() == 1 else _Gathered.apply(rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return whole_batch(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows] * processes()
