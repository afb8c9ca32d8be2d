"""Contrast of any number of samples, tile by tile: three kernels, memory O(N D), no atomics.

Rows are normalised once; each program then owns a tile of rows of one view and walks over the tiles of both views. A
tile of the same samples is special: its diagonal is the anchor itself (same view) or its positive (other view).

Legend: N samples, D features padded to DP; view 0 is a, view 1 is b; logits are cosines / temperature in units of
log 2; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.contrast.tiles import large_tiles, mask_numbers, product
from ferbench.kernels.contrast.unit import normalise
from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, target, triton_type

# A cosine is at most 1, so 1 / temperature bounds every logit and no running maximum is needed, as long as the smallest
# term exp(-2 / temperature) stays a normal float32.
STATIC_BOUND = 0.03


@triton.jit
def _load_tile(p_view, start, N, column, DP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """[ROWS, BLOCK] of unit rows from `start` on, features from `column` on; 64-bit base, 32-bit offsets inside."""
    o_row = tl.arange(0, ROWS)
    p = p_view + start.to(tl.int64) * DP + column
    return tl.load(
        p + o_row[:, None] * DP + tl.arange(0, BLOCK)[None, :], mask=(start + o_row < N)[:, None], other=0.0
    )  # fmt: skip


@triton.jit
def _tile_cosines(
    b_own, p_own, p_view, own, start, N,
    ACC: tl.constexpr, PRECISION: tl.constexpr, DP: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """[OWN, OTHER] cosines of own rows with the rows of p_view from `start` on, and those rows' last block."""
    if DP == BLOCK:
        b_other = _load_tile(p_view, start, N, 0, DP, OTHER, BLOCK)
        b_cos = tl.dot(b_own, tl.trans(b_other), input_precision=PRECISION, out_dtype=ACC)
    else:
        b_cos = tl.zeros((OWN, OTHER), ACC)
        b_other = _load_tile(p_view, start, N, 0, DP, OTHER, BLOCK)
        for column in range(0, DP, BLOCK):
            b_left = _load_tile(p_own, own, N, column, DP, OWN, BLOCK)
            b_other = _load_tile(p_view, start, N, column, DP, OTHER, BLOCK)
            b_cos = tl.dot(b_left, tl.trans(b_other), b_cos, input_precision=PRECISION, out_dtype=ACC)
    return b_cos, b_other


@triton.jit
def _kept(p_mask, mask_step, start, N, ROWS: tl.constexpr, HAS_MASK: tl.constexpr):
    """Which rows from `start` on exist and take part."""
    o_row = start + tl.arange(0, ROWS)
    m_row = o_row < N
    if HAS_MASK:
        m_row = m_row & (tl.load(p_mask + o_row.to(tl.int64) * mask_step, mask=m_row, other=0) != 0)
    return m_row


@triton.jit
def _same_sample(own, start, OWN: tl.constexpr, OTHER: tl.constexpr):
    return (own + tl.arange(0, OWN))[:, None] == (start + tl.arange(0, OTHER))[None, :]


@triton.jit
def _elsewhere(i_step, own, OWN: tl.constexpr, OTHER: tl.constexpr):
    """First row of the i-th tile that holds none of the own samples."""
    start = i_step * OTHER
    return start + (start >= own).to(tl.int32) * OWN


@triton.jit
def _bar(p_mask, mask_step, start, N, to_logit, ROWS: tl.constexpr, HAS_MASK: tl.constexpr, STATIC: tl.constexpr):
    """What is added to the logits with the rows from `start` on: -inf for one left out, and less the bound if static.

    The bound is subtracted here, and nowhere else: cosine * scale + bar is one instruction.
    """
    kept = _kept(p_mask, mask_step, start, N, ROWS, HAS_MASK)
    return tl.where(kept, -to_logit if STATIC else 0.0, float("-inf")).to(to_logit.dtype)


@triton.jit
def _add_exponentials(b_logit, b_max, b_sum, STATIC: tl.constexpr):
    """Fold [OWN, OTHER] logits into each row's maximum and sum; logits less a static bound into the sum alone."""
    if STATIC:
        b_sum += tl.sum(tl.exp2(b_logit), axis=1)
    else:
        b_new = tl.maximum(b_max, tl.max(b_logit, axis=1))
        b_sum = b_sum * tl.exp2(b_max - b_new) + tl.sum(tl.exp2(b_logit - b_new[:, None]), axis=1)
        b_max = b_new
    return b_max, b_sum


@triton.jit(do_not_specialize=["N", "views"])
def _lse_kernel(
    p_unit,  # [2, N, DP]
    p_mask,  # [N] uint8 (float64 beside float64), read only with HAS_MASK
    p_lse,  # [2, N] log2 of the denominator; with STATIC bound / denominator, which is all that backward needs
    p_terms,  # [1 or 2, N] loss of each anchor, 0 where left out
    scale: tl.float64,  # log2(e) / temperature
    N,
    views,  # 2; known to the compiler, it would unroll the loops over views and spill
    mask_step,
    HAS_MASK: tl.constexpr,
    STATIC: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    DP: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    to_logit = tl.full((), scale, ACC)
    i_tile = tl.program_id(0)
    i_view = tl.program_id(1)
    own = i_tile * OWN
    p_own = p_unit + i_view * (N.to(tl.int64) * DP)
    b_own = _load_tile(p_own, own, N, 0, DP, OWN, BLOCK)
    b_max = tl.full((OWN,), 1.0 if STATIC else -2.0, ACC) * to_logit
    b_sum = tl.zeros((OWN,), ACC)
    for i_other in range(views):
        p_view = p_unit + i_other * (N.to(tl.int64) * DP)
        for i_step in range(tl.cdiv(N, OTHER) - tl.cdiv(tl.minimum(N - own, OWN), OTHER)):
            start = _elsewhere(i_step, own, OWN, OTHER)
            b_cos, _ = _tile_cosines(b_own, p_own, p_view, own, start, N, ACC, PRECISION, DP, OWN, OTHER, BLOCK)
            b_bar = _bar(p_mask, mask_step, start, N, to_logit, OTHER, HAS_MASK, STATIC)
            b_max, b_sum = _add_exponentials(b_cos * to_logit + b_bar[None, :], b_max, b_sum, STATIC)

    # the tiles of the same samples: the diagonal is the anchor itself, or its positive
    m_own = _kept(p_mask, mask_step, own, N, OWN, HAS_MASK)
    b_pair = tl.zeros((OWN,), ACC)
    for i_other in range(views):
        p_view = p_unit + i_other * (N.to(tl.int64) * DP)
        for i_step in range(tl.cdiv(tl.minimum(N - own, OWN), OTHER)):
            start = own + i_step * OTHER
            b_cos, _ = _tile_cosines(b_own, p_own, p_view, own, start, N, ACC, PRECISION, DP, OWN, OTHER, BLOCK)
            b_bar = _bar(p_mask, mask_step, start, N, to_logit, OTHER, HAS_MASK, STATIC)
            m_same = _same_sample(own, start, OWN, OTHER)
            b_pair += tl.sum(tl.where(m_same & (i_other != i_view), b_cos * to_logit, 0.0), axis=1)
            b_logit = tl.where(m_same & (i_other == i_view), float("-inf"), b_cos * to_logit + b_bar[None, :])
            b_max, b_sum = _add_exponentials(b_logit, b_max, b_sum, STATIC)

    b_lse = b_max + tl.log2(tl.where(m_own, b_sum, 1.0))
    o_own = own + tl.arange(0, OWN)
    o_out = i_view * N.to(tl.int64) + o_own
    b_kept = tl.where(m_own, tl.exp2(b_max - b_lse), 0.0) if STATIC else b_lse
    tl.store(p_lse + o_out, b_kept, mask=o_own < N)
    tl.store(p_terms + o_out, tl.where(m_own, (b_lse - b_pair) * 0.6931471805599453, 0.0), mask=o_own < N)


@triton.jit
def _probabilities(b_logit, b_own, b_other, STATIC: tl.constexpr):
    """p_ij + p_ji, p_ij = exp(logit_ij) / denominator_i; one exponential does for both where a bound keeps it in range.

    b_own, b_other: what forward kept of the denominators of the rows i and j.
    """
    if STATIC:
        b_sum = tl.exp2(b_logit) * (b_own[:, None] + b_other[None, :])
    else:
        b_sum = tl.exp2(b_logit - b_own[:, None]) + tl.exp2(b_logit - b_other[None, :])
    return b_sum


@triton.jit(do_not_specialize=["N", "views"])
def _grad_kernel(
    p_unit,  # [2, N, DP]
    p_inverse,  # [2, N]
    p_lse,  # [2, N] as forward kept it; of rows that anchor nothing what makes the probability 0
    p_mask,  # [N] uint8 (float64 beside float64), read only with HAS_MASK
    p_factor,  # [] incoming gradient / (anchors * temperature)
    p_grad,  # [2, N, D], contiguous
    scale: tl.float64,  # log2(e) / temperature
    N,
    D,
    views,  # 2; known to the compiler, it would unroll the loops over views and spill
    mask_step,
    SYMMETRIC: tl.constexpr,
    HAS_MASK: tl.constexpr,
    STATIC: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    DP: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    to_logit = tl.full((), scale, ACC)
    i_tile = tl.program_id(0)
    i_view = tl.program_id(1)
    column = tl.program_id(2) * BLOCK
    own = i_tile * OWN
    o_own = tl.arange(0, OWN)
    o_other = tl.arange(0, OTHER)
    p_own = p_unit + i_view * (N.to(tl.int64) * DP)
    b_own = _load_tile(p_own, own, N, column, DP, OWN, BLOCK)
    m_own = _kept(p_mask, mask_step, own, N, OWN, HAS_MASK)
    none: tl.constexpr = 0.0 if STATIC else float("inf")
    b_lse_i = tl.load(p_lse + i_view * N.to(tl.int64) + own + o_own, mask=m_own, other=none)
    b_along = tl.zeros((OWN,), ACC)
    b_du = tl.zeros((OWN, BLOCK), ACC)
    # dL/dcos_ij = (p_ij + p_ji) / temperature, less the positives; no cosine of two rows that are no anchors enters
    for i_other in range(views if SYMMETRIC else views - i_view):
        p_view = p_unit + i_other * (N.to(tl.int64) * DP)
        for i_step in range(tl.cdiv(N, OTHER) - tl.cdiv(tl.minimum(N - own, OWN), OTHER)):
            start = _elsewhere(i_step, own, OWN, OTHER)
            b_cos, b_other = _tile_cosines(b_own, p_own, p_view, own, start, N, ACC, PRECISION, DP, OWN, OTHER, BLOCK)
            if DP > BLOCK:
                b_other = _load_tile(p_view, start, N, column, DP, OTHER, BLOCK)
            m_j = _kept(p_mask, mask_step, start, N, OTHER, HAS_MASK)
            b_lse_j = tl.load(p_lse + i_other * N.to(tl.int64) + start + o_other, mask=m_j, other=none)
            b_bar = _bar(p_mask, mask_step, start, N, to_logit, OTHER, HAS_MASK, STATIC)
            b_weight = _probabilities(b_cos * to_logit + b_bar[None, :], b_lse_i, b_lse_j, STATIC)
            if DP > BLOCK:
                b_along += tl.sum(b_weight * b_cos, axis=1)
            b_du = tl.dot(b_weight.to(b_other.dtype), b_other, b_du, input_precision=PRECISION, out_dtype=ACC)

    # the tiles of the same samples: the diagonal is the anchor itself, or its positive
    for i_other in range(views if SYMMETRIC else views - i_view):
        p_view = p_unit + i_other * (N.to(tl.int64) * DP)
        for i_step in range(tl.cdiv(tl.minimum(N - own, OWN), OTHER)):
            start = own + i_step * OTHER
            b_cos, b_other = _tile_cosines(b_own, p_own, p_view, own, start, N, ACC, PRECISION, DP, OWN, OTHER, BLOCK)
            if DP > BLOCK:
                b_other = _load_tile(p_view, start, N, column, DP, OTHER, BLOCK)
            m_j = _kept(p_mask, mask_step, start, N, OTHER, HAS_MASK)
            b_lse_j = tl.load(p_lse + i_other * N.to(tl.int64) + start + o_other, mask=m_j, other=none)
            m_same = _same_sample(own, start, OWN, OTHER)
            b_bar = _bar(p_mask, mask_step, start, N, to_logit, OTHER, HAS_MASK, STATIC)
            b_logit = tl.where(m_same & (i_other == i_view), float("-inf"), b_cos * to_logit + b_bar[None, :])
            b_weight = _probabilities(b_logit, b_lse_i, b_lse_j, STATIC)
            b_positive = tl.where(m_j & (i_other != i_view), 2.0 if SYMMETRIC else 1.0, 0.0).to(ACC)
            b_weight = tl.where(m_same, b_weight - b_positive[None, :], b_weight)
            if DP > BLOCK:
                b_along += tl.sum(b_weight * b_cos, axis=1)
            b_du = tl.dot(b_weight.to(b_other.dtype), b_other, b_du, input_precision=PRECISION, out_dtype=ACC)

    # through the normalisation: dx = (du - u (u . du)) / |x|; own rows are read again, to hold no registers in the loop
    b_own = _load_tile(p_own, own, N, column, DP, OWN, BLOCK)
    if DP == BLOCK:  # the sum over j of weight_ij cos_ij is u . du where the program holds whole rows
        b_along = tl.sum(b_du * b_own.to(ACC), axis=1)
    first = i_view * N.to(tl.int64) + own
    m_row = own + o_own < N
    b_inverse = tl.load(p_inverse + first + o_own, mask=m_row, other=0.0)
    b_grad = (b_du - b_along[:, None] * b_own.to(ACC)) * (tl.load(p_factor) * b_inverse)[:, None]
    o_column = column + tl.arange(0, BLOCK)
    p_out = p_grad + first * D + o_own[:, None] * D + o_column[None, :]
    tl.store(p_out, tl.where(b_inverse[:, None] == 0.0, 0.0, b_grad), mask=m_row[:, None] & (o_column < D)[None, :])


def tile_options(unit: Tensor, temperature: float, backward: bool) -> dict[str, Any]:
    """The compile-time part of a tile launch over `unit` [2, N, DP]."""
    padded, machine = unit.shape[2], target(unit.device)
    tiles = large_tiles(unit.dtype, padded, machine, backward)
    return {
        "STATIC": temperature >= STATIC_BOUND,
        "ACC": triton_type(accumulate_dtype(unit)),
        "PRECISION": product(unit.dtype, machine),
        "DP": padded,
        "OWN": tiles.own,
        "OTHER": tiles.other,
        "BLOCK": tiles.block,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def large_forward(
    a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss [], and for the backward: unit rows [2, N, DP], 1 / lengths [2, N], what became of
    the denominators [2, N], 1 / anchors []."""
    samples = a.shape[0]
    dtype = accumulate_dtype(a)
    views = 2 if symmetric else 1
    unit, inverse = normalise(a, b, mask)
    none = 0.0 if temperature >= STATIC_BOUND else torch.inf
    lse = torch.full((2, samples), none, dtype=dtype, device=a.device)
    terms = torch.empty((views, samples), dtype=dtype, device=a.device)
    kept = mask_numbers(mask, unit)

    def plan() -> Plan:
        options = tile_options(unit, temperature, backward=False) | {"HAS_MASK": mask is not None}
        return Plan((ceil_div(samples, options["OWN"]), views), (samples, 2, kept.stride(0)), options)

    key = layout(unit), layout(mask), symmetric, temperature >= STATIC_BOUND
    launch(_lse_kernel, key, (unit, kept, lse, terms, math.log2(math.e) / temperature), plan)
    count = torch.full((), samples, dtype=dtype, device=a.device) if mask is None else mask.sum(dtype=dtype)
    share = torch.where(count >= 2, 1.0 / (views * count.clamp(min=1)), 0.0)
    return terms.sum() * share, unit, inverse, lse, share


def large_backward(
    grad: Tensor, unit: Tensor, inverse: Tensor, lse: Tensor, share: Tensor, mask: Tensor | None,
    features: int, dtype: torch.dtype, temperature: float, symmetric: bool,
) -> Tensor:  # fmt: skip
    """Gradient [2, N, D] of both views in `dtype` from that of the loss []."""
    samples, padded = unit.shape[1:]
    out = torch.empty((2, samples, features), dtype=dtype, device=unit.device)
    kept = mask_numbers(mask, unit)

    def plan() -> Plan:
        options = tile_options(unit, temperature, backward=True)
        options |= {"HAS_MASK": mask is not None, "SYMMETRIC": symmetric}
        grid = ceil_div(samples, options["OWN"]), 2, padded // options["BLOCK"]
        return Plan(grid, (samples, features, 2, kept.stride(0)), options)

    launch(
        _grad_kernel,
        (layout(unit), layout(mask), features, dtype, symmetric, temperature >= STATIC_BOUND),
        (unit, inverse, lse, kept, grad * share / temperature, out, math.log2(math.e) / temperature),
        plan,
    )
    return out
