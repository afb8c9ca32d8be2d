"""Centre loss and ETF regulariser in plain torch (ReMoP, Sec. 4.2 and Eq. 8).

B rows, K centres, D features. With u_k the centred, normalised centres and a = 1/(K-1):

    sum over k != t of (u_k.u_t + a)^2  =  |UtU|^2 + 2a |sum u|^2 + a^2 K^2 - sum over k of (u_k.u_k + a)^2

so the D-by-D Gram matrix can replace the K-by-K cosines. It does where K > 2D, where an ETF is out of reach and the
right-hand side cannot cancel; up to there the cosines are used with their diagonal masked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype


class Rows(NamedTuple):
    """A set of rows of the centre loss.

    features: [B, D]; labels: [B] integers in [0, K), not looked at where `mask` is False; mask: [B] bool, the rows that
    count, or None for all; divisor: what their sum is divided by, a number or a tensor [] without gradient.
    """

    features: Tensor
    labels: Tensor
    mask: Tensor | None = None
    divisor: float | Tensor = 1.0


def center_etf_loss(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    mask: Tensor | None = None,
    divisor: float | Tensor | None = None,
    more: Rows | None = None,
    etf: str = "paper",
) -> tuple[Tensor, Tensor]:
    """See `ferbench.kernels.center_etf_loss`; shapes: features [B, D], labels [B], centers [K, D], mask [B]."""
    dtype = accumulate_dtype(features, centers)
    with torch.autocast(features.device.type, enabled=False):
        wide = centers.to(dtype)
        center = center_loss(wide, Rows(features.to(dtype), labels, mask, kept_rows(features, mask, divisor)))
        if more is not None:
            center = center + center_loss(wide, more._replace(features=more.features.to(dtype)))
        return center, etf_loss(wide, etf)


def kept_rows(features: Tensor, mask: Tensor | None, divisor: float | Tensor | None) -> float | Tensor:
    """`divisor`, or where it is None the number of kept rows, 1 where none is."""
    if divisor is not None:
        return divisor
    return float(max(1, features.shape[0])) if mask is None else mask.sum().clamp(min=1)


def center_loss(centers: Tensor, rows: Rows) -> Tensor:
    """Half the summed squared distance of each kept row to its centre, over the divisor."""
    features, labels, mask, divisor = rows
    if mask is not None:
        labels = labels.masked_fill(~mask, 0)
    offset = features - centers.index_select(0, labels.long())
    if mask is not None:
        offset = offset.masked_fill(~mask[:, None], 0.0)
    return 0.5 * offset.square().sum() / divisor


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
