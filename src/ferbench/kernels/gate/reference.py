"""Plain-torch truth of the top-k gate and of the mixture of experts (LEAF, arXiv 2404.15041, Eqs. 2-3)."""

from typing import Literal

import torch
from torch import Tensor

Activation = Literal["softplus", "none"]


def topk_gate(logits: Tensor, k: int, *, activation: Activation = "softplus") -> Tensor:
    """Softmax over the `k` largest activated logits of a row, 0 elsewhere (LEAF Eq. 3).

    The choice is made on the raw logits: softplus is monotone, and far below zero it would round distinct logits to
    equal values. Ties go to the lower index.

    Args:
        logits: [B, N]
        k: number of experts kept, 1 <= k <= N
        activation: "softplus" (Eq. 3) or "none" (the released code)

    Returns:
        [B, N] weights in the dtype of `logits`; each row sums to 1
    """
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = x.detach().sort(dim=1, descending=True, stable=True).indices[:, :k]
    picked = x.gather(1, chosen)
    activated = softplus(picked) if activation == "softplus" else picked
    return torch.zeros_like(x).scatter(1, chosen, activated.softmax(dim=1)).to(logits.dtype)


def mix_experts(weights: Tensor, outputs: Tensor) -> Tensor:
    """Weighted sum of the experts' outputs (LEAF Eq. 2).

    A non-finite output of an expert whose weight is 0 counts as 0: an expert that was not chosen cannot spoil the sum.

    Args:
        weights: [B, N]
        outputs: [B, N, D]

    Returns:
        [B, D] in the promoted dtype of both
    """
    dtype = torch.promote_types(weights.dtype, outputs.dtype)
    accumulate = torch.promote_types(dtype, torch.float32)
    scale = weights.to(accumulate).unsqueeze(2)
    values = outputs.to(accumulate)
    values = values.masked_fill((scale == 0) & ~values.isfinite(), 0.0)
    return (scale * values).sum(dim=1).to(dtype)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to full relative precision in both tails (`F.softplus` is linear above 20)."""
    return torch.logaddexp(x, x.new_zeros(()))
