"""Exponential moving average in plain torch: one multi-tensor call, no loop over tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def ema_update(
    averages: Sequence[Tensor], values: Sequence[Tensor], decay: float | Tensor, *, shrink: float | Tensor = 1.0
) -> None:
    """See `ferbench.kernels.ema_update`."""
    if not averages:
        return
    if isinstance(decay, Tensor):
        torch._foreach_lerp_(list(averages), list(values), [1.0 - decay] * len(averages))
    else:
        torch._foreach_lerp_(list(averages), list(values), 1.0 - decay)
    if isinstance(shrink, Tensor) or shrink != 1.0:
        torch._foreach_mul_(list(values), shrink)
