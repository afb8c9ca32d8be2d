"""Mean Teacher: the student should agree with the average of its past selves on another weak view.

Paper: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, Sec. 2. Code
read: USB and TorchSSL; the authors' (CuriousAI/mean-teacher) was not.

Mean squared error over images and classes between the student's probabilities on one weak view and the teacher's on
another; the teacher's weights are an exponential average of the student's, with dropout and batch statistics as in
training.

1. The paper's weight is 100 with a sigmoid ramp, its teacher's decay 0.99 during the ramp and 0.999 after, its
   consistency on labelled images as well. Here as in Google's reimplementation and TorchSSL, the settings of the FER
   papers' tables: weight 50, a linear ramp over 0.4 of training, decay 0.999, unlabelled images alone.
2. The unlabelled passes leave the running batch statistics alone, as there.
3. `usb`: the weight is 0. USB compares the teacher with itself, so that its loss is always 0 and what it trains is the
   supervised baseline.
The teacher is a copy of the model: test it as the recipe's averaged model, which is the same average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ferbench.methods.base import Labelled, Model, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.blocks.schedules import linear
from ferbench.methods.blocks.targets import gated, probabilities
from ferbench.methods.blocks.teacher import EmaTeacher
from ferbench.methods.consistency import cross_entropy, squared_error
from ferbench.methods.single import Single


@dataclass(frozen=True)
class MeanTeacherOptions:
    """unlabelled_weight: of the consistency, whole after the fraction `ramp` of training; decay: per step."""

    unlabelled_weight: float = 50.0
    ramp: float = 0.4
    decay: float = 0.999
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        not_negative(self, "unlabelled_weight")
        share(self, "ramp", "decay")


class MeanTeacher(Single):
    Options = MeanTeacherOptions
    usb: ClassVar[Mapping[str, object]] = {"unlabelled_weight": 0.0}
    paper = "Tarvainen & Valpola, NeurIPS 2017"
    views = Views(labelled=("weak",), unlabelled=("weak", "weak2"))
    options: MeanTeacherOptions

    def __init__(self, model: Model, options: MeanTeacherOptions) -> None:
        super().__init__(model, options)
        self.teacher = EmaTeacher(self.model, options.decay, training=True)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "mean_teacher needs unlabelled images"
        known: Prediction = self.model(labelled.views["weak"])
        target = probabilities(self.teacher(unlabelled.views["weak"]))
        with kept_statistics(self.model):
            second: Prediction = self.model(unlabelled.views["weak2"])
        weight = self.options.unlabelled_weight * linear(progress.fraction, self.options.ramp)
        losses = {
            "supervised": reduce(cross_entropy(known.logits, labelled.labels), self.options.reduction),
            "unsupervised": weight * reduce(squared_error(second.logits, target), self.options.reduction),
        }
        return StepResult(losses, gated(target, 0.0))

    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:
        self.teacher.update(self.model)
