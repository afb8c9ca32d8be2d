"""DeFixMatch: FixMatch without its bias: the unsupervised loss of the labelled images is subtracted.

Paper: Schmutz, Humbert, Mattei, "Don't fear the unlabelled: safe semi-supervised learning via debiasing", ICLR 2023,
Eq. 6. Code: HugoSchmutz/DeFixmatch; USB.

L = (CE(weak) + CE(strong)) / 2 on the labelled images + lambda (A(unlabelled) - A(labelled)), where A is FixMatch's
term: the confident prediction on the weak view taught to the strong one, the labelled images' true labels unused. The
loss can be negative.

1. `usb`: one pass over all views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ferbench.kernels import pseudo_label
from ferbench.methods.base import Passes, PseudoLabels, Views
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.reduce import reduce
from ferbench.methods.consistency import Consistency, ConsistencyOptions, cross_entropy


@dataclass(frozen=True)
class DeFixMatchOptions(ConsistencyOptions):
    """threshold: tau; unlabelled_weight: lambda."""

    unlabelled_weight: float = 0.5
    threshold: float = 0.95

    def __post_init__(self) -> None:
        not_negative(self, "unlabelled_weight")
        share(self, "threshold")


class DeFixMatch(Consistency):
    Options = DeFixMatchOptions
    usb: ClassVar[Mapping[str, object]] = {"joint": "all"}
    paper = "Schmutz et al., ICLR 2023"
    views = Views(labelled=("weak", "strong"), unlabelled=("weak", "strong"))
    options: DeFixMatchOptions

    def thresholds(self) -> float:
        return self.options.threshold

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        assert pseudo is not None and passes.labelled_strong is not None
        weak, strong, reduction = passes.labelled.logits, passes.labelled_strong.logits, self.options.reduction
        label, keep, _ = pseudo_label(weak, thresholds=self.options.threshold)
        supervised = (cross_entropy(weak, labels) + cross_entropy(strong, labels)) / 2
        return {
            "supervised": reduce(supervised, reduction),
            "unsupervised": self.unsupervised(passes, pseudo.label, pseudo.keep),
            "debias": -self.options.unlabelled_weight * reduce(cross_entropy(strong, label) * keep, reduction),
        }
