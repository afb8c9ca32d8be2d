"""Launchers of `tiles.py`: centre + ETF for any number of rows, centres and features.

Scratch in forward is the pair matrix [K, K] (K <= 2D only) or about 250 partial Gram tiles (33 MB at D = 512); backward
adds dV [K, D]. All sizes follow from the shapes, so nothing waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ferbench.kernels.center_etf import tiles
from ferbench.kernels.center_etf.reference import Rows
from ferbench.kernels.dispatch import (
    Plan,
    accumulate_dtype,
    ceil_div,
    launch,
    layout,
    power_of_two,
    target,
    triton_type,
)

PROGRAMS = 264
"""Programs to aim at where the work can be split freely: two for each of an H100's or H200's 132 multiprocessors."""
ONEHOT = 1 << 23
"""Rows times centres up to which a product with the one-hot labels beats sorting them."""


class EtfState(NamedTuple):
    """What backward needs of the ETF term: W [K, K] or G [D, D], 1/length [K], mean centre [D], column sum [D]."""

    matrix: Tensor
    r: Tensor
    mean: Tensor
    total: Tensor


def tile(size: int, largest: int, dtype: torch.dtype = torch.float32) -> int:
    """Power of two that covers `size`: at least 16, which a matrix unit takes, at most `largest`, half in float64."""
    return max(16, min(largest // 2 if dtype == torch.float64 else largest, power_of_two(size)))


def spans(count: int, block: int, others: int) -> tuple[int, int]:
    """(splits, length) that cut `count` items into spans of whole blocks, given `others` programs per span."""
    splits = max(1, min(ceil_div(count, 4 * block), PROGRAMS // others))
    length = ceil_div(ceil_div(count, splits), block) * block
    return ceil_div(count, length), length


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
    r = torch.empty(classes, dtype=dtype, device=device)
    bd = tile(width, 128)
    key = layout(centers), dtype, paper
    launch(
        tiles._direction_kernel, key, (centers, mean, r),
        lambda: Plan(
            (ceil_div(classes, 16),), (classes, width, *centers.stride()),
            {"ACC": acc, "EPS": torch.finfo(dtype).eps, "BK": 16, "BD": bd, "num_warps": 4},
        ),
    )  # fmt: skip
    shift = 1.0 / (classes - 1) if paper else 0.0
    if classes <= 2 * width:
        bk = tile(classes, 64)
        blocks = ceil_div(classes, bk)
        matrix = torch.empty((classes, classes), dtype=dtype, device=device)
        partial = torch.empty((blocks, blocks), dtype=dtype, device=device)
        launch(
            tiles._pairs_kernel, key, (centers, mean, r, matrix, partial, shift),
            lambda: Plan(
                (blocks, blocks), (classes, width, *centers.stride()),
                {"ACC": acc, "PRECISION": precision(r, False), "BK": bk, "BD": min(bd, 32), "num_warps": 8,
                 "num_stages": 2},
            ),
        )  # fmt: skip
        pairs, total = partial.sum(), torch.empty(0, dtype=dtype, device=device)
    else:
        blocks = ceil_div(width, bd)
        splits, span = spans(classes, 32, blocks * (blocks + 1) // 2)
        grams = torch.empty((splits, width, width), dtype=dtype, device=device)
        totals = torch.empty((splits, width), dtype=dtype, device=device)
        launch(
            tiles._gram_kernel, key, (centers, mean, r, grams, totals),
            lambda: Plan(
                (blocks, blocks, splits), (classes, width, span, *centers.stride()),
                {"ACC": acc, "PRECISION": precision(r, True), "BK": 16 if target(device) == "sm120" else 32, "BD": bd,
                 "num_warps": 8, "num_stages": 2},  # with 32 an sm120 spills
            ),
        )  # fmt: skip
        matrix, total = grams.sum(0), totals.sum(0)
        everything = matrix.square().sum() + 2 * shift * total.square().sum() + (shift * classes) ** 2
        pairs = everything - ((r > 0).to(dtype) + shift).square().sum()
    etf = pairs if paper else (pairs + classes / (classes - 1) ** 2).sqrt()
    return etf, EtfState(matrix, r, mean, total)


def etf_backward(centers: Tensor, state: EtfState, paper: bool) -> tuple[Tensor, Tensor]:
    """dV [K, D] and its sum over each span of centres [S, D], still to be multiplied by 4 (released: 2 / etf)."""
    classes, width = centers.shape
    matrix, r, mean, total = state
    gram = classes > 2 * width
    acc, precise = triton_type(r.dtype), precision(r, gram)
    bk, bd = tile(classes, 64, r.dtype), tile(width, 64, r.dtype)
    blocks = ceil_div(width, bd)
    dv = torch.empty((classes, width), dtype=r.dtype, device=r.device)
    along = torch.empty((classes, blocks), dtype=r.dtype, device=r.device)
    key = layout(centers), r.dtype, paper
    launch(
        tiles._apply_kernel, key,
        (centers, mean, r, matrix, total, dv, along, 1.0 / (classes - 1) if paper else 0.0),
        lambda: Plan(
            (ceil_div(classes, bk), blocks), (classes, width, *centers.stride()),
            {"GRAM": gram, "ACC": acc, "PRECISION": precise, "BK": bk, "BD": bd, "BR": 32, "num_warps": 8,
             "num_stages": 2},
        ),
    )  # fmt: skip
    splits, span = spans(classes, 16, blocks)
    partial = torch.empty((splits, width), dtype=r.dtype, device=r.device)
    launch(
        tiles._project_kernel, key, (centers, mean, r, along, dv, partial),
        lambda: Plan(
            (splits, blocks), (classes, width, span, *centers.stride()),
            {"J": blocks, "JP": power_of_two(blocks), "ACC": acc, "BK": 16, "BD": bd, "num_warps": 4},
        ),
    )  # fmt: skip
    return dv, partial


def joined(one: Rows, other: Rows | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and weights of both sets of rows, one set's after the other's."""
    sets = [one] if other is None else [one, other]
    weights = []
    for rows in sets:
        counts = torch.ones_like(rows.labels, dtype=dtype) if rows.mask is None else rows.mask.to(dtype)
        weights.append(counts / rows.divisor)
    if other is None:
        return one.features, one.labels, weights[0]
    kind = torch.promote_types(one.features.dtype, other.features.dtype)
    return (
        torch.cat([rows.features.to(kind) for rows in sets]), torch.cat([rows.labels for rows in sets]),
        torch.cat(weights),
    )  # fmt: skip


def center_etf_forward(centers: Tensor, one: Rows, other: Rows | None, paper: bool) -> tuple[Tensor, Tensor, EtfState]:
    """(centre loss [], ETF term [], state); shapes as in `ferbench.kernels`."""
    dtype = accumulate_dtype(centers, one.features)
    features, labels, weight = joined(one, other, dtype)
    labels = labels.contiguous()
    (rows, width), block = features.shape, 16
    partial = torch.empty(ceil_div(rows, block), dtype=dtype, device=features.device)
    launch(
        tiles._distance_kernel, (layout(features), layout(labels), layout(centers), dtype),
        (features, labels, weight, centers, partial),
        lambda: Plan(
            (ceil_div(rows, block),), (rows, centers.shape[0], width, *features.stride(), *centers.stride()),
            {"ACC": triton_type(dtype), "BB": block, "BD": tile(width, 256), "num_warps": 4},
        ),
    )  # fmt: skip
    etf, state = etf_forward(centers, paper, dtype)
    return partial.sum(), etf, state


def center_etf_backward(
    centers: Tensor, one: Rows, other: Rows | None, etf: Tensor, state: EtfState, grad_center: Tensor,
    grad_etf: Tensor, paper: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    """Gradients of both features [B, D] and of centers [K, D], in their types."""
    acc, classes = triton_type(etf.dtype), centers.shape[0]
    features, labels, weight = joined(one, other, etf.dtype)
    labels = labels.contiguous()
    rows, width = features.shape
    key = layout(features), layout(labels), layout(centers), etf.dtype, paper
    strides = *features.stride(), *centers.stride()
    first = one.features.shape[0]
    d_one = features_gradient(centers, one.features, labels[:first], weight[:first], grad_center)
    d_other = None
    if other is not None:
        d_other = features_gradient(centers, other.features, labels[first:], weight[first:], grad_center)
    dv, partial = etf_backward(centers, state, paper)
    by_product = rows * classes <= ONEHOT
    bk, bd = tile(classes, 64, etf.dtype), tile(width, 128, etf.dtype)
    programs = (ceil_div(classes, bk) if by_product else classes) * ceil_div(width, bd)
    splits = max(1, min(ceil_div(rows, 64), PROGRAMS // programs))
    shares = torch.empty(
        (splits, classes, width), dtype=centers.dtype if splits == 1 else etf.dtype, device=centers.device
    )
    if by_product:
        span = ceil_div(ceil_div(rows, splits), 32) * 32
        launch(
            tiles._centers_onehot_kernel, key,
            (features, labels, weight, centers, grad_center, grad_etf, etf, dv, partial, shares),
            lambda: Plan(
                (ceil_div(classes, bk), ceil_div(width, bd), splits), (rows, classes, width, span, *strides),
                {"SPANS": partial.shape[0], "PAPER": paper, "EXACT": precision(etf, False) == "ieee", "ACC": acc,
                 "BB": 32, "BK": bk, "BD": bd, "num_warps": 8, "num_stages": 2},
            ),
        )  # fmt: skip
    else:
        known = labels.clamp(-1, classes).masked_fill(weight == 0, -1)  # rows that do not count come first
        ordered, order = known.to(torch.int32).sort(stable=True)  # int32: a radix sort in half the passes
        bounds = torch.searchsorted(ordered, torch.arange(classes + 1, dtype=torch.int32, device=ordered.device))
        launch(
            tiles._centers_sorted_kernel, key,
            (features, weight, order, bounds, centers, grad_center, grad_etf, etf, dv, partial, shares),
            lambda: Plan(
                (classes, ceil_div(width, bd), splits), (classes, width, *strides),
                {"SPANS": partial.shape[0], "PAPER": paper, "ACC": acc, "BB": 16, "BD": bd, "num_warps": 4},
            ),
        )  # fmt: skip
    d_centers = shares[0] if splits == 1 else shares.sum(0).to(centers.dtype)
    return d_one, d_other, d_centers


def features_gradient(
    centers: Tensor, features: Tensor, labels: Tensor, weight: Tensor, grad_center: Tensor
) -> Tensor:  # fmt: skip
    """Gradient [B, D] of one set of rows, in their type."""
    rows, width = features.shape
    out = torch.empty(features.shape, dtype=features.dtype, device=features.device)
    bd = tile(width, 128)
    launch(
        tiles._features_bwd_kernel, (*map(layout, (centers, features, labels, weight)),),
        (features, labels, weight, centers, grad_center, out),
        lambda: Plan(
            (ceil_div(rows, 16), ceil_div(width, bd)),
            (rows, centers.shape[0], width, *features.stride(), *centers.stride()),
            {"ACC": triton_type(weight.dtype), "BB": 16, "BD": bd, "num_warps": 4},
        ),
    )  # fmt: skip
    return out
