"""Weights over a training run, as functions of the fraction of steps done (a 0-d tensor): no step counts anywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear(fraction: Tensor, end: float, start: float = 0.0) -> Tensor:
    """0 until `start`, 1 from `end`, straight between; 1 throughout where end is 0."""
    if end <= start:
        return (fraction >= start).to(fraction.dtype)
    return ((fraction - start) / (end - start)).clamp(0.0, 1.0)


def half_cosine(fraction: Tensor, end: float) -> Tensor:
    """(1 - cos(pi * fraction / end)) / 2, 1 from `end`; 1 throughout where end is 0."""
    if end <= 0:
        return torch.ones_like(fraction)
    return 0.5 - 0.5 * torch.cos(math.pi * (fraction / end).clamp(max=1.0))


def exponential(fraction: Tensor, scale: float = 5.0) -> Tensor:
    """exp(scale * (fraction - 1)): slow at first."""
    return torch.exp(scale * (fraction - 1))


def logarithmic(fraction: Tensor, scale: float = 5.0) -> Tensor:
    """1 - exp(-scale * fraction): fast at first."""
    return 1 - torch.exp(-scale * fraction)
