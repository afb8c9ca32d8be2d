"""Centre + ETF kernels for up to 16 centres: one launch forward, one launch backward at a paper's batch sizes.

Legend: B rows, K centres, D features; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers. There
are two sets of rows, a and b (labelled and confident, say), each with a mask and a divisor of its own.

With V the centred centres, r_k = 1/|v_k|, u_k = r_k v_k, c_kt = u_k.u_t and w_kt = c_kt + 1/(K-1) (released: c_kt) for
k != t, 0 for k = t, the gradient of the ETF term is linear in V:

    dV = f M V,   M_kt = r_k w_kt r_t,   M_kk = -r_k^2 (sum over t of w_kt c_kt),   dH = dV - mean over k of dV

with f = 4 (released: 2 / etf). Forward stores the K-by-K matrix M, so that backward splits over feature columns.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.center_etf.reference import Rows
from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, power_of_two, triton_type

MAX_CENTERS = 16
ROWS = 16  # of a block
SPAN = 256  # rows of each set that one forward program takes: up to there the losses need no further launch
PAIR_ELEMENTS = 1 << 15  # of the products of all pairs of centres over a block of columns
PROGRAMS = 2048
"""Backward programs to aim at where the rows are many: enough loads under way to fill the memory of an H200."""


@triton.jit
def _etf(
    p_centers, p_etf, p_matrix, D, centers_row, centers_column, K: tl.constexpr, PAPER: tl.constexpr,
    ACC: tl.constexpr, EPS: tl.constexpr, KP: tl.constexpr, DB: tl.constexpr,
):  # fmt: skip
    """The ETF term and M, from the products of all pairs of centred centres."""
    o_k = tl.arange(0, KP)
    b_gram = tl.zeros([KP, KP], ACC)
    mean_square = tl.zeros([], ACC)
    for start in range(0, D, DB):
        o_d = start + tl.arange(0, DB).to(tl.int64)
        m = (o_k < K)[:, None] & (o_d < D)[None, :]
        p_block = p_centers + o_k.to(tl.int64)[:, None] * centers_row + o_d[None, :] * centers_column
        b_h = tl.load(p_block, mask=m, other=0.0).to(ACC)
        b_mean = tl.sum(b_h, axis=0) / K
        b_v = tl.where(m, b_h - b_mean[None, :], 0.0)
        mean_square += tl.sum(b_mean * b_mean)
        b_gram += tl.sum(b_v[:, None, :] * b_v[None, :, :], axis=2)
    m_itself = o_k[:, None] == o_k[None, :]
    b_r = _inverse_length(tl.sum(tl.where(m_itself, b_gram, 0.0), axis=1), mean_square, EPS)
    b_r_t = _inverse_length(tl.sum(tl.where(m_itself, b_gram, 0.0), axis=0), mean_square, EPS)
    b_cosine = b_gram * (b_r[:, None] * b_r_t[None, :])
    shift = tl.full((), 1.0 / (K - 1), ACC)
    m_both = (o_k < K)[:, None] & (o_k < K)[None, :]
    # the diagonal is masked, not subtracted: near the optimum the difference would be all rounding
    b_w = tl.where(m_both & ~m_itself, b_cosine + shift if PAPER else b_cosine, 0.0)
    b_own = tl.sum(b_w * b_cosine, axis=1)
    b_m = tl.where(m_itself, -(b_own * b_r * b_r)[:, None], b_w * (b_r[:, None] * b_r_t[None, :]))
    tl.store(p_matrix + o_k[:, None] * K + o_k[None, :], b_m, mask=m_both)
    pairs = tl.sum(b_w * b_w)
    tl.store(p_etf, pairs if PAPER else tl.sqrt(pairs + K * shift * shift))


@triton.jit
def _inverse_length(b_square, mean_square, EPS: tl.constexpr):
    """1 / length; 0 for a centre that is the mean up to rounding: it has no direction, and no gradient through it."""
    alive = b_square > (8 * EPS) * (8 * EPS) * mean_square
    return tl.where(alive, 1.0 / tl.sqrt(tl.where(alive, b_square, 1.0)), 0.0)


@triton.jit
def _labels(p_labels, p_mask, o_row, end, labels_step, mask_step, K: tl.constexpr, HAS_MASK: tl.constexpr):
    """Labels of a block of rows, -1 where the row does not count, and whether a counting label is out of range."""
    m_row = o_row < end
    if HAS_MASK:
        m_row = m_row & (tl.load(p_mask + o_row * mask_step, mask=m_row, other=0) != 0)
    b_label = tl.load(p_labels + o_row * labels_step, mask=m_row, other=-1).to(tl.int64)
    wrong = m_row & ((b_label < 0) | (b_label >= K))
    return tl.where(m_row & (wrong == 0), b_label, -1), wrong


@triton.jit
def _divisor(p_divisor, divisor, BY_TENSOR: tl.constexpr, ACC: tl.constexpr):
    if BY_TENSOR:
        return tl.load(p_divisor).to(ACC)
    else:
        return tl.full((), divisor, ACC)


@triton.jit
def _distance(
    p_features, p_labels, p_centers, p_mask, first, end, D, features_row, features_column, labels_step, centers_row,
    centers_column, mask_step, K: tl.constexpr, HAS_MASK: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr,
    DB: tl.constexpr,
):  # fmt: skip
    """Half the sum of squared distances of the rows from first to end."""
    b_sum = tl.zeros([ROWS], ACC)
    for start in range(first, end, ROWS):
        o_row = (start + tl.arange(0, ROWS)).to(tl.int64)
        b_label, wrong = _labels(p_labels, p_mask, o_row, end, labels_step, mask_step, K, HAS_MASK)
        # a label outside [0, K) makes the loss NaN instead of reading another tensor's memory
        b_sum = tl.where(wrong, float("nan"), b_sum)
        p_row = p_features + o_row * features_row
        p_own = p_centers + b_label * centers_row
        for column in range(0, D, DB):
            o_d = column + tl.arange(0, DB).to(tl.int64)
            m = (b_label >= 0)[:, None] & (o_d < D)[None, :]
            b_x = tl.load(p_row[:, None] + o_d[None, :] * features_column, mask=m, other=0.0).to(ACC)
            b_h = tl.load(p_own[:, None] + o_d[None, :] * centers_column, mask=m, other=0.0).to(ACC)
            b_sum += tl.sum((b_x - b_h) * (b_x - b_h), axis=1)
    return 0.5 * tl.sum(b_sum)


@triton.jit(do_not_specialize=["B_A", "B_B"])
def _center_etf_fwd_kernel(
    p_centers,  # [K, D]
    p_features_a,  # [B, D] of set a
    p_labels_a,  # [B] integers
    p_mask_a,  # [B] bool, read only with HAS_MASK
    p_divisor_a,  # [], read only with BY_TENSOR
    p_features_b,  # the same of set b
    p_labels_b,
    p_mask_b,
    p_divisor_b,
    p_partial,  # [L] the centre loss of each program's rows
    p_etf,  # [] the ETF term
    p_matrix,  # [K, K] M
    divisor_a: tl.float64,
    divisor_b: tl.float64,
    B_A,
    B_B,
    D,
    centers_row,
    centers_column,
    features_row_a,
    features_column_a,
    labels_step_a,
    mask_step_a,
    features_row_b,
    features_column_b,
    labels_step_b,
    mask_step_b,
    K: tl.constexpr,
    PAPER: tl.constexpr,
    HAS_MASK_A: tl.constexpr,
    BY_TENSOR_A: tl.constexpr,
    HAS_B: tl.constexpr,
    HAS_MASK_B: tl.constexpr,
    BY_TENSOR_B: tl.constexpr,
    ACC: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    KP: tl.constexpr,
    PAIR_BLOCK: tl.constexpr,
    DB: tl.constexpr,
):
    if tl.program_id(0) == 0:
        _etf(p_centers, p_etf, p_matrix, D, centers_row, centers_column, K, PAPER, ACC, EPS, KP, PAIR_BLOCK)
    else:
        i = tl.program_id(0) - 1
        first = i * SPAN
        loss = _distance(
            p_features_a, p_labels_a, p_centers, p_mask_a, first, tl.minimum(first + SPAN, B_A), D, features_row_a,
            features_column_a, labels_step_a, centers_row, centers_column, mask_step_a, K, HAS_MASK_A, ACC, ROWS, DB,
        ) / _divisor(p_divisor_a, divisor_a, BY_TENSOR_A, ACC)  # fmt: skip
        if HAS_B:
            loss += _distance(
                p_features_b, p_labels_b, p_centers, p_mask_b, first, tl.minimum(first + SPAN, B_B), D, features_row_b,
                features_column_b, labels_step_b, centers_row, centers_column, mask_step_b, K, HAS_MASK_B, ACC, ROWS,
                DB,
            ) / _divisor(p_divisor_b, divisor_b, BY_TENSOR_B, ACC)  # fmt: skip
        tl.store(p_partial + i, loss)


@triton.jit
def _pull(
    p_features, p_labels, p_centers, p_mask, p_dfeatures, weight, b_dh, o_k, o_d, first, end, D, features_row,
    features_column, labels_step, centers_row, centers_column, mask_step, K: tl.constexpr, HAS_MASK: tl.constexpr,
    ACC: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the rows from first to end in columns o_d; the centres' [KP, columns], less these rows'."""
    m_d = o_d < D
    for start in range(first, end, ROWS):
        o_row = (start + tl.arange(0, ROWS)).to(tl.int64)
        b_label, _ = _labels(p_labels, p_mask, o_row, end, labels_step, mask_step, K, HAS_MASK)
        m = (b_label >= 0)[:, None] & m_d[None, :]
        p_row = p_features + o_row[:, None] * features_row + o_d[None, :] * features_column
        p_own = p_centers + b_label[:, None] * centers_row + o_d[None, :] * centers_column
        b_offset = tl.load(p_row, mask=m, other=0.0).to(ACC) - tl.load(p_own, mask=m, other=0.0).to(ACC)
        b_offset *= weight
        tl.store(p_dfeatures + o_row[:, None] * D + o_d[None, :], b_offset, mask=(o_row < end)[:, None] & m_d[None, :])
        own = b_label[None, :, None] == o_k[:, None, None]
        b_dh -= tl.sum(tl.where(own, b_offset[None, :, :], 0.0), axis=1)
    return b_dh


@triton.jit(do_not_specialize=["B_A", "B_B", "span"])
def _center_etf_bwd_kernel(
    p_centers,  # [K, D]
    p_features_a,  # [B, D] of set a
    p_labels_a,  # [B] integers
    p_mask_a,  # [B] bool, read only with HAS_MASK
    p_divisor_a,  # [], read only with BY_TENSOR
    p_features_b,  # the same of set b
    p_labels_b,
    p_mask_b,
    p_divisor_b,
    p_etf,  # [] the ETF term
    p_matrix,  # [K, K] M
    p_grad_center,  # [] incoming gradient of the centre loss
    p_grad_etf,  # [] incoming gradient of the ETF term
    p_dfeatures_a,  # [B, D]
    p_dfeatures_b,
    p_dcenters,  # [S, K, D] share of each span of rows
    divisor_a: tl.float64,
    divisor_b: tl.float64,
    B_A,
    B_B,
    span,
    D,
    centers_row,
    centers_column,
    features_row_a,
    features_column_a,
    labels_step_a,
    mask_step_a,
    features_row_b,
    features_column_b,
    labels_step_b,
    mask_step_b,
    K: tl.constexpr,
    PAPER: tl.constexpr,
    HAS_MASK_A: tl.constexpr,
    BY_TENSOR_A: tl.constexpr,
    HAS_B: tl.constexpr,
    HAS_MASK_B: tl.constexpr,
    BY_TENSOR_B: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    KP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    o_d = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    i_s = tl.program_id(1)
    o_k = tl.arange(0, KP)
    m_k = (o_k < K)[:, None] & (o_d < D)[None, :]
    b_dh = tl.zeros([KP, COLUMNS], ACC)
    if i_s == 0:
        p_block = p_centers + o_k.to(tl.int64)[:, None] * centers_row + o_d[None, :] * centers_column
        b_h = tl.load(p_block, mask=m_k, other=0.0).to(ACC)
        b_mean = tl.sum(b_h, axis=0) / K
        for t in tl.static_range(K):
            b_m = tl.load(p_matrix + o_k * K + t, mask=o_k < K, other=0.0)
            b_t = tl.load(p_centers + t * centers_row + o_d * centers_column, mask=o_d < D, other=0.0).to(ACC)
            b_dh += b_m[:, None] * (b_t - b_mean)[None, :]
        factor = tl.load(p_grad_etf) * (4.0 if PAPER else 2.0 / tl.load(p_etf))
        b_dh = factor * (b_dh - (tl.sum(b_dh, axis=0) / K)[None, :])
    first = i_s * span
    incoming = tl.load(p_grad_center)
    weight = incoming / _divisor(p_divisor_a, divisor_a, BY_TENSOR_A, ACC)
    b_dh = _pull(
        p_features_a, p_labels_a, p_centers, p_mask_a, p_dfeatures_a, weight, b_dh, o_k, o_d, first,
        tl.minimum(first + span, B_A), D, features_row_a, features_column_a, labels_step_a, centers_row,
        centers_column, mask_step_a, K, HAS_MASK_A, ACC, ROWS,
    )  # fmt: skip
    if HAS_B:
        weight = incoming / _divisor(p_divisor_b, divisor_b, BY_TENSOR_B, ACC)
        b_dh = _pull(
            p_features_b, p_labels_b, p_centers, p_mask_b, p_dfeatures_b, weight, b_dh, o_k, o_d, first,
            tl.minimum(first + span, B_B), D, features_row_b, features_column_b, labels_step_b, centers_row,
            centers_column, mask_step_b, K, HAS_MASK_B, ACC, ROWS,
        )  # fmt: skip
    p_out = p_dcenters + i_s.to(tl.int64) * (K * D) + o_k.to(tl.int64)[:, None] * D + o_d[None, :]
    tl.store(p_out, b_dh, mask=m_k)


def fits(centers: Tensor) -> bool:
    """Whether the centres are few enough for these kernels; `tiles.py` takes the rest."""
    return centers.shape[0] <= MAX_CENTERS


class Launchable:
    """Two sets of rows as the kernels take them; a missing one is stood in for by the other, and not read."""

    def __init__(self, centers: Tensor, one: Rows, other: Rows | None) -> None:
        both = one, one if other is None else other
        self.tensors: list[Tensor] = [centers]
        self.divisors: list[float] = []
        self.strides: list[int] = []
        self.flags: list[bool] = []
        for rows in both:
            mask = rows.labels if rows.mask is None else rows.mask
            by_tensor, number = (rows.divisor, 1.0) if isinstance(rows.divisor, Tensor) else (centers, rows.divisor)
            self.tensors += [rows.features, rows.labels, mask, by_tensor]
            self.divisors.append(number)
            self.strides += [*rows.features.stride(), rows.labels.stride(0), mask.stride(0)]
            self.flags += [rows.mask is not None, isinstance(rows.divisor, Tensor)]
        self.flags.insert(2, other is not None)
        self.counts = one.features.shape[0], 0 if other is None else other.features.shape[0]

    def constants(self, centers: Tensor, paper: bool, dtype: torch.dtype) -> dict[str, Any]:
        """What both kernels are compiled with."""
        names = "HAS_MASK_A", "BY_TENSOR_A", "HAS_B", "HAS_MASK_B", "BY_TENSOR_B"
        classes = centers.shape[0]
        return dict(zip(names, self.flags, strict=True)) | {
            "K": classes, "PAPER": paper, "ACC": triton_type(dtype), "ROWS": ROWS, "KP": power_of_two(classes),
        }  # fmt: skip


def center_etf_forward(centers: Tensor, one: Rows, other: Rows | None, paper: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(centre loss [], ETF term [], M [K, K]): one launch, and a sum where a set has more than `SPAN` rows."""
    dtype = accumulate_dtype(centers, one.features)
    classes, width = centers.shape
    sets = Launchable(centers, one, other)
    programs = max(1, ceil_div(max(sets.counts), SPAN))
    partial = torch.empty(programs if programs > 1 else (), dtype=dtype, device=centers.device)
    etf = torch.empty((), dtype=dtype, device=centers.device)
    matrix = torch.empty((classes, classes), dtype=dtype, device=centers.device)

    def plan() -> Plan:
        columns = power_of_two(classes)
        options = {
            "EPS": torch.finfo(dtype).eps, "SPAN": SPAN, "DB": min(512, power_of_two(width)),
            "PAIR_BLOCK": min(512, power_of_two(width), PAIR_ELEMENTS // columns**2 * 4 // dtype.itemsize),
            "num_warps": 8,
        }  # fmt: skip
        scalars = *sets.counts, width, *centers.stride(), *sets.strides
        return Plan((1 + programs,), scalars, sets.constants(centers, paper, dtype) | options)

    launch(
        _center_etf_fwd_kernel,
        (*map(layout, sets.tensors), *sets.flags, paper),
        (*sets.tensors, partial, etf, matrix, *sets.divisors),
        plan,
    )
    return partial.sum() if programs > 1 else partial, etf, matrix


def center_etf_backward(
    centers: Tensor, one: Rows, other: Rows | None, etf: Tensor, matrix: Tensor, grad_center: Tensor,
    grad_etf: Tensor, paper: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    """Gradients of both features [B, D] and of centers [K, D], in their types: one launch, and a sum for many rows."""
    dtype = etf.dtype
    width = centers.shape[1]
    sets = Launchable(centers, one, other)
    columns = min(32, power_of_two(width))
    blocks = ceil_div(width, columns)
    most = max(sets.counts)
    spans = 1 if most <= 2 * SPAN else min(ceil_div(most, 2 * SPAN), max(1, PROGRAMS // blocks))
    d_one = torch.empty(one.features.shape, dtype=one.features.dtype, device=centers.device)
    d_other = d_one if other is None else torch.empty(
        other.features.shape, dtype=other.features.dtype, device=centers.device
    )  # fmt: skip
    shares = torch.empty(
        (spans, *centers.shape), dtype=centers.dtype if spans == 1 else dtype, device=centers.device
    )  # fmt: skip

    def plan() -> Plan:
        span = ceil_div(ceil_div(most, spans), ROWS) * ROWS
        scalars = *sets.counts, span, width, *centers.stride(), *sets.strides
        options = {"COLUMNS": columns, "num_warps": 4}
        return Plan((blocks, spans), scalars, sets.constants(centers, paper, dtype) | options)

    launch(
        _center_etf_bwd_kernel,
        (*map(layout, sets.tensors), *sets.flags, paper),
        (*sets.tensors, etf, matrix, grad_center, grad_etf, d_one, d_other, shares, *sets.divisors),
        plan,
    )
    d_centers = shares[0] if spans == 1 else shares.sum(0).to(centers.dtype)
    return d_one, None if other is None else d_other, d_centers
