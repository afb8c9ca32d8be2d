"""Plain-torch truth of the ambiguous consistency loss (LEAF, arXiv 2404.15041, Eqs. 6-14)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Boundary = Literal["inclusive", "exclusive"]
SampleWeight = Literal["none", "concave"]

# Mass that counts as reached although rounding left it this far below the threshold (relative): ten classes of exactly
# 0.1 reach 0.9 with nine in any order of summation and at any precision.
REACHED = 2.0**-20

CURVE = 50.0
"""Bend of the released code's weight of a sample."""


def positive_set(partition: Tensor, threshold: float, boundary: Boundary, max_positives: int | None) -> Tensor:
    """The classes by descending probability until they hold `threshold` (LEAF Eqs. 6-8), ties to the lower index.

    Args:
        partition: [B, K] logits
        threshold: mass in (0, 1]
        boundary: "inclusive" keeps the class that reaches the threshold (Eq. 8); "exclusive" only those before it, at
            least one (the released code)
        max_positives: upper limit on the count, or None

    Returns:
        [B, K] bool
    """
    logits = partition.detach().to(torch.promote_types(partition.dtype, torch.float32))
    order = logits.sort(dim=1, descending=True, stable=True).indices
    mass = logits.softmax(dim=1).gather(1, order)
    # compared by the mass that is left, not by the mass so far: near a threshold of 1 only the small sums are exact
    left = mass.flip(1).cumsum(dim=1).flip(1)
    enters = left > 1.0 - threshold * (1.0 - REACHED)
    rank = torch.arange(logits.shape[1], device=logits.device)
    if boundary == "exclusive":
        enters = F.pad(enters[:, 1:], (0, 1))
    ranked = (rank == 0) | enters
    if max_positives is not None:
        ranked = ranked & (rank < max_positives)
    return torch.zeros_like(ranked).scatter(1, order, ranked)


def ambiguous_loss(
    scores: Tensor,
    partition: Tensor,
    *,
    threshold: float = 0.9,
    boundary: Boundary = "inclusive",
    max_positives: int | None = None,
    sample_weight: SampleWeight = "none",
) -> Tensor:
    """log(1 + sum over P of exp(-y) * sum over N of exp(y)) for each sample (LEAF Eq. 14), in nats.

    P is the positive set of `partition`, N the other classes; where N is empty the loss is 0. No gradient flows to
    `partition`; a row of it that has no softmax (NaN, +inf, all -inf) gives NaN.

    Args:
        scores: [B, K] the values y
        partition: [B, K] logits whose softmax defines P
        threshold, boundary, max_positives: see `positive_set`
        sample_weight: "concave" multiplies a sample's loss by its `concave_weight`

    Returns:
        [B] in float32, or float64 for float64 scores
    """
    y = scores.to(torch.promote_types(scores.dtype, torch.float32))
    positive = positive_set(partition, threshold, boundary, max_positives)
    no_negative = (positive | y.detach().isneginf()).all(dim=1, keepdim=True)  # or none that counts
    lowest_positive = (-y).masked_fill(~positive, -torch.inf).logsumexp(dim=1)
    highest_negative = y.masked_fill(positive & ~no_negative, -torch.inf).logsumexp(dim=1)
    margin = lowest_positive + highest_negative
    loss = torch.logaddexp(margin, margin.new_zeros(()))
    defined = partition.detach().amax(dim=1).isfinite()
    loss = loss.masked_fill(no_negative.squeeze(1), 0.0) * torch.where(defined, 1.0, torch.nan)
    if sample_weight == "none":
        return loss
    return loss * concave_weight(partition.detach().to(loss.dtype).softmax(dim=1), positive)


def concave_weight(probabilities: Tensor, positive: Tensor) -> Tensor:
    """log(1 + 50 (c - q)) / log(1 + 50 c) [B] of probabilities [B, K] and their positive classes [B, K].

    q: probability of the first class outside the positive set (where none is, the last of it); c: mean of the
    positive ones' and q.
    """
    ranked = probabilities.sort(dim=1, descending=True).values
    last = positive.sum(dim=1, keepdim=True).clamp(max=probabilities.shape[1] - 1)
    q = ranked.gather(1, last).squeeze(1)
    c = ranked.cumsum(dim=1).gather(1, last).squeeze(1) / (last.squeeze(1) + 1)
    return (torch.log1p(CURVE * (c - q)) / torch.log1p(CURVE * c)).clamp(0.0, 1.0)
