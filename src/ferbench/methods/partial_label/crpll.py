"""CRPLL: classes outside the candidate set are improbable, and three views agree on one distribution over it.

Paper: Wu, Wang and Zhang, "Revisiting Consistency Regularization for Deep Partial Label Learning", ICML 2022. Code:
wu-dd/PLCR at e23f862. The loss is -sum outside S of log(1 - p_0) + lambda(e) sum over views v of KL(w || p_v); w starts
uniform on S and becomes the geometric mean of the three views' probabilities, restricted to S, after each step, from
the predictions before it.

1. lambda grows linearly by epoch from 0 to `consistency_weight`, in the code over 100 of 200 epochs; here over the
   share `ramp` of all epochs, so a short run gets there too. The first epoch trains the complementary term alone.
2. Views: the code's crop and flip, and twice the same with Cutout and AutoAugment; here weak, strong, strong2.
3. log(1 - p + 1e-7), as in the code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ferbench.methods.base import Facts, Labelled, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.partial import PartialLabel, restrict, write_rows


@dataclass(frozen=True)
class CRPLLOptions:
    """consistency_weight: lambda at the end of its ramp; ramp: share of all epochs in which it grows, 0 for none."""

    consistency_weight: float = 1.0
    ramp: float = 0.5
    reduction: Reduction = "mean"


class CRPLL(PartialLabel):
    Options = CRPLLOptions
    paper = "Wu et al., ICML 2022"
    views = Views(labelled=("weak", "strong", "strong2"))
    options: CRPLLOptions

    def begin(self, facts: Facts) -> None:
        super().begin(facts)
        self.ramp_epochs = self.options.ramp * facts.epochs

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        predictions: list[Prediction] = [self.model(labelled.views[view]) for view in self.views.labelled]
        log_p = torch.stack([prediction.logits.float().log_softmax(dim=1) for prediction in predictions])  # [3, B, K]
        inside, weights = self.candidates[labelled.index], self.confidence[labelled.index]
        outside = -((1 - log_p[0].exp() + 1e-7).log() * ~inside).sum(dim=1)
        consistency = (torch.xlogy(weights, weights) - weights * log_p).sum(dim=(0, 2))
        average = log_p.detach().mean(dim=0).exp()
        write_rows(self.confidence, labelled.index, restrict(average, inside))
        return StepResult(
            {
                "complementary": reduce(outside, self.options.reduction),
                "consistency": self.weight(progress.epoch) * reduce(consistency, self.options.reduction),
            }
        )

    def weight(self, epoch: int) -> float:
        """lambda(e)."""
        reached = min(epoch / self.ramp_epochs, 1.0) if self.ramp_epochs > 0 else 1.0
        return self.options.consistency_weight * reached
