"""The averaged copy of a method that is evaluated: an exponential moving average of its state."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from ferbench.kernels import MovingAverage
from ferbench.methods import Method


class Averaged:
    """average <- decay * average + (1 - decay) * student, in one launch over all tensors.

    buffers: "copy" takes batch-norm statistics over from the student, "ema" averages them too (released codes).
    Integer buffers and the entries a method names in `not_averaged()` are always copied. `shrink` multiplies what is
    averaged in the student by 1 - shrink * lr after each update: the weight decay of the released codes, which shrinks
    batch-norm statistics as well.
    """

    def __init__(self, method: Method, decay: float, *, buffers: Literal["copy", "ema"], shrink: float) -> None:
        self.method = copy.deepcopy(method).requires_grad_(False)
        self.decay = decay
        self.shrink = shrink
        fixed = method.not_averaged()
        statistics = frozenset() if buffers == "ema" else frozenset(name for name, _ in method.named_buffers())
        ours, theirs = self.method.state_dict(keep_vars=True), method.state_dict(keep_vars=True)
        averaged = [
            name for name, value in theirs.items() if value.is_floating_point() and name not in fixed | statistics
        ]
        copied = [name for name in theirs if name not in set(averaged)]
        self._average = MovingAverage(
            [ours[name].data for name in averaged], [theirs[name].data for name in averaged]
        )  # fmt: skip
        self._copies: list[Tensor] = [ours[name].data for name in copied]
        self._originals: list[Tensor] = [theirs[name].data for name in copied]

    @torch.no_grad()
    def update(self, lr: float | Tensor) -> None:
        """After an optimiser step at learning rate `lr`, a number or a tensor [] of the same device."""
        self._average.update(self.decay, shrink=1.0 - self.shrink * lr if self.shrink else 1.0)
        if self._copies:
            torch._foreach_copy_(self._copies, self._originals)
