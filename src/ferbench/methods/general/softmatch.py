"""SoftMatch: every unlabelled image is taught, weighted by a truncated Gaussian of its confidence.

Paper: Chen et al., "SoftMatch: Addressing the Quantity-Quality Tradeoff in Semi-supervised Learning", ICLR 2023, Eqs.
5-9. Its code is USB.

The mean mu and the variance of the confidence are running statistics, updated by each batch before they are used. An
image at or above mu has weight 1, one below it exp(-(c - mu)^2 / (2 variance / n^2)). The confidence c is that of
probabilities aligned to the uniform distribution; the label is that of the probabilities as they are.

1. Width of the Gaussian (`n_sigma`): the variance itself in the paper, a quarter of it in the code (n = 2; `released`
   and `usb`).
2. mu starts at 1 / K and the variance at 1, as in the code: in the first few hundred steps all weights are near 1.
3. The log counts as kept what has the full weight.
4. `usb`: one pass over all views.

State: K + 2 numbers. The variance is the unbiased one and needs two unlabelled images per batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import Model, Passes, PseudoLabels
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.reduce import batch_mean, whole_batch
from ferbench.methods.blocks.statistics import Running
from ferbench.methods.blocks.targets import align, probabilities, uniform
from ferbench.methods.consistency import Consistency, ConsistencyOptions


@dataclass(frozen=True)
class SoftMatchOptions(ConsistencyOptions):
    """momentum: of the running statistics; n_sigma: n above."""

    momentum: float = 0.999
    n_sigma: float = 1.0

    def __post_init__(self) -> None:
        above_zero(self, "n_sigma")
        not_negative(self, "unlabelled_weight")
        share(self, "momentum")


class SoftMatch(Consistency):
    Options = SoftMatchOptions
    released: ClassVar[Mapping[str, object]] = {"n_sigma": 2.0}
    usb: ClassVar[Mapping[str, object]] = {"n_sigma": 2.0, "joint": "all"}
    paper = "Chen et al., ICLR 2023"
    options: SoftMatchOptions
    even: Tensor

    def __init__(self, model: Model, options: SoftMatchOptions) -> None:
        super().__init__(model, options)
        even, momentum = uniform(model.num_classes), options.momentum
        self.register_buffer("even", even)
        self.marginal = Running(even, momentum, first=True)
        self.mean = Running(even[0], momentum)
        self.variance = Running(torch.ones(()), momentum)

    def observe(self, passes: Passes) -> None:
        p = probabilities(passes.weak[0])
        self.marginal.update(batch_mean(p))
        confidence = whole_batch(align(p, self.marginal.value, self.even).amax(dim=1))
        self.mean.update(confidence.mean())
        self.variance.update(confidence.var())

    def thresholds(self) -> Tensor:
        return self.mean.value

    def pseudo_labels(self, passes: Passes) -> PseudoLabels:
        p = probabilities(passes.weak[0])
        confidence = align(p, self.marginal.value, self.even).amax(dim=1)
        return PseudoLabels(p.argmax(dim=1), confidence >= self.mean.value, confidence)

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        assert pseudo is not None
        weight = truncated_gaussian(pseudo.confidence, self.mean.value, self.variance.value, self.options.n_sigma)
        terms = super().losses(passes, labels, pseudo)
        return {**terms, "unsupervised": self.unsupervised(passes, pseudo.label, weight)}


def truncated_gaussian(confidence: Tensor, mean: Tensor, variance: Tensor, n_sigma: float) -> Tensor:
    """Weights [U] in [0, 1]: 1 from the mean on."""
    below = (confidence - mean).clamp(max=0.0)
    return torch.exp(-(below**2) / (2 * variance / n_sigma**2))
