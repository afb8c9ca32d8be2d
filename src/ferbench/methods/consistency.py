"""What FixMatch and its relatives share: a target made on the weak view is taught to the strong one.

A relative says which statistics it keeps (`observe`), how confident a label must be (`thresholds`) and what it adds to
the loss. `observe` runs at the end of `passes`, so a plug-in that puts its own labels in place of the learner's still
meets thresholds that follow training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.kernels import consistency_head, pseudo_label
from ferbench.methods.base import (
    Labelled,
    Learner,
    Model,
    Passes,
    Prediction,
    Progress,
    PseudoLabels,
    StepResult,
    Unlabelled,
    Views,
)
from ferbench.methods.blocks.reduce import Reduction, processes, reduce
from ferbench.methods.single import untrained

Joint = bool | Literal["all"]


@dataclass(frozen=True)
class ConsistencyOptions:
    """unlabelled_weight: of the unsupervised term; reduction: of both terms over the batch.

    joint: False for a pass per view, each with its own batch statistics; True for one pass over labelled and strong
    images, the weak ones apart and without graph; "all" for one pass over everything, as the USB toolbox does.
    """

    unlabelled_weight: float = 1.0
    reduction: Reduction = "mean"
    joint: Joint = False


class Consistency(Learner):
    """Base of the relatives, not a method."""

    views = Views(labelled=("weak",), unlabelled=("weak", "strong"))
    options: Any
    progress: Progress  # of the step at hand; a plug-in does not set it, so only methods without plug-ins may read it

    def __init__(self, model: Model, options: Any) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.options = options

    def passes(self, labelled: Labelled, unlabelled: Unlabelled | None) -> Passes:
        assert unlabelled is not None, f"{type(self).__name__} needs unlabelled images"
        passes = forward(self.model, labelled, unlabelled, self.views, self.options.joint, self.weak_gradient)
        with torch.no_grad():
            self.observe(passes)
        return passes

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        self.progress = progress
        if not self.in_one_launch():
            return super().step(labelled, unlabelled, progress)
        passes, options = self.passes(labelled, unlabelled), self.options
        head = consistency_head(
            passes.labelled.logits,
            labelled.labels,
            passes.weak[0].logits,
            passes.strong[0].logits,
            thresholds=self.thresholds(),
            reduction=options.reduction,
        )
        pseudo = PseudoLabels(head.label, head.keep, head.confidence)
        share = processes() if options.reduction == "sum" else 1
        losses = {
            "supervised": head.supervised * share,
            "unsupervised": float(options.unlabelled_weight) * (head.unsupervised * share),
        }
        return StepResult({**losses, **self.further_losses(passes, pseudo)}, pseudo)

    def in_one_launch(self) -> bool:
        """Whether both losses and the labels are those of `consistency_head`: a relative may make its own."""
        kind = type(self)
        own = (kind.pseudo_labels, kind.losses, kind.unsupervised)
        shared = own == (Consistency.pseudo_labels, Consistency.losses, Consistency.unsupervised)
        return shared and self.views == Consistency.views

    def observe(self, passes: Passes) -> None:
        """Update what thresholds and targets are made of; without gradient."""

    def pseudo_labels(self, passes: Passes) -> PseudoLabels:
        return PseudoLabels(*pseudo_label(passes.weak[0].logits, thresholds=self.thresholds()))

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        assert pseudo is not None
        return {
            "supervised": reduce(cross_entropy(passes.labelled.logits, labels), self.options.reduction),
            "unsupervised": self.unsupervised(passes, pseudo.label, pseudo.keep),
            **self.further_losses(passes, pseudo),
        }

    def further_losses(self, passes: Passes, pseudo: PseudoLabels) -> dict[str, Tensor]:
        """What a relative adds to the two cross-entropies."""
        return {}

    def unsupervised(self, passes: Passes, target: Tensor, weight: Tensor) -> Tensor:
        """Weighted cross-entropy of the strong view (their mean if several): target [U] or [U, K], weight [U]."""
        per_view = [
            reduce(cross_entropy(view.logits, target) * weight, self.options.reduction) for view in passes.strong
        ]
        return float(self.options.unlabelled_weight) * (sum(per_view[1:], per_view[0]) / len(per_view))

    def not_averaged(self) -> frozenset[str]:
        return untrained(self)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """H(target, softmax(logits)) [B] in float32; target: classes [B] or probabilities [B, K]."""
    return F.cross_entropy(logits.float(), target, reduction="none")


def squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes of (softmax(logits) - target)^2, [B] in float32."""
    return (logits.float().softmax(dim=1) - target).square().mean(dim=1)


def forward(
    model: nn.Module,
    labelled: Labelled,
    unlabelled: Unlabelled,
    views: Views,
    joint: Joint,
    weak_gradient: bool = False,
) -> Passes:
    """All views through the network, the weak unlabelled ones by default without graph (`ConsistencyOptions.joint`).

    Of the labelled views the first becomes `Passes.labelled`, a second `Passes.labelled_strong`.
    """
    images = [labelled.views[name] for name in views.labelled]
    weak = [unlabelled.views[name] for name in views.unlabelled if name.startswith("weak")]
    strong = [unlabelled.views[name] for name in views.unlabelled if name.startswith("strong")]
    if joint == "all":
        parts = together(model, [*images, *weak, *strong])
        targets = tuple(parts[len(images) : len(images) + len(weak)])
        targets = targets if weak_gradient else tuple(map(_detached, targets))
        parts = parts[: len(images)] + parts[len(images) + len(weak) :]
    else:
        parts = together(model, [*images, *strong]) if joint else [model(view) for view in images]
        with torch.set_grad_enabled(weak_gradient and torch.is_grad_enabled()):
            targets = tuple(model(view) for view in weak)
        parts = parts if joint else parts + [model(view) for view in strong]
    known, taught = parts[: len(images)], tuple(parts[len(images) :])
    return Passes(known[0], targets, taught, unlabelled.index, known[1] if len(known) > 1 else None)


def together(model: nn.Module, views: list[Tensor]) -> list[Prediction]:
    """One pass over all views, cut apart again."""
    sizes = [len(view) for view in views]
    whole: Prediction = model(torch.cat(views))
    return [Prediction(*cut) for cut in zip(*(torch.split(part, sizes) for part in whole), strict=True)]


def _detached(prediction: Prediction) -> Prediction:
    return Prediction(*(part.detach() for part in prediction))
