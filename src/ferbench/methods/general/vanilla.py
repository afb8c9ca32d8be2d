"""Vanilla: cross-entropy on the labelled images alone, the lower bound of every table.

Paper: ReMoP (Li et al., IJCAI 2025), Table 1, "the model is trained using limited labeled samples"; the supervised term
of its Eq. 3. Differences between paper and released code: the paper sums over the batch, the code takes the mean;
the mean is the default here (`reduction`), because a sum would tie the learning rate to the batch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.methods.base import Labelled, Learner, Model, Passes, PseudoLabels, Unlabelled, Views
from ferbench.methods.blocks.reduce import Reduction, reduce


@dataclass(frozen=True)
class VanillaOptions:
    """reduction: sum or mean of the per-sample losses over the batch."""

    reduction: Reduction = "mean"


class Vanilla(Learner):
    Options = VanillaOptions
    released: ClassVar[Mapping[str, object]] = {}
    paper = "supervised baseline"
    views = Views(labelled=("weak",))

    def __init__(self, model: Model, options: VanillaOptions) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.options = options

    def passes(self, labelled: Labelled, unlabelled: Unlabelled | None) -> Passes:
        return Passes(self.model(labelled.views["weak"]))

    def thresholds(self) -> float:
        return 1.0

    def pseudo_labels(self, passes: Passes) -> None:
        return None

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        per_sample = F.cross_entropy(passes.labelled.logits.float(), labels, reduction="none")
        return {"supervised": reduce(per_sample, self.options.reduction)}
