"""PLL: cross-entropy against a candidate set in which every class keeps the same weight throughout training.

Paper: Wang et al., "Rethinking the Learning Paradigm for Facial Expression Recognition" (arXiv 2209.15402), Eq. 1 with
C_i = Y_i / |Y_i|: the rows "PLL" of its Table V, "vanilla PLL" in its text. With one candidate it is cross-entropy.

No code was released. Where the paper leaves the choice:
1. Eq. 1 mixes its indices; it is the cross-entropy of the softmax with the soft target C_i, averaged over the batch.
2. Where the candidates come from is not the method's business (bench/data/splits/candidates.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ferbench.methods.base import Labelled, Prediction, Progress, StepResult, Unlabelled
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.partial import PartialLabel


@dataclass(frozen=True)
class PLLOptions:
    """reduction: sum or mean of the per-sample losses over the batch."""

    reduction: Reduction = "mean"


class PLL(PartialLabel):
    Options = PLLOptions
    paper = "Wang et al., arXiv 2209.15402"
    options: PLLOptions

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        prediction: Prediction = self.model(labelled.views["weak"])
        per_sample = cross_entropy(prediction.logits, self.confidence[labelled.index])
        return StepResult({"pll": reduce(per_sample, self.options.reduction)})
