"""Centre + ETF kernels for paper-sized batches: one launch forward, one launch backward.

Legend: B rows, K centres, D features; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.

With V the centred centres, r_k = 1/|v_k|, u_k = r_k v_k, c_kt = u_k.u_t and w_kt = c_kt + 1/(K-1) (released: c_kt) for
k != t, 0 for k = t, the gradient of the ETF term is linear in V:

    dV = f M V,   M_kt = r_k w_kt r_t,   M_kk = -r_k^2 (sum over t of w_kt c_kt),   dH = dV - mean over k of dV

with f = 4 (released: 2 / etf). Forward stores the K-by-K matrix M, so that backward splits over feature columns.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype, launch, triton_type

ROWS = 16  # of a backward block
ROWS_BY_COLUMNS = 4096  # of a forward block: the largest that spills under none of the Tritons tried
MAX_CENTERS = 16
MAX_CENTER_BLOCK = 8192
MAX_FEATURES = 1 << 17


@triton.jit
def _etf(p_centers, p_etf, p_matrix, K, D, centers_row, centers_column, PAPER, ACC, EPS, KP, DP):
    """The ETF term and M, from all centres in registers."""
    o_k = tl.arange(0, KP)
    o_d = tl.arange(0, DP)
    m_k = o_k < K
    m = m_k[:, None] & (o_d < D)[None, :]
    p_block = p_centers + o_k.to(tl.int64)[:, None] * centers_row + o_d.to(tl.int64)[None, :] * centers_column
    b_h = tl.load(p_block, mask=m, other=0.0).to(ACC)
    b_mean = tl.sum(b_h, axis=0) / K
    b_v = tl.where(m, b_h - b_mean[None, :], 0.0)
    b_square = tl.sum(b_v * b_v, axis=1)
    # a centre that is the mean up to rounding has no direction: u = 0 and no gradient through it
    alive = b_square > (8 * EPS) * (8 * EPS) * tl.sum(b_mean * b_mean)
    b_r = tl.where(alive, 1.0 / tl.sqrt(tl.where(alive, b_square, 1.0)), 0.0)
    b_u = b_v * b_r[:, None]

    shift = 1.0 / tl.maximum(K - 1, 1).to(ACC)
    b_pairs = tl.zeros([KP], ACC)
    b_own = tl.zeros([KP], ACC)
    for t in range(K):
        b_cosine = tl.sum(b_u * tl.sum(tl.where((o_k == t)[:, None], b_u, 0.0), axis=0)[None, :], axis=1)
        # the diagonal is masked, not subtracted: near the optimum the difference would be all rounding
        b_w = tl.where(m_k & (o_k != t), b_cosine + shift if PAPER else b_cosine, 0.0)
        b_pairs += b_w * b_w
        b_own += b_w * b_cosine
        r_t = tl.sum(tl.where(o_k == t, b_r, 0.0))
        tl.store(p_matrix + o_k * K + t, b_r * b_w * r_t, mask=m_k & (o_k != t))
    tl.store(p_matrix + o_k * K + o_k, -b_own * b_r * b_r, mask=m_k)
    pairs = tl.sum(b_pairs)
    tl.store(p_etf, pairs if PAPER else tl.sqrt(pairs + K * shift * shift))


@triton.jit
def _kept(p_labels, p_mask, o_row, B, K, labels_step, mask_step, HAS_MASK):
    """Labels of a block of rows, -1 where the row does not count, and whether a counting label is out of range."""
    m_row = o_row < B
    if HAS_MASK:
        m_row = m_row & (tl.load(p_mask + o_row * mask_step, mask=m_row, other=0) != 0)
    b_label = tl.load(p_labels + o_row * labels_step, mask=m_row, other=-1).to(tl.int64)
    wrong = m_row & ((b_label < 0) | (b_label >= K))
    return tl.where(m_row & (wrong == 0), b_label, -1), m_row, wrong


@triton.jit(do_not_specialize=["B", "K"])
def _center_etf_fwd_kernel(
    p_features,  # [B, D]
    p_labels,  # [B] integers
    p_centers,  # [K, D]
    p_mask,  # [B] uint8, read only with HAS_MASK
    p_center,  # [] the centre loss
    p_etf,  # [] the ETF term
    p_scale,  # [] 1 / kept rows, or 1: what backward multiplies the centre term by
    p_matrix,  # [K, K] M
    B,
    K,
    D,
    features_row,
    features_column,
    labels_step,
    centers_row,
    centers_column,
    mask_step,
    PAPER: tl.constexpr,
    MEAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    ACC: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    KP: tl.constexpr,
    DP: tl.constexpr,
):
    if tl.program_id(0) == 0:
        _etf(p_centers, p_etf, p_matrix, K, D, centers_row, centers_column, PAPER, ACC, EPS, KP, DP)
    else:
        o_d = tl.arange(0, DP).to(tl.int64)
        b_sum = tl.zeros([ROWS], ACC)
        b_count = tl.zeros([ROWS], tl.int32)
        for start in range(0, B, ROWS):
            o_row = start + tl.arange(0, ROWS).to(tl.int64)
            b_label, kept, wrong = _kept(p_labels, p_mask, o_row, B, K, labels_step, mask_step, HAS_MASK)
            m = (b_label >= 0)[:, None] & (o_d < D)[None, :]
            p_row = p_features + o_row[:, None] * features_row + o_d[None, :] * features_column
            p_own = p_centers + b_label[:, None] * centers_row + o_d[None, :] * centers_column
            b_offset = tl.load(p_row, mask=m, other=0.0).to(ACC) - tl.load(p_own, mask=m, other=0.0).to(ACC)
            # a label outside [0, K) makes the loss NaN instead of reading another tensor's memory
            b_sum += tl.where(wrong, float("nan"), tl.sum(b_offset * b_offset, axis=1))
            b_count += kept.to(tl.int32)
        count = tl.maximum(tl.sum(b_count), 1).to(ACC)
        scale = 1.0 / count if MEAN else tl.full((), 1.0, ACC)
        tl.store(p_center, 0.5 * tl.sum(b_sum) * scale)
        tl.store(p_scale, scale)


@triton.jit(do_not_specialize=["B", "K"])
def _center_etf_bwd_kernel(
    p_features,  # [B, D]
    p_labels,  # [B] integers
    p_centers,  # [K, D]
    p_mask,  # [B] uint8, read only with HAS_MASK
    p_etf,  # [] the ETF term
    p_scale,  # []
    p_matrix,  # [K, K] M
    p_grad_center,  # [] incoming gradient of the centre loss
    p_grad_etf,  # [] incoming gradient of the ETF term
    p_dfeatures,  # [B, D]
    p_dcenters,  # [K, D]
    B,
    K,
    D,
    features_row,
    features_column,
    labels_step,
    centers_row,
    centers_column,
    mask_step,
    PAPER: tl.constexpr,
    HAS_MASK: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    KP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    o_d = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    o_k = tl.arange(0, KP)
    m_d = o_d < D
    m_k = (o_k < K)[:, None] & m_d[None, :]
    p_block = p_centers + o_k.to(tl.int64)[:, None] * centers_row + o_d[None, :] * centers_column
    b_h = tl.load(p_block, mask=m_k, other=0.0).to(ACC)
    b_v = tl.where(m_k, b_h - (tl.sum(b_h, axis=0) / K)[None, :], 0.0)
    b_dv = tl.zeros([KP, COLUMNS], ACC)
    for t in range(K):
        b_m = tl.load(p_matrix + o_k * K + t, mask=o_k < K, other=0.0)
        b_dv += b_m[:, None] * tl.sum(tl.where((o_k == t)[:, None], b_v, 0.0), axis=0)[None, :]
    factor = tl.load(p_grad_etf) * (4.0 if PAPER else 2.0 / tl.load(p_etf))
    b_dh = factor * (b_dv - (tl.sum(b_dv, axis=0) / K)[None, :])

    scale = tl.load(p_grad_center) * tl.load(p_scale)
    for start in range(0, B, ROWS):
        o_row = start + tl.arange(0, ROWS).to(tl.int64)
        b_label, kept, wrong = _kept(p_labels, p_mask, o_row, B, K, labels_step, mask_step, HAS_MASK)
        m = (b_label >= 0)[:, None] & m_d[None, :]
        p_row = p_features + o_row[:, None] * features_row + o_d[None, :] * features_column
        p_own = p_centers + b_label[:, None] * centers_row + o_d[None, :] * centers_column
        b_offset = tl.load(p_row, mask=m, other=0.0).to(ACC) - tl.load(p_own, mask=m, other=0.0).to(ACC)
        b_offset *= scale
        tl.store(p_dfeatures + o_row[:, None] * D + o_d[None, :], b_offset, mask=(o_row < B)[:, None] & m_d[None, :])
        own = b_label[None, :, None] == o_k[:, None, None]
        b_dh -= tl.sum(tl.where(own, b_offset[None, :, :], 0.0), axis=1)
    tl.store(p_dcenters + o_k.to(tl.int64)[:, None] * D + o_d[None, :], b_dh, mask=m_k)


def fits(features: Tensor, centers: Tensor) -> bool:
    """Whether the inputs are small enough for these kernels; `tiles.py` takes the rest."""
    block = triton.next_power_of_2(centers.shape[0]) * triton.next_power_of_2(centers.shape[1])
    return centers.shape[0] <= MAX_CENTERS and block <= MAX_CENTER_BLOCK and features.numel() <= MAX_FEATURES


def center_etf_forward(
    features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, paper: bool, mean: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(centre loss [], ETF term [], scale [], M [K, K]) in one launch; shapes as in `ferbench.kernels`."""
    dtype = accumulate_dtype(features, centers)
    center, etf, scale = (torch.empty((), dtype=dtype, device=features.device) for _ in range(3))
    classes, width = centers.shape
    matrix = torch.empty((classes, classes), dtype=dtype, device=features.device)
    kept = labels if mask is None else mask.view(torch.uint8)
    columns = triton.next_power_of_2(width)
    rows = max(4, min(16, ROWS_BY_COLUMNS // columns))
    launch(
        _center_etf_fwd_kernel, (2,),
        features, labels, centers, kept, center, etf, scale, matrix, features.shape[0], classes, width,
        *features.stride(), labels.stride(0), *centers.stride(), kept.stride(0),
        PAPER=paper, MEAN=mean, HAS_MASK=mask is not None, ACC=triton_type(dtype), EPS=torch.finfo(dtype).eps,
        ROWS=rows, KP=triton.next_power_of_2(classes), DP=columns, num_warps=8,
    )  # fmt: skip
    return center, etf, scale, matrix


def center_etf_backward(
    features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None,
    etf: Tensor, scale: Tensor, matrix: Tensor, grad_center: Tensor, grad_etf: Tensor, paper: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of features [B, D] and centers [K, D], in their types, in one launch."""
    classes, width = centers.shape
    d_features = torch.empty(features.shape, dtype=features.dtype, device=features.device)
    d_centers = torch.empty(centers.shape, dtype=centers.dtype, device=features.device)
    kept = labels if mask is None else mask.view(torch.uint8)
    columns = min(32, triton.next_power_of_2(width))
    launch(
        _center_etf_bwd_kernel, (triton.cdiv(width, columns),),
        features, labels, centers, kept, etf, scale, matrix, grad_center, grad_etf, d_features, d_centers,
        features.shape[0], classes, width,
        *features.stride(), labels.stride(0), *centers.stride(), kept.stride(0),
        PAPER=paper, HAS_MASK=mask is not None, ACC=triton_type(etf.dtype),
        ROWS=ROWS, KP=triton.next_power_of_2(classes), COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return d_features, d_centers
