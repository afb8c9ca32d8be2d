"""Running statistics in buffers: an exponential mean, and a mean over the last batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Running(nn.Module):
    """value <- momentum * value + (1 - momentum) * new, for a number or a vector.

    first: the first `new` replaces the starting value, as where a code has none.
    """

    value: Tensor
    fresh: Tensor

    def __init__(self, start: Tensor, momentum: float, *, first: bool = False) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", start.clone())
        self.register_buffer("fresh", torch.tensor(first))

    @torch.no_grad()
    def update(self, new: Tensor) -> None:
        """new: of the value's shape."""
        self.value.copy_(torch.where(self.fresh, new, self.momentum * self.value + (1 - self.momentum) * new))
        self.fresh.zero_()


class Window(nn.Module):
    """The mean of the last `length` vectors [width]; `start` fills the window before there are any."""

    rows: Tensor
    position: Tensor
    filled: Tensor

    def __init__(self, length: int, width: int, *, start: float | None = None) -> None:
        super().__init__()
        self.register_buffer("rows", torch.full((length, width), start or 0.0))
        self.register_buffer("position", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("filled", torch.tensor(0 if start is None else length))

    @torch.no_grad()
    def update(self, new: Tensor) -> None:
        """new [width] takes the oldest vector's place."""
        self.rows.index_copy_(0, self.position, new.unsqueeze(0))
        self.position.add_(1).remainder_(len(self.rows))
        self.filled.add_(1).clamp_(max=len(self.rows))

    @property
    def value(self) -> Tensor:
        """[width], zero before the first vector."""
        return self.rows.sum(dim=0) / self.filled.clamp(min=1)


Marginal = Running | Window


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """How many of `labels` [N] are of each class, [classes] float32."""
    return F.one_hot(labels, classes).sum(dim=0).float()
