"""Centre loss and ETF regulariser in plain torch (ReMoP, Sec. 4.2 and Eq. 8).

B rows, K centres, D features. With u_k the centred, normalised centres and a = 1/(K-1):

    sum over k != t of (u_k.u_t + a)^2  =  |UtU|^2 + 2a |sum u|^2 + a^2 K^2 - sum over k of (u_k.u_k + a)^2

so the D-by-D Gram matrix can replace the K-by-K cosines. It does where K > 2D, where an ETF is out of reach and the
right-hand side cannot cancel; up to there the cosines are used with their diagonal masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype


def center_etf_loss(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    mask: Tensor | None = None,
    etf: str = "paper",
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """See `ferbench.kernels.center_etf_loss`; shapes: features [B, D], labels [B], centers [K, D], mask [B]."""
    dtype = accumulate_dtype(features, centers)
    with torch.autocast(features.device.type, enabled=False):
        wide = centers.to(dtype)
        return center_loss(features.to(dtype), labels, wide, mask, reduction), etf_loss(wide, etf)


def center_loss(features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """Half the summed squared distance of each kept row to its centre, or its mean over the kept rows."""
    if mask is not None:
        labels = labels.masked_fill(~mask, 0)
    offset = features - centers.index_select(0, labels.long())
    if mask is not None:
        offset = offset.masked_fill(~mask[:, None], 0.0)
    total = 0.5 * offset.square().sum()
    if reduction == "sum":
        return total
    kept = features.new_tensor(features.shape[0]) if mask is None else mask.sum()
    return total / kept.clamp(min=1)


def etf_loss(centers: Tensor, form: str) -> Tensor:
    """Distance of the centred, normalised centres [K, D] from a simplex ETF: Eq. 8, or the released norm."""
    classes, width = centers.shape
    unit, alive = normalised(centers)
    shift = 1.0 / (classes - 1) if form == "paper" else 0.0
    if classes <= 2 * width:
        diagonal = torch.eye(classes, dtype=torch.bool, device=centers.device)
        pairs = (unit @ unit.T + shift).masked_fill(diagonal, 0.0).square().sum()
    else:
        gram = unit.T @ unit
        everything = gram.square().sum() + 2 * shift * unit.sum(0).square().sum() + (shift * classes) ** 2
        pairs = everything - (alive.to(unit.dtype) + shift).square().sum()
    return pairs if form == "paper" else (pairs + classes / (classes - 1) ** 2).sqrt()


def normalised(centers: Tensor) -> tuple[Tensor, Tensor]:
    """Centred centres scaled to length one [K, D], and which of them have a direction [K].

    A centre that equals the mean of all centres up to rounding has none: it counts as the zero vector (cosine 0) and
    gets gradient zero through its own direction.
    """
    mean = centers.mean(0)
    centred = centers - mean
    squared = centred.square().sum(1)
    alive = squared > (8 * torch.finfo(centers.dtype).eps) ** 2 * mean.square().sum()
    scale = torch.where(alive, squared, 1.0).rsqrt() * alive
    return centred * scale[:, None], alive
