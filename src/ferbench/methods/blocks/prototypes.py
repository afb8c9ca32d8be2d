"""A mean feature per class that follows the images one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ferbench.methods.blocks.mixer import one_hot


class Prototypes(nn.Module):
    """means [K, D] in a buffer: plain means at first, then m <- momentum * m + (1 - momentum) * f for each image."""

    means: Tensor
    counts: Tensor

    def __init__(self, classes: int, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("counts", torch.zeros(classes))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, used: Tensor, *, mean: bool) -> None:
        """Rows [n, D] in their order, those of `used` [n]; mean: add them to the plain mean."""
        members = one_hot(labels, len(self.means)) * used.unsqueeze(1)
        added = members.sum(dim=0)
        if mean:
            total = self.counts + added
            rows = members.T @ features
            moved = (self.means * self.counts.unsqueeze(1) + rows) / total.clamp(min=1).unsqueeze(1)
            self.counts.copy_(total)
        else:
            later = added - members.cumsum(dim=0)  # rows of each class that come after this one
            share = members * (1 - self.momentum) * self.momentum**later
            moved = self.momentum ** added.unsqueeze(1) * self.means + share.T @ features
        self.means.copy_(torch.where(added.unsqueeze(1) > 0, moved, self.means))
