"""From class probabilities to what the unlabelled images are taught: pure functions on [B, K], float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.methods.base import Prediction, PseudoLabels


def probabilities(prediction: Prediction) -> Tensor:
    """softmax(logits) [B, K] in float32, without gradient."""
    return prediction.logits.detach().float().softmax(dim=1)


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T), normalised over the classes."""
    return normalise(p ** (1 / temperature))


def align(p: Tensor, marginal: Tensor, wanted: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Distribution alignment: p * wanted / marginal [K], normalised; epsilon as in the released codes."""
    return normalise(p * (wanted + epsilon) / (marginal + epsilon))


def normalise(p: Tensor) -> Tensor:
    """Rows that sum to 1."""
    return p / p.sum(dim=-1, keepdim=True)


def hardened(p: Tensor) -> Tensor:
    """The one-hot rows of the largest entries, ties to the first."""
    return F.one_hot(p.argmax(dim=1), p.shape[1]).to(p.dtype)


def gated(p: Tensor, threshold: Tensor | float) -> PseudoLabels:
    """Label and confidence of each row, kept where the confidence reaches the threshold (one, or one per class)."""
    confidence, label = p.detach().max(dim=1)
    limit = threshold[label] if isinstance(threshold, Tensor) and threshold.ndim else threshold
    return PseudoLabels(label, confidence >= limit, confidence)


def uniform(classes: int) -> Tensor:
    """The distribution without preference [classes]."""
    return torch.full((classes,), 1 / classes)
