"""Adsh: thresholds per class so that every class keeps the share of images that the most frequent one keeps.

Paper: Guo & Li, "Class-Imbalanced Semi-Supervised Learning with Adaptive Thresholding", ICML 2022, Eqs. 6-9. Code:
guolz-ml/Class-Imbalanced-SSL.

Weak probabilities are divided by scores s_c; the label is the argmax of the quotient, kept where that is at least 1.
After each epoch from the second on, the student (in evaluation mode, on weak views of all unlabelled images) sets
them: rho is the share of the images predicted as the head class with confidence >= tau, s_head = tau, and s_c =
min(tau, the confidence at position rho of the images predicted as c, sorted downwards). A class never predicted keeps
its score.

1. The head class is the most frequent labelled one; the code has class 0.
2. rho is 1, the loosest threshold, where no image of the head class reaches tau, as in the code.
3. Position: max(0, round(n rho - 1)), halves to even, as in the code.

State: K scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ferbench.methods.base import (
    Ask,
    Facts,
    Labelled,
    Learner,
    Model,
    Passes,
    PlugIn,
    Progress,
    PseudoLabels,
    StepResult,
    Unlabelled,
)
from ferbench.methods.blocks.limits import above_zero, share
from ferbench.methods.blocks.statistics import class_counts
from ferbench.methods.blocks.targets import probabilities


@dataclass(frozen=True)
class AdshOptions:
    """threshold: tau, the head class's score (the learner's of that name takes the same value)."""

    threshold: float = 0.95

    def __post_init__(self) -> None:
        above_zero(self, "threshold")
        share(self, "threshold")


class Adsh(PlugIn):
    Options = AdshOptions
    paper = "Guo & Li, ICML 2022"
    options: AdshOptions
    scores: Tensor  # [K]: s_c
    head: Tensor  # 0-d int64: the head class

    def __init__(self, learner: Learner, model: Model, options: AdshOptions) -> None:
        super().__init__(learner, model, options)
        self.register_buffer("scores", torch.full((model.num_classes,), options.threshold))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))

    def begin(self, facts: Facts) -> None:
        super().begin(facts)
        self.head.copy_(class_counts(facts.labelled_labels, len(self.scores)).argmax())

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        passes = self.learner.passes(labelled, unlabelled)
        pseudo = self.rectified(passes)
        return StepResult(self.learner.losses(passes, labelled.labels, pseudo), pseudo)

    def rectified(self, passes: Passes) -> PseudoLabels | None:
        """Label and gate by p_c / s_c."""
        if not passes.weak:
            return None
        p = probabilities(passes.weak[0])
        quotient, label = (p / self.scores).max(dim=1)
        confidence = p.gather(1, label.unsqueeze(1)).squeeze(1)
        return PseudoLabels(label, quotient >= 1, confidence, changed=label != p.argmax(dim=1))

    def end_epoch(self, progress: Progress, ask: Ask) -> None:
        super().end_epoch(progress, ask)
        if progress.epoch >= 1 and self.views.unlabelled:
            scores = ask("unlabelled", model="student", view="weak").scores
            self.scores.copy_(
                adaptive_scores(scores.float().cpu(), self.scores.cpu(), int(self.head), self.options.threshold)
            )

    def not_averaged(self) -> frozenset[str]:
        return super().not_averaged() | {"scores", "head"}


def adaptive_scores(p: Tensor, before: Tensor, head: int, threshold: float) -> Tensor:
    """New scores [K] from the probabilities [N, K] of all unlabelled images and the scores so far."""
    confidence, label = p.max(dim=1)
    of_class = [confidence[label == c].sort(descending=True).values for c in range(len(before))]
    reached, scores = int((of_class[head] >= threshold).sum()), before.clone()
    rho = reached / len(of_class[head]) if reached else 1.0
    for c, ordered in enumerate(of_class):
        if len(ordered):
            scores[c] = ordered[max(0, round(len(ordered) * rho - 1))].clamp(max=threshold)
    scores[head] = threshold
    return scores
