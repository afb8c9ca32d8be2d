"""Centre + ETF kernels beyond paper size: tiles over rows, centres and features, nothing of size B-by-K.

Legend as in `kernel.py`; J blocks of feature columns. The ETF term has two forms (see `reference.py`):

    K <= 2D:  pair matrix W [K, K], w_kt = c_kt + shift off the diagonal;     dU = W U
    K >  2D:  Gram matrix G [D, D] = Ut U and the column sum s = sum of u;    dU = U G + shift s

and in both dv_k = r_k (dU_k - (dU_k . u_k) u_k). Every output has one owner, so a second run gives the same bits.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_unit(p_centers, p_mean, p_r, o_k, o_d, K, D, row, column, ACC: tl.constexpr):
    """Block [k, d] of the centred, normalised centres, zero outside."""
    m = (o_k < K)[:, None] & (o_d < D)[None, :]
    b_h = tl.load(p_centers + o_k[:, None] * row + o_d[None, :] * column, mask=m, other=0.0).to(ACC)
    b_mean = tl.load(p_mean + o_d, mask=o_d < D, other=0.0)
    b_r = tl.load(p_r + o_k, mask=o_k < K, other=0.0)
    return tl.where(m, (b_h - b_mean[None, :]) * b_r[:, None], 0.0)


@triton.jit(do_not_specialize=["K"])
def _direction_kernel(
    p_centers,  # [K, D]
    p_mean,  # [D]
    p_r,  # [K] 1 / length, 0 for a centre without direction
    K,
    D,
    row,
    column,
    ACC: tl.constexpr,
    EPS: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    o_k = tl.program_id(0).to(tl.int64) * BK + tl.arange(0, BK)
    b_square = tl.zeros([BK], ACC)
    mean_square = tl.zeros([], ACC)
    for start in range(0, D, BD):
        o_d = start + tl.arange(0, BD).to(tl.int64)
        m = (o_k < K)[:, None] & (o_d < D)[None, :]
        b_h = tl.load(p_centers + o_k[:, None] * row + o_d[None, :] * column, mask=m, other=0.0).to(ACC)
        b_mean = tl.load(p_mean + o_d, mask=o_d < D, other=0.0)
        mean_square += tl.sum(b_mean * b_mean)
        b_v = tl.where(m, b_h - b_mean[None, :], 0.0)
        b_square += tl.sum(b_v * b_v, axis=1)
    # a centre that is the mean up to rounding has no direction
    alive = b_square > (8 * EPS) * (8 * EPS) * mean_square
    tl.store(p_r + o_k, tl.where(alive, 1.0 / tl.sqrt(tl.where(alive, b_square, 1.0)), 0.0), mask=o_k < K)


@triton.jit(do_not_specialize=["K"])
def _pairs_kernel(
    p_centers,  # [K, D]
    p_mean,  # [D]
    p_r,  # [K]
    p_pairs,  # [K, K] W
    p_partial,  # [blocks of k, blocks of t] sum of w^2 over the tile
    shift: tl.float64,
    K,
    D,
    row,
    column,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    i_k, i_t = tl.program_id(0), tl.program_id(1)
    o_k = i_k.to(tl.int64) * BK + tl.arange(0, BK)
    o_t = i_t.to(tl.int64) * BK + tl.arange(0, BK)
    b_cosine = tl.zeros([BK, BK], ACC)
    for start in range(0, D, BD):
        o_d = start + tl.arange(0, BD).to(tl.int64)
        b_k = _load_unit(p_centers, p_mean, p_r, o_k, o_d, K, D, row, column, ACC)
        b_t = _load_unit(p_centers, p_mean, p_r, o_t, o_d, K, D, row, column, ACC)
        b_cosine = tl.dot(b_k, tl.trans(b_t), b_cosine, input_precision=PRECISION, out_dtype=ACC)
    m = (o_k < K)[:, None] & (o_t < K)[None, :]
    b_w = tl.where(m & (o_k[:, None] != o_t[None, :]), b_cosine + tl.full((), shift, ACC), 0.0)
    tl.store(p_pairs + o_k[:, None] * K + o_t[None, :], b_w, mask=m)
    tl.store(p_partial + i_k * tl.num_programs(1) + i_t, tl.sum(b_w * b_w))


@triton.jit(do_not_specialize=["K", "span"])
def _gram_kernel(
    p_centers,  # [K, D]
    p_mean,  # [D]
    p_r,  # [K]
    p_gram,  # [S, D, D] Gram matrix of each span of centres
    p_total,  # [S, D] column sum of each span
    K,
    D,
    span,
    row,
    column,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    i, j, i_s = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if i <= j:
        o_i = i.to(tl.int64) * BD + tl.arange(0, BD)
        o_j = j.to(tl.int64) * BD + tl.arange(0, BD)
        b_gram = tl.zeros([BD, BD], ACC)
        b_total = tl.zeros([BD], ACC)
        for start in range(0, span, BK):
            o_k = i_s * span + start + tl.arange(0, BK)
            b_i = _load_unit(p_centers, p_mean, p_r, o_k, o_i, K, D, row, column, ACC)
            b_j = _load_unit(p_centers, p_mean, p_r, o_k, o_j, K, D, row, column, ACC)
            b_gram = tl.dot(tl.trans(b_i), b_j, b_gram, input_precision=PRECISION, out_dtype=ACC)
            b_total += tl.sum(b_j, axis=0)
        p_span = p_gram + i_s * D * D
        m = (o_i < D)[:, None] & (o_j < D)[None, :]
        tl.store(p_span + o_i[:, None] * D + o_j[None, :], b_gram, mask=m)
        if i < j:
            tl.store(p_span + o_i[:, None] + o_j[None, :] * D, b_gram, mask=m)
        else:
            tl.store(p_total + i_s * D + o_j, b_total, mask=o_j < D)


@triton.jit(do_not_specialize=["K"])
def _apply_kernel(
    p_centers,  # [K, D]
    p_mean,  # [D]
    p_r,  # [K]
    p_matrix,  # [K, K] W or [D, D] G
    p_total,  # [D] column sum, read only with GRAM
    p_du,  # [K, D] dU
    p_along,  # [K, J] dU . u over this block of columns
    shift: tl.float64,
    K,
    D,
    row,
    column,
    GRAM: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    BR: tl.constexpr,
):
    i_j = tl.program_id(1)
    o_k = tl.program_id(0).to(tl.int64) * BK + tl.arange(0, BK)
    o_d = i_j.to(tl.int64) * BD + tl.arange(0, BD)
    b_du = tl.zeros([BK, BD], ACC)
    if GRAM:
        for start in range(0, D, BR):
            o_r = start + tl.arange(0, BR).to(tl.int64)
            b_unit = _load_unit(p_centers, p_mean, p_r, o_k, o_r, K, D, row, column, ACC)
            m = (o_r < D)[:, None] & (o_d < D)[None, :]
            b_g = tl.load(p_matrix + o_r[:, None] * D + o_d[None, :], mask=m, other=0.0)
            b_du = tl.dot(b_unit, b_g, b_du, input_precision=PRECISION, out_dtype=ACC)
        b_du += (tl.full((), shift, ACC) * tl.load(p_total + o_d, mask=o_d < D, other=0.0))[None, :]
    else:
        for start in range(0, K, BR):
            o_r = start + tl.arange(0, BR).to(tl.int64)
            m = (o_k < K)[:, None] & (o_r < K)[None, :]
            b_w = tl.load(p_matrix + o_k[:, None] * K + o_r[None, :], mask=m, other=0.0)
            b_unit = _load_unit(p_centers, p_mean, p_r, o_r, o_d, K, D, row, column, ACC)
            b_du = tl.dot(b_w, b_unit, b_du, input_precision=PRECISION, out_dtype=ACC)
    b_own = _load_unit(p_centers, p_mean, p_r, o_k, o_d, K, D, row, column, ACC)
    tl.store(p_along + o_k * tl.num_programs(1) + i_j, tl.sum(b_du * b_own, axis=1), mask=o_k < K)
    tl.store(p_du + o_k[:, None] * D + o_d[None, :], b_du, mask=(o_k < K)[:, None] & (o_d < D)[None, :])


@triton.jit(do_not_specialize=["K", "span"])
def _project_kernel(
    p_centers,  # [K, D]
    p_mean,  # [D]
    p_r,  # [K]
    p_along,  # [K, J] dU . u by blocks of columns
    p_du,  # [K, D] dU in, dV out
    p_partial,  # [S, D] sum of dV over each span of centres
    K,
    D,
    span,
    row,
    column,
    J: tl.constexpr,
    JP: tl.constexpr,
    ACC: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    o_j = tl.arange(0, JP)
    i_s = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1).to(tl.int64) * BD + tl.arange(0, BD)
    b_sum = tl.zeros([BD], ACC)
    for start in range(0, span, BK):
        o_k = i_s * span + start + tl.arange(0, BK)
        m = (o_k < K)[:, None] & (o_d < D)[None, :]
        b_unit = _load_unit(p_centers, p_mean, p_r, o_k, o_d, K, D, row, column, ACC)
        b_r = tl.load(p_r + o_k, mask=o_k < K, other=0.0)
        m_j = (o_k < K)[:, None] & (o_j < J)[None, :]
        b_along = tl.sum(tl.load(p_along + o_k[:, None] * J + o_j[None, :], mask=m_j, other=0.0), axis=1)
        p_block = p_du + o_k[:, None] * D + o_d[None, :]
        b_dv = b_r[:, None] * (tl.load(p_block, mask=m, other=0.0) - b_along[:, None] * b_unit)
        tl.store(p_block, b_dv, mask=m)
        b_sum += tl.sum(b_dv, axis=0)
    tl.store(p_partial + i_s * D + o_d, b_sum, mask=o_d < D)


@triton.jit
def _labels(p_labels, p_weight, o_b, B, K):
    """Labels and weights of a block of rows, label -1 where the row does not count; and whether one is out of range."""
    b_weight = tl.load(p_weight + o_b, mask=o_b < B, other=0.0)
    counts = b_weight != 0.0
    b_label = tl.load(p_labels + o_b, mask=counts, other=-1).to(tl.int64)
    wrong = counts & ((b_label < 0) | (b_label >= K))
    return tl.where(wrong, -1, b_label), b_weight, wrong


@triton.jit
def _offsets(p_features, p_centers, b_label, m_row, o_b, o_d, D, features_row, features_column, row, column, ACC):
    """Block [b, d] of x - h, zero where a row does not count."""
    m = m_row[:, None] & (o_d < D)[None, :]
    p_x = p_features + o_b[:, None] * features_row + o_d[None, :] * features_column
    p_h = p_centers + b_label[:, None] * row + o_d[None, :] * column
    return tl.load(p_x, mask=m, other=0.0).to(ACC) - tl.load(p_h, mask=m, other=0.0).to(ACC)


@triton.jit(do_not_specialize=["B", "K"])
def _distance_kernel(
    p_features,  # [B, D]
    p_labels,  # [B] integers
    p_weight,  # [B], 0 where the row does not count
    p_centers,  # [K, D]
    p_partial,  # [blocks of rows] half the weighted sum of |x - h|^2
    B,
    K,
    D,
    features_row,
    features_column,
    row,
    column,
    ACC: tl.constexpr,
    BB: tl.constexpr,
    BD: tl.constexpr,
):
    o_b = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB)
    b_label, b_weight, wrong = _labels(p_labels, p_weight, o_b, B, K)
    # a label outside [0, K) makes the loss NaN instead of reading another tensor's memory
    b_sum = tl.where(wrong, float("nan"), tl.zeros([BB], ACC))
    for start in range(0, D, BD):
        o_d = start + tl.arange(0, BD).to(tl.int64)
        b_offset = _offsets(
            p_features, p_centers, b_label, b_label >= 0, o_b, o_d, D, features_row, features_column, row, column, ACC
        )
        b_sum += tl.sum(b_offset * b_offset, axis=1)
    tl.store(p_partial + tl.program_id(0), 0.5 * tl.sum(b_weight * b_sum))


@triton.jit(do_not_specialize=["B", "K"])
def _features_bwd_kernel(
    p_features,  # [B, D]
    p_labels,  # [B] integers
    p_weight,  # [B], 0 where the row does not count
    p_centers,  # [K, D]
    p_grad_center,  # [] incoming gradient of the centre loss
    p_dfeatures,  # [B, D]
    B,
    K,
    D,
    features_row,
    features_column,
    row,
    column,
    ACC: tl.constexpr,
    BB: tl.constexpr,
    BD: tl.constexpr,
):
    o_b = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB)
    o_d = tl.program_id(1).to(tl.int64) * BD + tl.arange(0, BD)
    b_label, b_weight, _ = _labels(p_labels, p_weight, o_b, B, K)
    b_offset = _offsets(
        p_features, p_centers, b_label, b_label >= 0, o_b, o_d, D, features_row, features_column, row, column, ACC
    )
    p_out = p_dfeatures + o_b[:, None] * D + o_d[None, :]
    b_weight = (b_weight * tl.load(p_grad_center))[:, None]
    tl.store(p_out, b_weight * b_offset, mask=(o_b < B)[:, None] & (o_d < D)[None, :])


@triton.jit
def _add_dv(b_dh, p_dv, p_spans, p_etf, p_grad_etf, o_k, o_d, K, D, SPANS: tl.constexpr, PAPER: tl.constexpr):
    """The centres' gradient [k, d] plus the ETF term's: dV less its mean over the centres, summed from its spans."""
    m_d = o_d < D
    b_dmean = tl.zeros_like(tl.sum(b_dh, axis=0))
    for i in range(SPANS):
        b_dmean += tl.load(p_spans + i * D + o_d, mask=m_d, other=0.0)
    m = (o_k < K)[:, None] & m_d[None, :]
    b_dv = tl.load(p_dv + o_k[:, None] * D + o_d[None, :], mask=m, other=0.0) - (b_dmean / K)[None, :]
    return b_dh + tl.load(p_grad_etf) * (4.0 if PAPER else 2.0 / tl.load(p_etf)) * b_dv


@triton.jit
def _add_by_class(b_one, b_x, b_sum, EXACT: tl.constexpr):
    """b_sum + onehot . x: float32 in three bfloat16 parts, which are all of it, as onehot is exact in any type."""
    if EXACT:
        b_sum = tl.dot(b_one.to(b_x.dtype), b_x, b_sum, input_precision="ieee", out_dtype=b_sum.dtype)
    else:
        b_one = b_one.to(tl.bfloat16)
        b_high = b_x.to(tl.bfloat16)
        b_x -= b_high.to(tl.float32)
        b_middle = b_x.to(tl.bfloat16)
        b_low = (b_x - b_middle.to(tl.float32)).to(tl.bfloat16)
        b_sum = tl.dot(b_one, b_low, b_sum)
        b_sum = tl.dot(b_one, b_middle, b_sum)
        b_sum = tl.dot(b_one, b_high, b_sum)
    return b_sum


@triton.jit(do_not_specialize=["B", "K", "span"])
def _centers_onehot_kernel(
    p_features,  # [B, D]
    p_labels,  # [B] integers
    p_weight,  # [B], 0 where the row does not count
    p_centers,  # [K, D]
    p_grad_center,  # [] incoming gradient of the centre loss
    p_grad_etf,  # [] incoming gradient of the ETF term
    p_etf,  # [] the ETF term
    p_dv,  # [K, D] dV
    p_spans,  # [SPANS, D] sum of dV over each span of centres
    p_dcenters,  # [S, K, D] share of each span of rows
    B,
    K,
    D,
    span,
    features_row,
    features_column,
    row,
    column,
    SPANS: tl.constexpr,
    PAPER: tl.constexpr,
    EXACT: tl.constexpr,
    ACC: tl.constexpr,
    BB: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    o_k = tl.program_id(0).to(tl.int64) * BK + tl.arange(0, BK)
    o_d = tl.program_id(1).to(tl.int64) * BD + tl.arange(0, BD)
    i_s = tl.program_id(2).to(tl.int64)
    incoming = tl.load(p_grad_center)
    b_sum = tl.zeros([BK, BD], ACC)
    for start in range(0, span, BB):
        o_b = i_s * span + start + tl.arange(0, BB)
        b_label, b_weight, _ = _labels(p_labels, p_weight, o_b, B, K)
        b_one = o_k[:, None] == b_label[None, :]
        # rows of other centres are not read: over all blocks of centres each row is read once
        b_label -= tl.program_id(0).to(tl.int64) * BK
        m_row = (b_label >= 0) & (b_label < BK)
        p_block = p_centers + tl.program_id(0).to(tl.int64) * BK * row
        b_offset = _offsets(
            p_features, p_block, b_label, m_row, o_b, o_d, D, features_row, features_column, row, column, ACC
        )
        b_sum = _add_by_class(b_one, b_offset * (b_weight * incoming)[:, None], b_sum, EXACT)
    b_dh = -b_sum
    if i_s == 0:
        b_dh = _add_dv(b_dh, p_dv, p_spans, p_etf, p_grad_etf, o_k, o_d, K, D, SPANS, PAPER)
    m = (o_k < K)[:, None] & (o_d < D)[None, :]
    tl.store(p_dcenters + (i_s * K + o_k[:, None]) * D + o_d[None, :], b_dh, mask=m)


@triton.jit(do_not_specialize=["K"])
def _centers_sorted_kernel(
    p_features,  # [B, D]
    p_weight,  # [B]
    p_order,  # [B] rows sorted by label
    p_bounds,  # [K + 1] where each label's rows begin in p_order
    p_centers,  # [K, D]
    p_grad_center,  # [] incoming gradient of the centre loss
    p_grad_etf,  # [] incoming gradient of the ETF term
    p_etf,  # [] the ETF term
    p_dv,  # [K, D] dV
    p_spans,  # [SPANS, D] sum of dV over each span of centres
    p_dcenters,  # [S, K, D] share of each split
    K,
    D,
    features_row,
    features_column,
    row,
    column,
    SPANS: tl.constexpr,
    PAPER: tl.constexpr,
    ACC: tl.constexpr,
    BB: tl.constexpr,
    BD: tl.constexpr,
):
    i_k = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1).to(tl.int64) * BD + tl.arange(0, BD)
    i_s, splits = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    m_d = o_d < D
    first, last = tl.load(p_bounds + i_k), tl.load(p_bounds + i_k + 1)
    share = (last - first + splits - 1) // splits
    begin = first + i_s * share
    end = tl.minimum(begin + share, last)
    b_h = tl.load(p_centers + i_k * row + o_d * column, mask=m_d, other=0.0).to(ACC)
    b_sum = tl.zeros([1, BD], ACC)
    for start in range(begin, end, BB):
        o_b = start + tl.arange(0, BB)
        o_row = tl.load(p_order + o_b, mask=o_b < end, other=0)
        b_weight = tl.load(p_weight + o_row, mask=o_b < end, other=0.0)
        m = (o_b < end)[:, None] & m_d[None, :]
        p_x = p_features + o_row[:, None] * features_row + o_d[None, :] * features_column
        b_offset = tl.where(m, b_h[None, :] - tl.load(p_x, mask=m, other=0.0).to(ACC), 0.0)
        b_sum += tl.sum(b_weight[:, None] * b_offset, axis=0)[None, :]
    b_dh = tl.load(p_grad_center) * b_sum
    o_k = i_k + tl.arange(0, 1)
    if i_s == 0:
        b_dh = _add_dv(b_dh, p_dv, p_spans, p_etf, p_grad_etf, o_k, o_d, K, D, SPANS, PAPER)
    tl.store(p_dcenters + (i_s * K + o_k[:, None]) * D + o_d[None, :], b_dh, mask=m_d[None, :])
