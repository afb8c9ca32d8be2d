"""Pi-model: two weak views of an unlabelled image should get the same probabilities.

Paper: Laine & Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, Algorithm 1. Code
read: USB and google-research/fixmatch; the authors' (smlaine2/tempens) was not.

Mean squared error over images and classes between the probabilities of two weak views, the first without gradient,
weighted by lambda times a ramp.

1. The paper's weight is 100 N_labelled / N with a Gaussian ramp over 80 epochs, and its gradient goes through both
   views (twice the gradient, in expectation). Here as in the later reimplementations (Google's, TorchSSL, USB): lambda
   10, a linear ramp over 0.4 of training, one view detached. These are the settings of the FER papers' tables.
2. The unlabelled passes leave the running batch statistics alone, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ferbench.methods.base import Labelled, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.blocks.schedules import linear
from ferbench.methods.blocks.targets import gated, probabilities
from ferbench.methods.consistency import cross_entropy, squared_error
from ferbench.methods.single import Single


@dataclass(frozen=True)
class PiModelOptions:
    """unlabelled_weight: lambda; ramp: the fraction of training after which it is whole."""

    unlabelled_weight: float = 10.0
    ramp: float = 0.4
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        not_negative(self, "unlabelled_weight")
        share(self, "ramp")


class PiModel(Single):
    Options = PiModelOptions
    paper = "Laine & Aila, ICLR 2017"
    views = Views(labelled=("weak",), unlabelled=("weak", "weak2"))
    options: PiModelOptions

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "pi_model needs unlabelled images"
        known: Prediction = self.model(labelled.views["weak"])
        with kept_statistics(self.model):
            with torch.no_grad():
                target = probabilities(self.model(unlabelled.views["weak"]))
            second: Prediction = self.model(unlabelled.views["weak2"])
        weight = self.options.unlabelled_weight * linear(progress.fraction, self.options.ramp)
        losses = {
            "supervised": reduce(cross_entropy(known.logits, labelled.labels), self.options.reduction),
            "unsupervised": weight * reduce(squared_error(second.logits, target), self.options.reduction),
        }
        return StepResult(losses, gated(target, 0.0))
