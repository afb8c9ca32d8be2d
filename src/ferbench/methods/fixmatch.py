"""FixMatch: the confident prediction on a weak view is the label of the strong view.

Paper: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020;
written as ReMoP's L_base (Li et al., IJCAI 2025, Eq. 3).

Where the FER papers' released codes differ from the text, and what is done here:
1. The text sums over the batch, the codes take means, the unlabelled mean over all U images, discarded ones counted as
   zero: `reduction`, default mean.
2. Labelled, weak and strong images go through the network in three passes, each with its own batch statistics, the weak
   one in training mode without gradient (dropout and batch statistics make the labels noisy): `joint=False`. With
   `joint=True` the labelled and strong images share one pass, which is cheaper and changes the batch statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.kernels import pseudo_label
from ferbench.methods.base import Labelled, Learner, Model, Passes, Prediction, PseudoLabels, Unlabelled, Views
from ferbench.methods.reduce import Reduction, reduce


@dataclass(frozen=True)
class FixMatchOptions:
    """threshold: tau of Eq. 3; unlabelled_weight: of the unsupervised term; joint: one pass for labelled and strong."""

    threshold: float = 0.95
    unlabelled_weight: float = 1.0
    reduction: Reduction = "mean"
    joint: bool = False


class FixMatch(Learner):
    Options = FixMatchOptions
    released: ClassVar[Mapping[str, object]] = {}
    paper = "Sohn et al., NeurIPS 2020"
    views = Views(labelled=("weak",), unlabelled=("weak", "strong"))

    def __init__(self, model: Model, options: FixMatchOptions) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.options = options

    def passes(self, labelled: Labelled, unlabelled: Unlabelled | None) -> Passes:
        assert unlabelled is not None, "fixmatch needs unlabelled images"
        images, weak, strong = labelled.views["weak"], unlabelled.views["weak"], unlabelled.views["strong"]
        if self.options.joint:
            both: Prediction = self.model(torch.cat([images, strong]))
            first, second = (Prediction(*(part[rows] for part in both)) for rows in _rows(len(images)))
        else:
            first = self.model(images)
        with torch.no_grad():
            target: Prediction = self.model(weak)
        if not self.options.joint:
            second = self.model(strong)
        return Passes(first, (target,), (second,), unlabelled.index)

    def thresholds(self) -> float:
        return self.options.threshold

    def pseudo_labels(self, passes: Passes) -> PseudoLabels:
        return PseudoLabels(*pseudo_label(passes.weak[0].logits, thresholds=self.thresholds()))

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        assert pseudo is not None
        supervised = F.cross_entropy(passes.labelled.logits.float(), labels, reduction="none")
        unsupervised = F.cross_entropy(passes.strong[0].logits.float(), pseudo.label, reduction="none") * pseudo.keep
        return {
            "supervised": reduce(supervised, self.options.reduction),
            "unsupervised": self.options.unlabelled_weight * reduce(unsupervised, self.options.reduction),
        }


def _rows(labelled: int) -> tuple[slice, slice]:
    return slice(None, labelled), slice(labelled, None)
