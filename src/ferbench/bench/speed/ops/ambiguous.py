"""Speed case of the ambiguous consistency loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Work
from ferbench.kernels import ambiguous_loss, reference

THRESHOLD = 0.9
DECIDED = 1e-5
"""Least distance of a mass from the threshold: more than float32 errs in a sum over a thousand classes."""


class Ambiguous(Case):
    """The paper's loss per sample, forward and backward to the scores."""

    op = "ambiguous_loss"
    sizes = {
        "quick": {"B": 64, "K": 7},
        "paper": {"B": 64, "K": 7},
        "rows": {"B": 1_000_000, "K": 7},
        "wide": {"B": 65_536, "K": 1000},
    }

    def floor(self, size: dict[str, int]) -> Work:
        """Both inputs read, the gradient written, then read and written by its scaling."""
        return Work(20 * size["B"] * size["K"], launches=2)

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        shape = size["B"], size["K"]
        scores = torch.randn(shape, device=device, requires_grad=True)
        return [scores, decided(torch.randn(shape, device=device))]

    def ours(self, scores: Tensor, partition: Tensor) -> Sequence[Tensor]:
        return [ambiguous_loss(scores, partition, threshold=THRESHOLD)]

    def eager(self, scores: Tensor, partition: Tensor) -> Sequence[Tensor]:
        return [reference.ambiguous_loss(scores, partition, threshold=THRESHOLD)]

    def others(self) -> dict[str, Forward]:
        return {"released": released}


def decided(partition: Tensor) -> Tensor:
    """Rows in which rounding could move a class across the threshold become one that is clear."""
    mass = partition.double().softmax(1).sort(dim=1, descending=True).values.cumsum(1)
    close = ((mass - THRESHOLD).abs() < DECIDED).any(1, keepdim=True)
    return torch.where(close, torch.arange(partition.shape[1], device=partition.device), partition)


def released(scores: Tensor, partition: Tensor) -> Sequence[Tensor]:
    """The computation of LEAF's code, its confidence weight left out: the classes before the one that reaches the
    threshold, one to three of them, and masked sums of exponentials with -1e7 for what is not in the sum."""
    mass, order = partition.softmax(1).sort(dim=1, descending=True)
    before = (mass.cumsum(1) < THRESHOLD).sum(1, keepdim=True).clamp(1, 3)
    ranked = torch.arange(scores.shape[1], device=scores.device) < before
    positive = torch.zeros_like(ranked).scatter(1, order, ranked)
    low = torch.where(positive, -scores, -1e7).exp().sum(1)
    high = torch.where(positive, -1e7, scores).exp().sum(1)
    return [(1.0 + low * high).log()]
