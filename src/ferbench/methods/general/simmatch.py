"""SimMatch: strong views should stand to the labelled images as the teacher says, by class and one by one.

Paper: Zheng et al., "SimMatch: Semi-supervised Learning with Similarity Matching", CVPR 2022, Eqs. 3-12. Code:
mingkai-zheng/SimMatch.

A bank holds the teacher's embedding and the label of every labelled image. The teacher's class probabilities p on the
weak view are aligned to the uniform distribution; its similarities W = softmax(f b_j / t) to the bank are unfolded,
multiplied by p of the row's label and normalised (Eqs. 8-9); aggregated over classes they are mixed into p (Eqs.
10-11). The student's strong view is taught both: class target where its largest entry reaches tau, similarities
always.

1. Both the mixing and the similarity loss start with the second epoch, when every row has been written, as in the code.
2. Weight of the similarity loss: 1 in the CIFAR runs, 5 in the released ImageNet script.
3. `usb`: class probabilities and weak embeddings are the student's and only the bank is the teacher's
   (`teacher="bank"`), alignment over 32 batches, three averaged projection heads, one pass over all student views.
   (On CIFAR, STL-10 and SVHN USB averages the bank instead of a teacher and normalises it along the wrong axis; faces
   are not among the data sets it does this for.)
4. The teacher's passes are in training mode on its own batch statistics, which leave no trace. In USB the pass of the
   labelled images under the averaged weights moves the running statistics a second time in each step.
5. USB's temperature is 0.1 without pre-training and on CIFAR-100, 0.2 on the four other data sets of its family that
   starts from weights.

State: N_l * (width + 1) numbers, 4 bytes per image of the data set, window * K numbers, the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ferbench.methods.base import Facts, Labelled, Model, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.heads import Projection
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.memory import IndexedBank
from ferbench.methods.blocks.mixer import one_hot
from ferbench.methods.blocks.reduce import Reduction, batch_mean, reduce, whole_batch
from ferbench.methods.blocks.statistics import Window
from ferbench.methods.blocks.targets import align, gated, normalise, probabilities, uniform
from ferbench.methods.blocks.teacher import EmaTeacher
from ferbench.methods.consistency import cross_entropy, together
from ferbench.methods.single import Single


@dataclass(frozen=True)
class SimMatchOptions:
    """alpha: own share in the mixing; window: batches of the alignment; decay: the teacher's; width: embedding's."""

    temperature: float = 0.1
    alpha: float = 0.9
    threshold: float = 0.95
    unlabelled_weight: float = 1.0
    similarity_weight: float = 1.0
    window: int = 256
    decay: float = 0.999
    width: int = 128
    projections: int = 1
    teacher: Literal["all", "bank"] = "all"
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        above_zero(self, "temperature", "window", "width", "projections")
        not_negative(self, "unlabelled_weight", "similarity_weight")
        share(self, "alpha", "threshold", "decay")


class SimMatch(Single):
    Options = SimMatchOptions
    usb: ClassVar[Mapping[str, object]] = {"teacher": "bank", "window": 32, "projections": 3}
    paper = "Zheng et al., CVPR 2022"
    views = Views(labelled=("weak",), unlabelled=("weak", "strong"))
    options: SimMatchOptions
    even: Tensor

    def __init__(self, model: Model, options: SimMatchOptions) -> None:
        super().__init__(model, options)
        self.project = Projection(model.feature_width, options.width, several=options.projections)
        self.teacher = EmaTeacher(self.model, options.decay, training=True)
        self.teacher_project = EmaTeacher(self.project, options.decay)
        self.marginal = Window(options.window, model.num_classes)
        self.register_buffer("even", uniform(model.num_classes))

    def begin(self, facts: Facts) -> None:
        self.bank = IndexedBank(facts, self.options.width)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "simmatch needs unlabelled images"
        options, started = self.options, progress.epoch > 0
        known, strong, p, weak, fresh = self.predictions(labelled.views["weak"], unlabelled)
        self.marginal.update(batch_mean(p))
        aligned = align(p, self.marginal.value, self.even)
        near = (weak @ self.bank.features.T / options.temperature).softmax(dim=1)
        target = mixed(aligned, near, self.bank.labels, options.alpha) if started else aligned
        pseudo = gated(target, options.threshold)
        taught = cross_entropy(strong.logits, target) * pseudo.keep
        seen = self.project(strong.encoded) @ self.bank.features.T / options.temperature
        alike = cross_entropy(seen, unfolded(near, aligned, self.bank.labels))
        losses = {
            "supervised": reduce(cross_entropy(known.logits, labelled.labels), options.reduction),
            "unsupervised": options.unlabelled_weight * reduce(taught, options.reduction),
            "similarity": options.similarity_weight * float(started) * reduce(alike, options.reduction),
        }
        self.fresh = fresh
        return StepResult(losses, pseudo)

    def predictions(
        self, images: Tensor, unlabelled: Unlabelled
    ) -> tuple[Prediction, Prediction, Tensor, Tensor, Tensor]:
        """Labelled and strong view by the student; then p and embedding of the weak view, embedding for the bank."""
        weak, strong = unlabelled.views["weak"], unlabelled.views["strong"]
        if self.options.teacher == "bank":
            known, loose, taught = together(self.model, [images, weak, strong])
            with torch.no_grad():
                embedded, fresh = self.project(loose.encoded), self.teacher_project(self.teacher(images).encoded)
            return known, taught, probabilities(loose), embedded, fresh
        known, taught = together(self.model, [images, strong])
        old, target = together(self.teacher, [images, weak])
        return (
            known,
            taught,
            probabilities(target),
            self.teacher_project(target.encoded),
            self.teacher_project(old.encoded),
        )

    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:
        """The bank is written when no gradient needs it any more."""
        self.bank.write(whole_batch(self.fresh), whole_batch(labelled.index))
        self.teacher.update(self.model)
        self.teacher_project.update(self.project)


def unfolded(near: Tensor, p: Tensor, labels: Tensor) -> Tensor:
    """Eqs. 8-9: similarities [U, N_l] times the class probability [U, K] of the row's label, normalised."""
    return normalise(near * p[:, labels])


def mixed(p: Tensor, near: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Eqs. 10-11: alpha p + (1 - alpha) of the similarities [U, N_l] added up by label."""
    return alpha * p + (1 - alpha) * near @ one_hot(labels, p.shape[1])
