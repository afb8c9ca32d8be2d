"""Pseudo-labels in plain torch (ReMoP, Eqs. 3 and 5-7)."""

from __future__ import annotations

import torch
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype


def pseudo_label(
    logits: Tensor,
    *,
    feature_scores: Tensor | None = None,
    beta: float = 1.0,
    thresholds: Tensor | float,
    mix: str = "paper",
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ferbench.kernels.pseudo_label`; shapes: logits and feature_scores [B, K], thresholds [K]."""
    dtype = accumulate_dtype(logits)
    scores = logits.detach().to(dtype)
    other = None if feature_scores is None else feature_scores.detach().to(dtype)
    if mix == "released" and other is not None:
        scores = beta * scores + (1.0 - beta) * other
    probabilities = scores.softmax(1)
    confidence = probabilities.amax(1)
    if mix == "paper" and other is not None:
        scores = beta * probabilities + (1.0 - beta) * other
    label = scores.argmax(1)
    if isinstance(thresholds, Tensor):
        thresholds = thresholds.detach().to(dtype).expand(logits.shape[1])[label]
    return label, confidence >= thresholds, confidence


def pseudo_counts(label: Tensor, keep: Tensor, truth: Tensor, changed: Tensor | None = None) -> Tensor:
    """See `ferbench.kernels.pseudo_counts`; shapes: all [B]."""
    known, right = truth >= 0, label == truth
    counted = [keep, known, keep & known, right & known, right & known & keep]
    if changed is not None:
        counted.append(changed & keep)
    return torch.stack(counted).sum(dim=1).float()
