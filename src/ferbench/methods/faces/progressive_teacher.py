"""Progressive Teacher: a mean teacher that also picks the labelled images worth learning from. A reconstruction.

Paper: Jiang & Deng, "Boosting Facial Expression Recognition by A Semi-Supervised Progressive Teacher", IEEE Trans.
Affective Computing 2023. No training code was released and only the abstract was at hand: a mean teacher, consistency
on unlabelled images, a progressive choice of labelled ones against noisy labels. The formulas are ours; numbers made
with them are to be marked as those of a reconstruction.

The labelled cross-entropy is the mean over the R(e) B images of the batch with the smallest teacher loss, R(e) = 1 -
forget * min(e / forget_epochs, 1), e the epoch from 0. Unlabelled: Mean Teacher's squared error between student and
teacher on two weak views. With several processes each picks from its own part of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ferbench.methods.base import Labelled, Model, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.schedules import linear
from ferbench.methods.blocks.targets import gated, probabilities
from ferbench.methods.blocks.teacher import EmaTeacher
from ferbench.methods.consistency import cross_entropy, squared_error
from ferbench.methods.single import Single


@dataclass(frozen=True)
class ProgressiveTeacherOptions:
    """forget, forget_epochs: of R(e); unlabelled_weight, ramp (fraction of training), decay: as in Mean Teacher."""

    forget: float = 0.1
    forget_epochs: int = 10
    unlabelled_weight: float = 50.0
    ramp: float = 0.4
    decay: float = 0.999

    def __post_init__(self) -> None:
        above_zero(self, "forget_epochs")
        not_negative(self, "unlabelled_weight")
        share(self, "forget", "ramp", "decay")


class ProgressiveTeacher(Single):
    Options = ProgressiveTeacherOptions
    paper = "Jiang & Deng, TAC 2023 (reconstruction)"
    views = Views(labelled=("weak",), unlabelled=("weak", "weak2"))
    options: ProgressiveTeacherOptions

    def __init__(self, model: Model, options: ProgressiveTeacherOptions) -> None:
        super().__init__(model, options)
        self.teacher = EmaTeacher(self.model, options.decay, training=True)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "progressive_teacher needs unlabelled images"
        images, options = labelled.views["weak"], self.options
        judged = cross_entropy(self.teacher(images).logits, labelled.labels)
        target = probabilities(self.teacher(unlabelled.views["weak"]))
        known: Prediction = self.model(images)
        with kept_statistics(self.model):
            second: Prediction = self.model(unlabelled.views["weak2"])
        rate = 1 - options.forget * min(progress.epoch / options.forget_epochs, 1.0)
        loss = cross_entropy(known.logits, labelled.labels)
        weight = options.unlabelled_weight * linear(progress.fraction, options.ramp)
        losses = {
            "supervised": mean_of_smallest(loss, judged, rate),
            "unsupervised": weight * squared_error(second.logits, target).mean(),
        }
        return StepResult(losses, gated(target, 0.0))

    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:
        self.teacher.update(self.model)


def mean_of_smallest(loss: Tensor, judged: Tensor, rate: float) -> Tensor:
    """Mean of `loss` [B] over the round(rate * B) rows, at least one, that `judged` [B] is smallest for."""
    count = max(1, round(rate * len(loss)))
    chosen = torch.zeros_like(loss).index_fill(0, judged.argsort(stable=True)[:count], 1.0)
    return (loss * chosen).sum() / count
