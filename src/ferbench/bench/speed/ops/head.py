"""Speed case of FixMatch's head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Work
from ferbench.kernels import consistency_head, pseudo_label, reference


class ConsistencyHead(Case):
    """Both losses of one step and the pseudo-labels, forward and backward to labelled and strong logits."""

    op = "consistency_head"
    sizes = {
        "quick": {"B": 64, "U": 64, "K": 7},
        "paper": {"B": 64, "U": 64, "K": 7},
        "rows": {"B": 65_536, "U": 458_752, "K": 7},
    }

    def floor(self, size: dict[str, int]) -> Work:
        """Logits read, the gradients written in float32, then read and written by their scaling."""
        return Work(4 * size["K"] * (4 * size["B"] + 5 * size["U"]), launches=3)

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        labelled, weak, strong = (torch.randn(size[n], size["K"], device=device) for n in ("B", "U", "U"))
        labels = torch.randint(size["K"], (size["B"],), device=device)
        return [labelled.requires_grad_(), labels, weak, strong.requires_grad_()]

    def incoming(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        return [torch.full_like(output, 0.5) for output in outputs[:2]]

    def ours(self, labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> Sequence[Tensor]:
        return consistency_head(labelled, labels, weak, strong, thresholds=0.4)[:2]

    def eager(self, labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> Sequence[Tensor]:
        return reference.consistency_head(labelled, labels, weak, strong, thresholds=0.4)[:2]

    def others(self) -> dict[str, Forward]:
        return {"separate": separate}


def separate(labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> Sequence[Tensor]:
    """The ops that the head takes the place of, one by one."""
    label, keep, _ = pseudo_label(weak, thresholds=0.4)
    return F.cross_entropy(labelled, labels), (F.cross_entropy(strong, label, reduction="none") * keep).mean()
