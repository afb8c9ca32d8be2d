"""LW: the leveraged weighted loss, which also pushes the classes outside the candidate set down.

Paper: Wen et al., "Leveraged Weighted Loss for Partial Label Learning", ICML 2021. Per image with logits z, candidate
set S and weights w: sum over S of w psi(z) + beta * sum outside S of w psi(-z); psi is the sigmoid loss 1 / (1 + e^v)
("sigmoid", LWS), or minus the logarithm of the softmax p, and of 1 - p outside S ("cross_entropy", LWC). The weights
are p brought to sum 1 over S and over the rest separately; they start at 1 / K and are refreshed after each step by a
second forward.

1. beta must be chosen: its default in the code is 0, the runs pass 1 or 2; 1 here.
2. The second forward leaves the running batch statistics alone; in the code it moves them (`released`).
3. LWC takes log(1 - p) from p clipped at 1 - 1e-6, where float32 would give minus infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ferbench.methods.base import Facts, Labelled, Prediction, Progress, StepResult, Unlabelled
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.partial import PartialLabel, restrict, write_rows


@dataclass(frozen=True)
class LWOptions:
    """loss: of one class; beta: leverage, the weight of the classes outside the set."""

    loss: Literal["sigmoid", "cross_entropy"] = "sigmoid"
    beta: float = 1.0
    frozen_statistics: bool = True
    reduction: Reduction = "mean"


class LW(PartialLabel):
    Options = LWOptions
    released: ClassVar[Mapping[str, object]] = {"frozen_statistics": False}
    paper = "Wen et al., ICML 2021"
    options: LWOptions

    def begin(self, facts: Facts) -> None:
        super().begin(facts)
        self.confidence.fill_(1 / self.confidence.shape[1])

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        prediction: Prediction = self.model(labelled.views["weak"])
        inside, weights = self.candidates[labelled.index], self.confidence[labelled.index]
        if self.options.loss == "sigmoid":
            in_set, outside = (-prediction.logits.float()).sigmoid(), prediction.logits.float().sigmoid()
        else:
            log_p = prediction.logits.float().log_softmax(dim=1)
            in_set, outside = -log_p, -torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
        per_sample = (weights * torch.where(inside, in_set, self.options.beta * outside)).sum(dim=1)
        return StepResult({"lw": reduce(per_sample, self.options.reduction)})

    @torch.no_grad()
    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:
        with kept_statistics(self.model) if self.options.frozen_statistics else nullcontext():
            prediction: Prediction = self.model(labelled.views["weak"])
        inside = self.candidates[labelled.index]
        write_rows(self.confidence, labelled.index, two_sided(prediction.logits, inside))


def two_sided(logits: Tensor, inside: Tensor) -> Tensor:
    """Weights [B, K]: probabilities that sum to 1 over the candidates, and to 1 over the other classes."""
    p = logits.float().softmax(dim=1)
    return restrict(p, inside) + restrict(p, ~inside)
