"""FlexMatch: FixMatch with a threshold per class that follows how much of the class has been learnt.

Paper: Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", NeurIPS 2021,
Eqs. 5-11. Code: TorchSSL, and the same in USB.

A table holds for each unlabelled image the class of its last confident prediction (confidence >= tau, whatever the
class's own threshold). sigma_c counts the images of class c (Eq. 5), beta_c = sigma_c / max(max_c sigma_c, images
never confident) (Eqs. 6 and 11, the warm-up), tau_c = tau * beta_c / (2 - beta_c) (Eqs. 7 and 10). All beta start at
0: at first every image is kept.

1. The thresholds of a step are those before its own predictions enter the table (code; the paper does not say).
2. The counts are kept up to date, not counted anew: a step costs the same for any number of images. Where an image
   stands twice in a batch the last confident row counts.
3. Under a plug-in the table is filled by the learner's own weak predictions, whatever labels the plug-in teaches.
4. The unlabelled pool is what the split gives; the toolboxes' default puts the labelled images into it as well.
5. `usb`: one pass over all views.

State: 4 bytes per image of the data set, K + 1 counts, K thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import Facts, Model, Passes
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.reduce import whole_batch
from ferbench.methods.consistency import Consistency, ConsistencyOptions


@dataclass(frozen=True)
class FlexMatchOptions(ConsistencyOptions):
    """threshold: tau; warm_up: whether images never confident take part in the maximum (Eq. 11)."""

    threshold: float = 0.95
    warm_up: bool = True

    def __post_init__(self) -> None:
        not_negative(self, "unlabelled_weight")
        share(self, "threshold")


class FlexMatch(Consistency):
    Options = FlexMatchOptions
    usb: ClassVar[Mapping[str, object]] = {"joint": "all"}
    paper = "Zhang et al., NeurIPS 2021"
    options: FlexMatchOptions
    table: Tensor  # [images + 1] int32: class of the last confident prediction, K for none; the last row is a spare
    counts: Tensor  # [K + 1] int64: images by entry of the table
    limits: Tensor  # [K]: this step's thresholds

    def __init__(self, model: Model, options: FlexMatchOptions) -> None:
        super().__init__(model, options)
        self.register_buffer("limits", torch.zeros(model.num_classes))
        self.register_buffer("counts", torch.zeros(model.num_classes + 1, dtype=torch.int64))

    def begin(self, facts: Facts) -> None:
        classes = len(self.limits)
        self.counts[classes] = len(facts.unlabelled_index)
        table = torch.full((facts.images + 1,), classes, dtype=torch.int32, device=self.limits.device)
        self.register_buffer("table", table)

    def thresholds(self) -> Tensor:
        return self.limits

    def observe(self, passes: Passes) -> None:
        """Thresholds from the counts as they stand, then this batch's predictions into the table."""
        assert passes.index is not None
        self.limits.copy_(self.options.threshold * curriculum(self.counts, self.options.warm_up))
        confidence, label = passes.weak[0].logits.float().softmax(dim=1).max(dim=1)
        confident = whole_batch(confidence) >= self.options.threshold
        self._record(whole_batch(passes.index), whole_batch(label), confident)

    def _record(self, index: Tensor, label: Tensor, confident: Tensor) -> None:
        """Write confident rows, each image's last one only, and move the counts along."""
        later = (index.unsqueeze(1) == index).triu(diagonal=1) & confident
        written = confident & ~later.any(dim=1)
        moved = written.long()
        self.counts.scatter_add_(0, self.table[index].long(), -moved)
        self.counts.scatter_add_(0, label, moved)
        spare, unused = len(self.table) - 1, len(self.limits)
        entry = torch.where(written, label, unused).to(torch.int32)
        self.table.index_put_((torch.where(written, index, spare),), entry)


def curriculum(counts: Tensor, warm_up: bool) -> Tensor:
    """beta / (2 - beta) [K] from the counts [K + 1] of classes and of images never confident; 0 where none was."""
    learnt = counts[:-1].float()
    most = counts.amax() if warm_up else counts[:-1].amax()
    beta = learnt / most.clamp(min=1)
    return beta / (2 - beta)
