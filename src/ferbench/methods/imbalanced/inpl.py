"""InPL: unlabelled images are kept by their free energy, not by their confidence.

Paper: Yu, Li, Lee, "InPL: Pseudo-labeling the Inliers First for Imbalanced Semi-supervised Learning", ICLR 2023, Eqs.
3-6. Code: WisconsinAIVision/INPL.

An image is kept where E = -logsumexp(weak logits) is at most a cut-off; the label is the argmax. Adaptive margin: the
strong logits get lambda log q before the cross-entropy, q the running mean of the weak probabilities (updated after
use), which asks more of classes predicted rarely.

1. Margin (`margin`): 0.5 in the paper; the published configurations have it off (`released`: 0).
2. Cut-off (`energy`): -9.5, that of CIFAR10-LT; energies depend on the scale of the logits and on K. With features of
   length 1 they cannot get there: `quantile` in (0, 1) takes in its place the running mean (over `momentum`) of that
   quantile of the labelled energies of a batch, which is ours. The paper gives nothing for faces.

State: K + 2 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import (
    Labelled,
    Learner,
    Model,
    Passes,
    PlugIn,
    Prediction,
    Progress,
    PseudoLabels,
    StepResult,
    Unlabelled,
)
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.reduce import batch_mean, whole_batch
from ferbench.methods.blocks.statistics import Running
from ferbench.methods.blocks.targets import probabilities, uniform


@dataclass(frozen=True)
class InPLOptions:
    """energy: the cut-off; margin: lambda; momentum: of q; quantile: 0 for the fixed cut-off."""

    energy: float = -9.5
    margin: float = 0.5
    momentum: float = 0.999
    quantile: float = 0.0

    def __post_init__(self) -> None:
        not_negative(self, "margin")
        share(self, "momentum", "quantile")


class InPL(PlugIn):
    Options = InPLOptions
    released: ClassVar[Mapping[str, object]] = {"margin": 0.0}
    paper = "Yu et al., ICLR 2023"
    options: InPLOptions

    def __init__(self, learner: Learner, model: Model, options: InPLOptions) -> None:
        super().__init__(learner, model, options)
        self.prior = Running(uniform(model.num_classes), options.momentum)
        self.cut = Running(torch.tensor(options.energy), options.momentum, first=True)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        passes = self.learner.passes(labelled, unlabelled)
        if not passes.weak:
            return StepResult(self.learner.losses(passes, labelled.labels, None))
        if self.options.quantile > 0:
            known = whole_batch(energy(passes.labelled))
            self.cut.update(known.quantile(self.options.quantile))
        pseudo = self.inliers(passes)
        shifted = tuple(self.with_margin(view) for view in passes.strong)
        losses = self.learner.losses(replace(passes, strong=shifted), labelled.labels, pseudo)
        self.prior.update(batch_mean(probabilities(passes.weak[0])))
        return StepResult(losses, pseudo)

    def inliers(self, passes: Passes) -> PseudoLabels:
        confidence, label = probabilities(passes.weak[0]).max(dim=1)
        return PseudoLabels(label, energy(passes.weak[0]) <= self.cut.value, confidence)

    def with_margin(self, strong: Prediction) -> Prediction:
        return strong._replace(logits=strong.logits.float() + self.options.margin * self.prior.value.log())

    def not_averaged(self) -> frozenset[str]:
        own = {f"{part}.{name}" for part in ("prior", "cut") for name in ("value", "fresh")}
        return super().not_averaged() | own


def energy(prediction: Prediction) -> Tensor:
    """-logsumexp of the logits [B], without gradient."""
    return -prediction.logits.detach().float().logsumexp(dim=1)
