"""Pseudo-Label: the network's own prediction on an unlabelled image is its label, with a weight that grows.

Paper: Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", ICML
workshop 2013, Eqs. 14-16; no code was released.

The argmax of the weak view is taught to that same view. alpha(t) is 0 until T_1, rises to alpha_f = 3 at T_2.

1. T_1 = 100 and T_2 = 600 epochs in the paper, which does not say how many there are: `ramp_start` and `ramp` take
   them as the fractions 0.1 and 0.6 of training. There is no threshold (`threshold=0`).
2. `usb`: threshold 0.95, weight 1, a ramp from 0 to 0.4 of training.
3. The unlabelled pass leaves the running batch statistics alone, as in USB and TorchSSL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ferbench.methods.base import Labelled, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.blocks.schedules import linear
from ferbench.methods.blocks.targets import gated, probabilities
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.single import Single


@dataclass(frozen=True)
class PseudoLabelOptions:
    """unlabelled_weight: alpha_f; ramp_start, ramp: T_1 and T_2 as fractions of training."""

    threshold: float = 0.0
    unlabelled_weight: float = 3.0
    ramp_start: float = 0.1
    ramp: float = 0.6
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        not_negative(self, "unlabelled_weight")
        share(self, "threshold", "ramp_start", "ramp")


class PseudoLabel(Single):
    Options = PseudoLabelOptions
    usb: ClassVar[Mapping[str, object]] = {
        "threshold": 0.95, "unlabelled_weight": 1.0, "ramp_start": 0.0, "ramp": 0.4,
    }  # fmt: skip
    paper = "Lee, ICML workshop 2013"
    views = Views(labelled=("weak",), unlabelled=("weak",))
    options: PseudoLabelOptions

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "pseudo_label needs unlabelled images"
        options = self.options
        known: Prediction = self.model(labelled.views["weak"])
        with kept_statistics(self.model):
            unknown: Prediction = self.model(unlabelled.views["weak"])
        pseudo = gated(probabilities(unknown), options.threshold)
        taught = cross_entropy(unknown.logits, pseudo.label) * pseudo.keep
        weight = options.unlabelled_weight * linear(progress.fraction, options.ramp, options.ramp_start)
        losses = {
            "supervised": reduce(cross_entropy(known.logits, labelled.labels), options.reduction),
            "unsupervised": weight * reduce(taught, options.reduction),
        }
        return StepResult(losses, pseudo)
