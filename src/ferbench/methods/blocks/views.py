"""One prediction from several views of the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """Logits [B, K] whose softmax is the mean of the views' softmaxes (Ada-CM, Eq. 6).

    They are the logarithms of that mean, so a label or a gate made from logits serves several views as it serves one;
    one view's logits are returned as they are.
    """
    if len(logits) == 1:
        return logits[0]
    each = torch.stack([view.float().log_softmax(dim=1) for view in logits])
    return each.logsumexp(dim=0) - math.log(len(logits))
