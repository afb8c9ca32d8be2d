"""The learning rate at each step: warm-up, then constant, a cosine or an exponential.

    constant          lr
    cosine            from lr at the end of the warm-up to min_lr at the last step, changing at every step
    cosine_per_epoch  min_lr + (lr - min_lr) (1 + cos(pi e / L)) / 2 in epoch e < L, then min_lr; L is cosine_epochs, or
                      all epochs where that is 0; e counts from 0, the warm-up's epochs among them (timm's
                      CosineLRScheduler with one cycle, as SSFER's released code steps it)
    exponential       lr times 0.9 to the number of epochs since the warm-up (torch's ExponentialLR, as SCN's, RUL's and
                      EAC's released codes set it)

The warm-up rises from warmup_lr to lr over warmup_epochs in equal steps (cosine_per_epoch: one step per epoch).
"""

from __future__ import annotations

import math
from typing import Protocol


class Scheduled(Protocol):
    """What a schedule is made of; a Recipe has all of it."""

    @property
    def schedule(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def epochs(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def cosine_epochs(self) -> int: ...
    @property
    def warmup_epochs(self) -> int: ...
    @property
    def warmup_lr(self) -> float: ...
    @property
    def min_lr(self) -> float: ...


def factor(of: Scheduled, step: int) -> float:
    """The learning rate of `step` (from 0) as a multiple of `of.lr`."""
    per_epoch = of.schedule == "cosine_per_epoch"
    now, warm, total = (step // of.steps_per_epoch, of.warmup_epochs, of.epochs) if per_epoch else (
        step, of.warmup_epochs * of.steps_per_epoch, of.epochs * of.steps_per_epoch
    )  # fmt: skip
    if now < warm:
        start = of.warmup_lr / of.lr
        return start + (1 - start) * now / warm
    if of.schedule == "constant":
        return 1.0
    if of.schedule == "exponential":
        decayed: float = 0.9 ** ((now - warm) // of.steps_per_epoch)
        return decayed
    if per_epoch:
        length = of.cosine_epochs or of.epochs
        fraction = min(now / length, 1.0)
    else:
        fraction = (now - warm) / (total - warm)
    low = of.min_lr / of.lr
    return low + (1 - low) * (0.5 * (1 + math.cos(math.pi * fraction)))
