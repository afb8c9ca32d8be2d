"""FreeMatch: thresholds per class that follow the model's own confidence, and a penalty for unequal predictions.

Paper: Wang et al., "FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning", ICLR 2023, Eqs. 5-12. Its code
is USB.

Running means, updated by each batch before they are used: tau of the largest probability (Eq. 5), p [K] of the
probabilities (Eq. 6), h [K] of the predicted classes. Thresholds tau_c = tau * p_c / max p (Eq. 7-8). The fairness
term is sum_c a_c log b_c with a = SumNorm(p / h) and b = SumNorm(p' / h') of the kept strong views (Eqs. 9-11): a
negative cross-entropy that is minimised, so the sign is plus. The gradient goes through p' alone.

1. Weight of the fairness term: 0.01 or 0.05 by data set in the paper, 0.01 here (the code's default); every
   configuration of USB sets 0.001 (`usb`).
2. A class that no kept strong view is predicted as has b_c = 0 and adds a_c log 1e-12 without gradient, as in the code:
   with 16 images and 7 classes the logged value jumps. The term is 0 where no image is kept.
3. With several processes each takes the fairness term over its own rows; the running means are of the whole batch.
4. `usb`: one pass over all views.

State: 2 K + 1 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.methods.base import Model, Passes, PseudoLabels
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.reduce import batch_mean
from ferbench.methods.blocks.statistics import Running
from ferbench.methods.blocks.targets import hardened, probabilities, uniform
from ferbench.methods.consistency import Consistency, ConsistencyOptions


@dataclass(frozen=True)
class FreeMatchOptions(ConsistencyOptions):
    """momentum: of the running means; fairness_weight: lambda of Eq. 12."""

    momentum: float = 0.999
    fairness_weight: float = 0.01

    def __post_init__(self) -> None:
        not_negative(self, "unlabelled_weight")
        share(self, "momentum")


class FreeMatch(Consistency):
    Options = FreeMatchOptions
    usb: ClassVar[Mapping[str, object]] = {"fairness_weight": 0.001, "joint": "all"}
    paper = "Wang et al., ICLR 2023"
    options: FreeMatchOptions

    def __init__(self, model: Model, options: FreeMatchOptions) -> None:
        super().__init__(model, options)
        even, momentum = uniform(model.num_classes), options.momentum
        self.confidence = Running(even[0], momentum)
        self.probability = Running(even, momentum)
        self.histogram = Running(even, momentum)

    def observe(self, passes: Passes) -> None:
        p = probabilities(passes.weak[0])
        self.confidence.update(batch_mean(p.amax(dim=1)))
        self.probability.update(batch_mean(p))
        self.histogram.update(batch_mean(hardened(p)))

    def thresholds(self) -> Tensor:
        return self.confidence.value * self.probability.value / self.probability.value.amax()

    def further_losses(self, passes: Passes, pseudo: PseudoLabels) -> dict[str, Tensor]:
        term = fairness(passes.strong[0].logits, pseudo.keep, self.probability.value, self.histogram.value)
        return {"fairness": self.options.fairness_weight * term}


def fairness(logits: Tensor, keep: Tensor, probability: Tensor, histogram: Tensor) -> Tensor:
    """Eq. 11 from strong logits [U, K], the kept rows [U], and the running means [K]; 0 where no row is kept."""
    p, kept = logits.float().softmax(dim=1), keep.float()
    count = kept.sum().clamp(min=1)
    mean = (p * kept.unsqueeze(1)).sum(dim=0) / count
    seen = (F.one_hot(p.argmax(dim=1), p.shape[1]) * kept.unsqueeze(1)).sum(dim=0) / count
    a, b = _ratio(probability, histogram), _ratio(mean, seen)
    return (a * torch.log(b + 1e-12)).sum() * keep.any()


def _ratio(probability: Tensor, histogram: Tensor) -> Tensor:
    """SumNorm(probability / histogram) [K], 0 where the histogram is."""
    empty = histogram == 0
    ratio = torch.where(empty, 0.0, probability / torch.where(empty, 1.0, histogram))
    return ratio / ratio.sum().clamp(min=1e-12)
