"""RC: the candidates of an image weigh as much as the model finds them probable.

Paper: Feng et al., "Provably Consistent Partial-Label Learning", NeurIPS 2020 (risk-consistent loss): cross-entropy
with weights w = p restricted to the candidate set: uniform at first, refreshed after each step by a second forward.
Code read: the LW repository's (hongwei-wen/LW-loss-for-partial-label); the authors' own was not.

1. The paper derives a factor 1/2 for its risk; the code has none, and none is here.
2. The second forward is in training mode. In the code it moves the running batch statistics a second time; here it
   leaves them alone (`released`: frozen_statistics = false).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch

from ferbench.methods.base import Labelled, Prediction, Progress, StepResult, Unlabelled
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.partial import PartialLabel, restrict, write_rows


@dataclass(frozen=True)
class RCOptions:
    """frozen_statistics: whether the second forward leaves the running batch statistics as they are."""

    frozen_statistics: bool = True
    reduction: Reduction = "mean"


class RC(PartialLabel):
    Options = RCOptions
    released: ClassVar[Mapping[str, object]] = {"frozen_statistics": False}
    paper = "Feng et al., NeurIPS 2020"
    options: RCOptions

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        prediction: Prediction = self.model(labelled.views["weak"])
        per_sample = cross_entropy(prediction.logits, self.confidence[labelled.index])
        return StepResult({"rc": reduce(per_sample, self.options.reduction)})

    @torch.no_grad()
    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:
        with kept_statistics(self.model) if self.options.frozen_statistics else nullcontext():
            prediction: Prediction = self.model(labelled.views["weak"])
        weights = restrict(prediction.logits.float().softmax(dim=1), self.candidates[labelled.index])
        write_rows(self.confidence, labelled.index, weights)
