"""ABC: an auxiliary classifier, trained as if all classes were equally frequent, beside the learner's own.

Paper: Lee, Shin, Kim, "ABC: Auxiliary Balanced Classifier for Class-imbalanced Semi-supervised Learning", NeurIPS 2021,
Eqs. 1-5. Code: LeeHyuck/ABC.

A second linear head on the shared feature. A labelled image of class c takes part with probability r_c = N_min / N_c;
an unlabelled one where the head's own confidence reaches tau, with probability 1 - t (1 - r_c) for the head's
prediction c, t the fraction of training: first all, in the end as for labelled images. Its gradient reaches the
encoder. The test is by this head.

1. The strong views are taught the head's probabilities (`target="soft"`), both of two views (`strong_views`), which the
   learner's own loss takes the mean of; `usb`: its argmax, one view.
2. The schedule counts whole epochs in the code, steps here.
With few labelled images of the rarest class most of a batch does not take part: means are over the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ferbench.methods.base import (
    Facts,
    Labelled,
    Learner,
    Model,
    Passes,
    PlugIn,
    Prediction,
    Progress,
    StepResult,
    Unlabelled,
)
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.blocks.statistics import class_counts
from ferbench.methods.blocks.targets import gated
from ferbench.methods.consistency import cross_entropy


@dataclass(frozen=True)
class ABCOptions:
    """auxiliary_threshold: tau of the head; auxiliary_weight: of its two terms."""

    auxiliary_threshold: float = 0.95
    auxiliary_weight: float = 1.0
    target: Literal["soft", "hard"] = "soft"
    strong_views: Literal[1, 2] = 2
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        not_negative(self, "auxiliary_weight")
        share(self, "auxiliary_threshold")


class ABC(PlugIn):
    Options = ABCOptions
    usb: ClassVar[Mapping[str, object]] = {"target": "hard", "strong_views": 1}
    paper = "Lee et al., NeurIPS 2021"
    options: ABCOptions
    rate: Tensor  # [K]: r_c

    def __init__(self, learner: Learner, model: Model, options: ABCOptions) -> None:
        super().__init__(learner, model, options)
        if options.strong_views == 2 and "strong" in learner.views.unlabelled:
            learner.views = replace(learner.views, unlabelled=(*learner.views.unlabelled, "strong2"))
            self.views = learner.views
        self.auxiliary = nn.Linear(model.feature_width, model.num_classes)
        self.register_buffer("rate", torch.ones(model.num_classes))

    def begin(self, facts: Facts) -> None:
        super().begin(facts)
        counts = class_counts(facts.labelled_labels, len(self.rate))
        rarest = torch.where(counts > 0, counts, torch.inf).amin()
        self.rate.copy_(torch.where(counts > 0, rarest / counts, 1.0))

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        passes = self.learner.passes(labelled, unlabelled)
        pseudo = self.learner.pseudo_labels(passes)
        losses = self.learner.losses(passes, labelled.labels, pseudo)
        losses["auxiliary"] = self.options.auxiliary_weight * self.supervised(passes.labelled, labelled.labels)
        if passes.weak:
            losses["auxiliary unsupervised"] = self.options.auxiliary_weight * self.unsupervised(passes, progress)
        return StepResult(losses, pseudo)

    def supervised(self, known: Prediction, labels: Tensor) -> Tensor:
        drawn = torch.rand(len(labels), device=labels.device) < self.rate[labels]
        return reduce(cross_entropy(self.auxiliary(known.features), labels) * drawn, self.options.reduction)

    def unsupervised(self, passes: Passes, progress: Progress) -> Tensor:
        """The sum over the strong views of the loss of the head's own confident, drawn predictions."""
        with torch.no_grad():
            p = self.auxiliary(passes.weak[0].features).float().softmax(dim=1)
            label, keep, *_ = gated(p, self.options.auxiliary_threshold)
            chance = 1 - progress.fraction * (1 - self.rate[label])
            keep = keep & (torch.rand(len(label), device=label.device) < chance)
        target = p if self.options.target == "soft" else label
        terms = [cross_entropy(self.auxiliary(view.features), target) * keep for view in passes.strong]
        return reduce(torch.stack(terms).sum(dim=0), self.options.reduction)

    def predict(self, images: Tensor) -> Tensor:
        return next(iter(self.predict_all(images).values()))

    def predict_all(self, images: Tensor) -> dict[str, Tensor]:
        prediction: Prediction = self.learner.model(images)
        return {
            "auxiliary": self.auxiliary(prediction.features).float().softmax(dim=1),
            "linear": prediction.logits.float().softmax(dim=1),
        }

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [*self.learner.parameter_groups(lr), {"params": list(self.auxiliary.parameters()), "lr": lr}]

    def not_averaged(self) -> frozenset[str]:
        return super().not_averaged() | {"rate"}
