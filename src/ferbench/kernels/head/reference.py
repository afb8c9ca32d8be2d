"""The head of FixMatch's step in plain torch (Sohn et al., NeurIPS 2020, Eqs. 3 and 4)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ferbench.kernels.dispatch import accumulate_dtype
from ferbench.kernels.pseudo.reference import pseudo_label

Reduction = Literal["mean", "sum"]


class Head(NamedTuple):
    """Both losses [] and the pseudo-labels that the second one taught: label [U], keep [U], confidence [U]."""

    supervised: Tensor
    unsupervised: Tensor
    label: Tensor
    keep: Tensor
    confidence: Tensor


def consistency_head(
    labelled: Tensor,
    labels: Tensor,
    weak: Tensor,
    strong: Tensor,
    *,
    thresholds: Tensor | float,
    reduction: Reduction = "mean",
) -> Head:
    """See `ferbench.kernels.consistency_head`; shapes: labelled [B, K], labels [B], weak and strong [U, K]."""
    label, keep, confidence = pseudo_label(weak, thresholds=thresholds)
    wide = accumulate_dtype(labelled, strong)
    known = F.cross_entropy(labelled.to(wide), labels.long(), reduction="none")
    taught = F.cross_entropy(strong.to(wide), label, reduction="none") * keep
    if reduction == "sum":
        return Head(known.sum(), taught.sum(), label, keep, confidence)
    return Head(known.mean(), taught.mean(), label, keep, confidence)
