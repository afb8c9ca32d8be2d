"""Contrast of any number of samples, tile by tile: three kernels, memory O(N D), no atomics.

Rows are normalised once; each program then owns a tile of rows of one view and walks over the tiles of both views. A
tile of the same samples is special: its diagonal is the anchor itself (same view) or its positive (other view).

Legend: N samples, D features padded to DP; view 0 is a, view 1 is b; logits are cosines / temperature in units of
log 2; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype, launch, target, triton_type
from ferbench.kernels.info_nce.tiles import large_tiles, operand_dtype, padded_features, product

# A cosine is at most 1, so 1 / temperature bounds every logit and no running maximum is needed, as long as the smallest
# term exp(-2 / temperature) stays a normal float32.
STATIC_BOUND = 0.03
MAX_FEATURES = 8192


@triton.jit(do_not_specialize=["N"])
def _unit_kernel(
    p_x,  # [N, D], one view
    p_mask,  # [N] uint8, read only with HAS_MASK
    p_unit,  # [N, DP] rows at length 1; zeros for rows left out and beyond D
    p_inverse,  # [N] 1 / length, 0 for zero rows and rows left out
    N,
    D,
    x_row,
    x_feature,
    mask_step,
    HAS_MASK: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    DP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_feature = tl.arange(0, COLUMNS).to(tl.int64)
    m_row = o_row < N
    m_kept = m_row
    if HAS_MASK:
        m_kept = m_row & (tl.load(p_mask + o_row * mask_step, mask=m_row, other=0) != 0)
    p_in = p_x + o_row[:, None] * x_row + o_feature[None, :] * x_feature
    b_x = tl.load(p_in, mask=m_kept[:, None] & (o_feature < D)[None, :], other=0.0).to(ACC)
    b_largest = tl.max(tl.abs(b_x), axis=1)
    b_top = tl.where(b_largest > 0.0, b_largest, 1.0)
    b_x = b_x / b_top[:, None]
    b_square = tl.sum(b_x * b_x, axis=1)
    b_inverse = tl.where(b_square == 0.0, 0.0, 1.0 / tl.sqrt(tl.where(b_square == 0.0, 1.0, b_square)))
    p_out = p_unit + o_row[:, None] * DP + o_feature[None, :]
    tl.store(p_out, b_x * b_inverse[:, None], mask=m_row[:, None] & (o_feature < DP)[None, :])
    tl.store(p_inverse + o_row, b_inverse / b_top, mask=m_row)


@triton.jit
def _tile_cosines(
    b_own, p_own, p_unit, o_i, o_j, m_i, m_j,
    ACC: tl.constexpr, PRECISION: tl.constexpr, DP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[TILE, TILE] cosines of own rows o_i with rows o_j of the view at p_unit, and the last block of those rows."""
    o_f = tl.arange(0, BLOCK).to(tl.int64)[None, :]
    b_cos = tl.zeros((TILE, TILE), ACC)
    b_other = b_own
    for i_block in tl.static_range(DP // BLOCK):
        if DP > BLOCK:
            b_own = tl.load(p_own + o_i[:, None] * DP + i_block * BLOCK + o_f, mask=m_i[:, None], other=0.0)
        b_other = tl.load(p_unit + o_j[:, None] * DP + i_block * BLOCK + o_f, mask=m_j[:, None], other=0.0)
        b_cos = tl.dot(b_own, tl.trans(b_other), b_cos, input_precision=PRECISION, out_dtype=ACC)
    return b_cos, b_other


@triton.jit
def _kept(p_mask, mask_step, o_row, N, HAS_MASK: tl.constexpr):
    m_row = o_row < N
    if HAS_MASK:
        m_row = m_row & (tl.load(p_mask + o_row * mask_step, mask=m_row, other=0) != 0)
    return m_row


@triton.jit(do_not_specialize=["N"])
def _lse_kernel(
    p_unit,  # [2, N, DP]
    p_mask,  # [N] uint8, read only with HAS_MASK
    p_lse,  # [2, N] log2 of the denominator
    p_terms,  # [2, N] loss of each anchor, 0 where left out
    N,
    mask_step,
    scale: tl.float64,  # log2(e) / temperature
    HAS_MASK: tl.constexpr,
    STATIC: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    DP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    to_logit = tl.full((), scale, ACC)
    i_tile = tl.program_id(0)
    i_view = tl.program_id(1)
    size = N.to(tl.int64) * DP
    p_own = p_unit + i_view * size
    o_i = i_tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    m_i = _kept(p_mask, mask_step, o_i, N, HAS_MASK)
    o_f = tl.arange(0, BLOCK).to(tl.int64)[None, :]
    b_own = tl.load(p_own + o_i[:, None] * DP + o_f, mask=m_i[:, None], other=0.0)

    b_max = tl.full((TILE,), 1.0 if STATIC else -2.0, ACC) * to_logit
    b_sum = tl.zeros((TILE,), ACC)
    b_pair = tl.zeros((TILE,), ACC)
    for i_other in range(2):
        for i_step in range(tl.cdiv(N, TILE)):
            o_j = (i_step * TILE + tl.arange(0, TILE)).to(tl.int64)
            m_j = _kept(p_mask, mask_step, o_j, N, HAS_MASK)
            b_cos, _ = _tile_cosines(
                b_own, p_own, p_unit + i_other * size, o_i, o_j, m_i, m_j, ACC, PRECISION, DP, TILE, BLOCK
            )  # fmt: skip
            # one vector carries the bound and the mask, which leaves one multiply-add per cosine
            b_logit = b_cos * to_logit + tl.where(m_j, 0.0, float("-inf")).to(ACC)[None, :]
            if i_step == i_tile:
                m_same = o_i[:, None] == o_j[None, :]
                if i_other == i_view:
                    b_logit = tl.where(m_same, float("-inf"), b_logit)
                else:
                    b_pair += tl.sum(tl.where(m_same, b_cos * to_logit, 0.0), axis=1)
            if not STATIC:
                b_new = tl.maximum(b_max, tl.max(b_logit, axis=1))
                b_sum = b_sum * tl.exp2(b_max - b_new)
                b_max = b_new
            b_sum += tl.sum(tl.exp2(b_logit - b_max[:, None]), axis=1)
    b_lse = b_max + tl.log2(tl.where(m_i, b_sum, 1.0))
    o_out = i_view * N.to(tl.int64) + o_i
    tl.store(p_lse + o_out, b_lse, mask=o_i < N)
    tl.store(p_terms + o_out, tl.where(m_i, (b_lse - b_pair) * 0.6931471805599453, 0.0), mask=o_i < N)


@triton.jit(do_not_specialize=["N"])
def _grad_kernel(
    p_unit,  # [2, N, DP]
    p_inverse,  # [2, N]
    p_lse,  # [2, N]; infinite, hence probability 0, for rows that anchor nothing
    p_mask,  # [N] uint8, read only with HAS_MASK
    p_factor,  # [] incoming gradient / (anchors * temperature)
    p_grad,  # [2, N, D], contiguous
    N,
    D,
    mask_step,
    scale: tl.float64,  # log2(e) / temperature
    SYMMETRIC: tl.constexpr,
    HAS_MASK: tl.constexpr,
    STATIC: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    DP: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    to_logit = tl.full((), scale, ACC)
    i_tile = tl.program_id(0)
    i_view = tl.program_id(1)
    o_out = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)[None, :]
    size = N.to(tl.int64) * DP
    p_own = p_unit + i_view * size
    o_i = i_tile.to(tl.int64) * TILE + tl.arange(0, TILE)
    m_i = _kept(p_mask, mask_step, o_i, N, HAS_MASK)
    b_own = tl.load(p_own + o_i[:, None] * DP + o_out, mask=m_i[:, None], other=0.0)
    b_lse_i = tl.load(p_lse + i_view * N.to(tl.int64) + o_i, mask=m_i, other=float("inf"))
    if STATIC:
        b_rate_i = tl.exp2(to_logit - b_lse_i)
    b_along = tl.zeros((TILE,), ACC)
    b_du = tl.zeros((TILE, BLOCK), ACC)

    # of two rows of which neither is an anchor no cosine enters the loss
    for i_other in range(2 if SYMMETRIC else 2 - i_view):
        p_other = p_unit + i_other * size
        for i_step in range(tl.cdiv(N, TILE)):
            o_j = (i_step * TILE + tl.arange(0, TILE)).to(tl.int64)
            m_j = _kept(p_mask, mask_step, o_j, N, HAS_MASK)
            b_cos, b_other = _tile_cosines(
                b_own, p_own, p_other, o_i, o_j, m_i, m_j, ACC, PRECISION, DP, TILE, BLOCK
            )  # fmt: skip
            b_lse_j = tl.load(p_lse + i_other * N.to(tl.int64) + o_j, mask=m_j, other=float("inf"))
            # dL/dcos_ij = (p_ij + p_ji) / temperature, p_ij = exp(logit_ij - lse_i), less the positives
            b_logit = b_cos * to_logit + tl.where(m_j, 0.0, float("-inf")).to(ACC)[None, :]
            if STATIC:
                b_rate_j = tl.exp2(to_logit - b_lse_j)
                b_weight = tl.exp2(b_logit - to_logit) * (b_rate_i[:, None] + b_rate_j[None, :])
            else:
                b_weight = tl.exp2(b_logit - b_lse_i[:, None]) + tl.exp2(b_logit - b_lse_j[None, :])
            if i_step == i_tile:
                m_same = o_i[:, None] == o_j[None, :]
                if i_other == i_view:
                    b_weight = tl.where(m_same, 0.0, b_weight)
                else:
                    b_weight -= tl.where(m_same & m_i[:, None], 2.0 if SYMMETRIC else 1.0, 0.0)
            b_along += tl.sum(b_weight * b_cos, axis=1)
            if DP > BLOCK:
                b_other = tl.load(p_other + o_j[:, None] * DP + o_out, mask=m_j[:, None], other=0.0)
            b_du = tl.dot(b_weight.to(b_other.dtype), b_other, b_du, input_precision=PRECISION, out_dtype=ACC)

    # through the normalisation: dx = (du - u (u . du)) / |x|
    b_inverse = tl.load(p_inverse + i_view * N.to(tl.int64) + o_i, mask=o_i < N, other=0.0)
    b_grad = (b_du - b_along[:, None] * b_own.to(ACC)) * (tl.load(p_factor) * b_inverse)[:, None]
    p_out = p_grad + (i_view * N.to(tl.int64) + o_i)[:, None] * D + o_out
    tl.store(p_out, tl.where(b_inverse[:, None] == 0.0, 0.0, b_grad), mask=(o_i < N)[:, None] & (o_out < D))


def tile_options(unit: Tensor) -> dict[str, object]:
    """The compile-time part of a tile launch over `unit` [2, N, DP]."""
    padded, machine = unit.shape[2], target(unit.device)
    tiles = large_tiles(unit.dtype, padded, machine)
    return {
        "ACC": triton_type(accumulate_dtype(unit)),
        "PRECISION": product(unit.dtype, machine),
        "DP": padded,
        "TILE": tiles.tile,
        "BLOCK": tiles.block,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def large_forward(
    a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss [], and for the backward: unit rows [2, N, DP], 1 / lengths [2, N], log-sum-exps [2, N], 1 / anchors []."""
    samples, features = a.shape
    if features > MAX_FEATURES:
        raise ValueError(f'info_nce: at most {MAX_FEATURES} features in Triton, got {features}; use impl="reference"')
    dtype = accumulate_dtype(a)
    padded = padded_features(features)
    columns = triton.next_power_of_2(padded)
    views = 2 if symmetric else 1
    unit = torch.empty((2, samples, padded), dtype=operand_dtype(a), device=a.device)
    inverse = torch.empty((2, samples), dtype=dtype, device=a.device)
    lse = torch.full((2, samples), torch.inf, dtype=dtype, device=a.device)
    terms = torch.empty((views, samples), dtype=dtype, device=a.device)
    options = tile_options(unit)
    kept = unit if mask is None else mask.view(torch.uint8)
    rows = max(1, 2048 // columns)
    for i_view, view in enumerate((a, b)):
        launch(
            _unit_kernel, (triton.cdiv(samples, rows),), view, kept, unit[i_view], inverse[i_view], samples, features,
            *view.stride(), kept.stride(0), HAS_MASK=mask is not None, ACC=options["ACC"], ROWS=rows, DP=padded,
            COLUMNS=columns, num_warps=4,
        )  # fmt: skip
    launch(
        _lse_kernel, (triton.cdiv(samples, options["TILE"]), views), unit, kept, lse, terms, samples, kept.stride(0),
        math.log2(math.e) / temperature, HAS_MASK=mask is not None, STATIC=temperature >= STATIC_BOUND,
        **options,
    )  # fmt: skip
    count = torch.full((), samples, dtype=dtype, device=a.device) if mask is None else mask.sum(dtype=dtype)
    share = torch.where(count >= 2, 1.0 / (views * count.clamp(min=1)), 0.0)
    return terms.sum() * share, unit, inverse, lse, share


def large_backward(
    grad: Tensor, unit: Tensor, inverse: Tensor, lse: Tensor, share: Tensor, mask: Tensor | None,
    features: int, dtype: torch.dtype, temperature: float, symmetric: bool,
) -> Tensor:  # fmt: skip
    """Gradient [2, N, D] of both views in `dtype` from that of the loss []."""
    samples, padded = unit.shape[1:]
    options = tile_options(unit)
    out = torch.empty((2, samples, features), dtype=dtype, device=unit.device)
    kept = unit if mask is None else mask.view(torch.uint8)
    grid = (triton.cdiv(samples, options["TILE"]), 2, padded // options["BLOCK"])
    launch(
        _grad_kernel, grid, unit, inverse, lse, kept, grad * share / temperature, out, samples, features, kept.stride(0),
        math.log2(math.e) / temperature, SYMMETRIC=symmetric, HAS_MASK=mask is not None,
        STATIC=temperature >= STATIC_BOUND, **options,
    )  # fmt: skip
    return out
