"""Speed cases of the pseudo-labels and of what is counted of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Work
from ferbench.kernels import pseudo_counts, pseudo_label, reference


class PseudoLabel(Case):
    """The paper's mixture with one threshold per class; no gradient."""

    op = "pseudo_label"
    sizes = {
        "quick": {"B": 64, "K": 7},
        "paper": {"B": 64, "K": 7},
        "rows": {"B": 1_000_000, "K": 7},
        "large": {"B": 65_536, "K": 1000},
    }

    def floor(self, size: dict[str, int]) -> Work:
        """Both inputs read; label, gate and confidence written."""
        return Work(size["B"] * (8 * size["K"] + 13))

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        shape = size["B"], size["K"]
        return [
            torch.randn(shape, device=device),
            torch.randn(shape, device=device),
            torch.rand(shape[1], device=device),
        ]

    def ours(self, logits: Tensor, features: Tensor, thresholds: Tensor) -> Sequence[Tensor]:
        return pseudo_label(logits, feature_scores=features, beta=0.5, thresholds=thresholds)

    def eager(self, logits: Tensor, features: Tensor, thresholds: Tensor) -> Sequence[Tensor]:
        return reference.pseudo_label(logits, feature_scores=features, beta=0.5, thresholds=thresholds)

    def others(self) -> dict[str, Forward]:
        return {"released": released}


class PseudoCounts(Case):
    """What a step logs of its pseudo-labels; no gradient."""

    op = "pseudo_counts"
    sizes = {"quick": {"B": 64}, "paper": {"B": 64}, "rows": {"B": 448}}

    def floor(self, size: dict[str, int]) -> Work:
        """Label, gate and truth read."""
        return Work(17 * size["B"] + 20)

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        label, truth = (torch.randint(-1, 7, (size["B"],), device=device) for _ in range(2))
        return [label, torch.rand(size["B"], device=device) > 0.5, truth]

    def ours(self, label: Tensor, keep: Tensor, truth: Tensor) -> Sequence[Tensor]:
        return [pseudo_counts(label, keep, truth)]

    def eager(self, label: Tensor, keep: Tensor, truth: Tensor) -> Sequence[Tensor]:
        return [reference.pseudo_counts(label, keep, truth)]


def released(logits: Tensor, features: Tensor, thresholds: Tensor) -> Sequence[Tensor]:
    """The computation of ReMoP's code: label and gate from the softmax of the mixed logits."""
    confidence, label = torch.softmax(0.5 * logits + 0.5 * features, dim=-1).max(dim=-1)
    return label, confidence.ge(thresholds[label]), confidence
