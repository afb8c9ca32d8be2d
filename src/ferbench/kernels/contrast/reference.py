"""Plain-torch truth of the two-view contrast (Ada-CM, CVPR 2022, Eqs. 8-9). Builds the N-by-N matrices."""

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """Rows of `x` [N, D] at length 1. A zero row stays zero, with zero gradient; no finite row over- or underflows."""
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    scaled = x / largest.masked_fill(largest == 0, 1.0)
    length = (scaled * scaled).sum(dim=1, keepdim=True).masked_fill(largest == 0, 1.0).sqrt()
    return (scaled / length).masked_fill(largest == 0, 0.0)


def anchor_losses(anchors: Tensor, others: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """Eq. 9's term of each anchor, [N] (0 for a row that is not kept); all arguments cover the same N samples.

    log( sum_{j != i} exp(s(e_i, e_j)/t) + sum_k exp(s(e_i, o_k)/t) ) - s(e_i, o_i)/t over kept j and k.
    """
    same = anchors @ anchors.T / temperature
    cross = anchors @ others.T / temperature
    itself = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    same = same.masked_fill(itself | ~keep, -torch.inf)
    cross = cross.masked_fill(~keep & ~itself, -torch.inf)
    log_denominator = torch.cat([same, cross], dim=1).logsumexp(dim=1)
    return (log_denominator - cross.diagonal()).masked_fill(~keep, 0.0)


def info_nce(
    a: Tensor, b: Tensor, *, mask: Tensor | None = None, temperature: float = 0.07, symmetric: bool = True
) -> Tensor:
    """Contrast of two views of the same samples by cosine similarity, the mean over the kept anchors, in nats.

    For one anchor the denominator holds every kept row of both views except the anchor itself. Rows need not be
    normalised (Eq. 8 is a cosine). Fewer than two kept rows give 0 and no gradient: a lone sample's denominator is its
    numerator, and a mean over no sample is taken as 0.

    Args:
        a: [B, D] first view; the anchors of Eq. 9
        b: [B, D] second view
        mask: [B] bool, the rows that take part; None for all
        temperature: divisor of the cosine, > 0
        symmetric: False is Eq. 9; True the mean of Eq. 9 with `a` and with `b` as anchors (NT-Xent)

    Returns:
        scalar in float32, or float64 for float64 features
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    keep = torch.ones(len(a), dtype=torch.bool, device=a.device) if mask is None else mask
    kept = keep.unsqueeze(1)
    with torch.autocast(a.device.type, enabled=False):  # else the cosines are in half precision
        view_a = unit_rows(a.to(dtype).masked_fill(~kept, 0.0))
        view_b = unit_rows(b.to(dtype).masked_fill(~kept, 0.0))
        terms = anchor_losses(view_a, view_b, keep, temperature)
        if symmetric:
            terms = (terms + anchor_losses(view_b, view_a, keep, temperature)) / 2
    count = keep.sum()
    return (terms.sum() / count.clamp(min=1)).masked_fill(count < 2, 0.0)
