"""Launchers of `tiles.py`: centre + ETF for any number of rows, centres and features.

Scratch in forward is the pair matrix [K, K] (K <= 2D only) or about 250 partial Gram tiles (33 MB at D = 512); backward
adds dV [K, D]. All sizes follow from the shapes, so nothing waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ferbench.kernels.center_etf import tiles
from ferbench.kernels.dispatch import accumulate_dtype, launch, target, triton_type

PROGRAMS = 264
"""Programs to aim at where the work can be split freely: two for each of an H100's or H200's 132 multiprocessors."""


class EtfState(NamedTuple):
    """What backward needs of the ETF term: W [K, K] or G [D, D], 1/length [K], mean centre [D], column sum [D]."""

    matrix: Tensor
    r: Tensor
    mean: Tensor
    total: Tensor


def tile(size: int, largest: int) -> int:
    """Power of two that covers `size`, between 16 (the least a matrix unit takes) and `largest`."""
    return max(16, min(largest, int(triton.next_power_of_2(size))))


def spans(count: int, block: int, others: int) -> tuple[int, int]:
    """(splits, length) that cut `count` items into spans of whole blocks, given `others` programs per span."""
    splits = max(1, min(triton.cdiv(count, 4 * block), PROGRAMS // others))
    length = triton.cdiv(triton.cdiv(count, splits), block) * block
    return triton.cdiv(count, length), length


def precision(state: Tensor, gram: bool) -> str:
    """How float32 matrices are multiplied: three bfloat16 products for G, six for the cosines, which may cancel.

    float64 and the interpreter know only the exact product.
    """
    if state.dtype == torch.float64 or target(state.device) == "cpu":
        return "ieee"
    return "bf16x3" if gram else "bf16x6"


def etf_forward(centers: Tensor, paper: bool, dtype: torch.dtype) -> tuple[Tensor, EtfState]:
    """The ETF term [] of centers [K, D], and its state for backward."""
    classes, width = centers.shape
    device, acc = centers.device, triton_type(dtype)
    mean = centers.mean(0, dtype=dtype)
    floor = mean.square().sum() * (8 * torch.finfo(dtype).eps) ** 2
    r = torch.empty(classes, dtype=dtype, device=device)
    bd = tile(width, 128)
    launch(
        tiles._direction_kernel, (triton.cdiv(classes, 16),),
        centers, mean, floor, r, classes, width, *centers.stride(), ACC=acc, BK=16, BD=bd, num_warps=4,
    )  # fmt: skip
    shift = 1.0 / (classes - 1) if paper else 0.0
    if classes <= 2 * width:
        bk = tile(classes, 64)
        blocks = triton.cdiv(classes, bk)
        matrix = torch.empty((classes, classes), dtype=dtype, device=device)
        partial = torch.empty((blocks, blocks), dtype=dtype, device=device)
        launch(
            tiles._pairs_kernel, (blocks, blocks),
            centers, mean, r, matrix, partial, classes, width, *centers.stride(), shift,
            ACC=acc, PRECISION=precision(r, False), BK=bk, BD=min(bd, 32), num_warps=8, num_stages=2,
        )  # fmt: skip
        pairs, total = partial.sum(), torch.empty(0, dtype=dtype, device=device)
    else:
        blocks = triton.cdiv(width, bd)
        splits, span = spans(classes, 32, blocks * (blocks + 1) // 2)
        grams = torch.empty((splits, width, width), dtype=dtype, device=device)
        totals = torch.empty((splits, width), dtype=dtype, device=device)
        launch(
            tiles._gram_kernel, (blocks, blocks, splits),
            centers, mean, r, grams, totals, classes, width, span, *centers.stride(),
            ACC=acc, PRECISION=precision(r, True), BK=32, BD=bd, num_warps=8, num_stages=2,
        )  # fmt: skip
        matrix, total = grams.sum(0), totals.sum(0)
        everything = matrix.square().sum() + 2 * shift * total.square().sum() + (shift * classes) ** 2
        pairs = everything - ((r > 0).to(dtype) + shift).square().sum()
    etf = pairs if paper else (pairs + classes / (classes - 1) ** 2).sqrt()
    return etf, EtfState(matrix, r, mean, total)


def etf_backward(centers: Tensor, state: EtfState, paper: bool) -> tuple[Tensor, Tensor]:
    """dV [K, D] and its mean over the centres [D], still to be multiplied by 4 (released: 2 / etf)."""
    classes, width = centers.shape
    matrix, r, mean, total = state
    gram = classes > 2 * width
    acc, precise = triton_type(r.dtype), precision(r, gram)
    bk, bd = tile(classes, 64), tile(width, 64)
    blocks = triton.cdiv(width, bd)
    dv = torch.empty((classes, width), dtype=r.dtype, device=r.device)
    along = torch.empty((classes, blocks), dtype=r.dtype, device=r.device)
    launch(
        tiles._apply_kernel, (triton.cdiv(classes, bk), blocks),
        centers, mean, r, matrix, total, dv, along, classes, width, *centers.stride(),
        1.0 / (classes - 1) if paper else 0.0,
        GRAM=gram, ACC=acc, PRECISION=precise, BK=bk, BD=bd, BR=32, num_warps=8, num_stages=2,
    )  # fmt: skip
    splits, span = spans(classes, 16, blocks)
    partial = torch.empty((splits, width), dtype=r.dtype, device=r.device)
    launch(
        tiles._project_kernel, (splits, blocks),
        centers, mean, r, along.sum(1), dv, partial, classes, width, span, *centers.stride(),
        ACC=acc, BK=16, BD=bd, num_warps=4,
    )  # fmt: skip
    return dv, partial.sum(0) / classes


def kept_labels(labels: Tensor, mask: Tensor | None, classes: int) -> Tensor:
    """Labels as int64 [B]: -1 where the row does not count, `classes` where a counting label is out of range."""
    wide = labels.long()
    wide = wide.masked_fill((wide < 0) | (wide > classes), classes)
    return wide if mask is None else wide.masked_fill(~mask, -1)


def center_etf_forward(
    features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, paper: bool, mean: bool
) -> tuple[Tensor, Tensor, Tensor, EtfState]:
    """(centre loss [], ETF term [], scale [], state); shapes as in `ferbench.kernels`."""
    rows, width = features.shape
    dtype = accumulate_dtype(features, centers)
    block = 16
    partial = torch.empty(triton.cdiv(rows, block), dtype=dtype, device=features.device)
    launch(
        tiles._distance_kernel, (triton.cdiv(rows, block),),
        features, kept_labels(labels, mask, centers.shape[0]), centers, partial, rows, centers.shape[0], width,
        *features.stride(), *centers.stride(), ACC=triton_type(dtype), BB=block, BD=tile(width, 256), num_warps=4,
    )  # fmt: skip
    count = features.new_full((), rows, dtype=dtype) if mask is None else mask.sum().to(dtype)
    scale = count.clamp(min=1).reciprocal() if mean else torch.ones_like(count)
    etf, state = etf_forward(centers, paper, dtype)
    return 0.5 * partial.sum() * scale, etf, scale, state


def center_etf_backward(
    features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None,
    etf: Tensor, scale: Tensor, state: EtfState, grad_center: Tensor, grad_etf: Tensor, paper: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of features [B, D] and centers [K, D], in their types."""
    rows, width = features.shape
    classes = centers.shape[0]
    kept, weight, acc = kept_labels(labels, mask, classes), grad_center * scale, triton_type(etf.dtype)
    d_features = torch.empty(features.shape, dtype=features.dtype, device=features.device)
    bd = tile(width, 128)
    launch(
        tiles._features_bwd_kernel, (triton.cdiv(rows, 16), triton.cdiv(width, bd)),
        features, kept, centers, weight, d_features, rows, classes, width,
        *features.stride(), *centers.stride(), ACC=acc, BB=16, BD=bd, num_warps=4,
    )  # fmt: skip
    dv, dmean = etf_backward(centers, state, paper)
    ordered, order = kept.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(classes + 1, device=kept.device))
    splits = max(1, min(triton.cdiv(rows, 64), PROGRAMS // (classes * triton.cdiv(width, bd))))
    shares = torch.empty(
        (splits, classes, width), dtype=centers.dtype if splits == 1 else etf.dtype, device=centers.device
    )
    launch(
        tiles._centers_bwd_kernel, (classes, triton.cdiv(width, bd), splits),
        features, order, bounds, centers, weight, grad_etf * (4.0 if paper else 2.0 / etf), dv, dmean, shares,
        classes, width, *features.stride(), *centers.stride(), ACC=acc, BB=16, BD=bd, num_warps=4,
    )  # fmt: skip
    return d_features, shares[0] if splits == 1 else shares.sum(0).to(centers.dtype)
