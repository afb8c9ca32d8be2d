"""Contrast of up to 128 samples: all cosines from one launch, the loss and its whole gradient from a second.

The first fills the matrix of cosines tile by tile (it is small: 2N <= 256). In the second every program takes the
log-sum-exp of every row from that matrix, so that none waits for another, and writes the gradient of its own rows and
features.

Legend: N samples, M = 2N rows (view a, then view b), D features, `ALL` >= M; logits are cosines / temperature in
units of log 2; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.contrast.tiles import mask_numbers, operand_dtype, product, small_tiles
from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, target, triton_type


@triton.jit
def _row_pointers(p_a, p_b, a_row, b_row, o_row, N, ALIGNED: tl.constexpr):
    """Addresses of rows of the two views stacked."""
    o = o_row.to(tl.int64)
    p_row = tl.where(o_row < N, p_a + o * a_row, p_b + (o - N) * b_row)
    # the choice between two bases hides their alignment: without this every load is one element wide
    return tl.multiple_of(p_row, 16) if ALIGNED else p_row


@triton.jit
def _load_block(p_row, m_row, i_block, D, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """[rows, BLOCK] features from i_block * BLOCK on; zeros where a row is left out."""
    o_f = i_block * BLOCK + tl.arange(0, BLOCK)
    return tl.load(p_row[:, None] + o_f[None, :], mask=m_row[:, None] & (o_f < D)[None, :], other=0.0).to(ACC)


@triton.jit
def _load_kept(p_mask, mask_step, o_row, N, HAS_MASK: tl.constexpr):
    """Which of the stacked rows take part."""
    m_row = o_row < 2 * N
    if HAS_MASK:
        o_sample = tl.where(o_row < N, o_row, o_row - N).to(tl.int64)
        m_row = m_row & (tl.load(p_mask + o_sample * mask_step, mask=m_row, other=0) != 0)
    return m_row


@triton.jit
def _scale(p_row, m_row, D, ACC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The power of two that brings a row's largest entry near 1: it rounds nothing, and keeps squares finite."""
    b_largest = tl.zeros((ROWS,), ACC)
    for i_block in range(tl.cdiv(D, BLOCK)):
        b_largest = tl.maximum(b_largest, tl.max(tl.abs(_load_block(p_row, m_row, i_block, D, ACC, BLOCK)), axis=1))
    b_power = tl.floor(tl.log2(tl.where(b_largest > 0.0, b_largest, 1.0)))
    # within a range whose inverse is finite in float32
    return tl.exp2(-tl.minimum(tl.maximum(b_power, -120.0), 120.0))


@triton.jit
def _inverse_length(b_square):
    """1 / length from a squared length; 0 for a zero row."""
    return tl.where(b_square == 0.0, 0.0, 1.0 / tl.sqrt(tl.where(b_square == 0.0, 1.0, b_square)))


@triton.jit(do_not_specialize=["N"])
def _cosine_kernel(
    p_a,  # [N, D], features side by side
    p_b,  # [N, D], features side by side
    p_mask,  # [N] bool (float64 beside float64), read only with HAS_MASK
    p_cosine,  # [M, M]
    p_to_unit,  # [M] 1 / length, 0 for a zero row
    N,
    D,
    a_row,
    b_row,
    mask_step,
    HAS_MASK: tl.constexpr,
    ALIGNED: tl.constexpr,
    ACC: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, j = tl.program_id(0), tl.program_id(1)
    if i <= j:  # the matrix is symmetric
        o_i = i * ROWS + tl.arange(0, ROWS)
        o_j = j * ROWS + tl.arange(0, ROWS)
        m_i = _load_kept(p_mask, mask_step, o_i, N, HAS_MASK)
        m_j = _load_kept(p_mask, mask_step, o_j, N, HAS_MASK)
        p_i = _row_pointers(p_a, p_b, a_row, b_row, o_i, N, ALIGNED)
        p_j = _row_pointers(p_a, p_b, a_row, b_row, o_j, N, ALIGNED)
        b_scale_i = _scale(p_i, m_i, D, ACC, ROWS, BLOCK)
        b_scale_j = _scale(p_j, m_j, D, ACC, ROWS, BLOCK)
        b_dot = tl.zeros((ROWS, ROWS), ACC)
        b_square_i = tl.zeros((ROWS,), ACC)
        b_square_j = tl.zeros((ROWS,), ACC)
        for i_block in range(tl.cdiv(D, BLOCK)):
            b_i = (_load_block(p_i, m_i, i_block, D, ACC, BLOCK) * b_scale_i[:, None]).to(DOT)
            b_j = (_load_block(p_j, m_j, i_block, D, ACC, BLOCK) * b_scale_j[:, None]).to(DOT)
            b_square_i += tl.sum(b_i.to(ACC) * b_i.to(ACC), axis=1)
            b_square_j += tl.sum(b_j.to(ACC) * b_j.to(ACC), axis=1)
            b_dot = tl.dot(b_i, tl.trans(b_j), b_dot, input_precision=PRECISION, out_dtype=ACC)
        b_inverse = _inverse_length(b_square_i)
        b_cosine = b_dot * (b_inverse[:, None] * _inverse_length(b_square_j)[None, :])
        m = (o_i < 2 * N)[:, None] & (o_j < 2 * N)[None, :]
        tl.store(p_cosine + o_i[:, None] * (2 * N) + o_j[None, :], b_cosine, mask=m)
        if i < j:
            tl.store(p_cosine + o_i[:, None] + o_j[None, :] * (2 * N), b_cosine, mask=m)
        else:
            tl.store(p_to_unit + o_i, b_scale_i * b_inverse, mask=o_i < 2 * N)


@triton.jit
def _load_cosines(p_cosine, o_all, o_some, N):
    """[ALL, some] columns of the matrix."""
    m = (o_all < 2 * N)[:, None] & (o_some < 2 * N)[None, :]
    return tl.load(p_cosine + o_all[:, None] * (2 * N) + o_some[None, :], mask=m, other=0.0)


@triton.jit
def _fold(b_logit, o_all, o_pair, o_some, m_some, b_max, b_sum, b_pair):
    """Add the logits [ALL, some] to every row's maximum, sum of exponentials, and positive."""
    b_pair += tl.sum(tl.where(o_pair[:, None] == o_some[None, :], b_logit, 0.0), axis=1)
    b_logit = tl.where(m_some[None, :] & (o_all[:, None] != o_some[None, :]), b_logit, float("-inf"))
    b_new = tl.maximum(b_max, tl.max(b_logit, axis=1))
    b_sum = b_sum * tl.exp2(b_max - b_new) + tl.sum(tl.exp2(b_logit - b_new[:, None]), axis=1)
    return b_new, b_sum, b_pair


@triton.jit(do_not_specialize=["N"])
def _contrast_kernel(
    p_a,  # [N, D], features side by side
    p_b,  # [N, D], features side by side
    p_mask,  # [N] bool (float64 beside float64), read only with HAS_MASK
    p_cosine,  # [M, M]
    p_to_unit,  # [M] 1 / length, 0 for a zero row
    p_loss,  # []
    p_grad,  # [2, N, D], contiguous, written only with GRAD
    scale: tl.float64,  # log2(e) / temperature
    N,
    D,
    a_row,
    b_row,
    mask_step,
    SYMMETRIC: tl.constexpr,
    HAS_MASK: tl.constexpr,
    GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    ACC: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    OWN: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    to_logit = tl.full((), scale, ACC)
    ln2: tl.constexpr = 0.6931471805599453
    o_all = tl.arange(0, ALL)
    o_pair = tl.where(o_all < N, o_all + N, o_all - N)
    m_all = _load_kept(p_mask, mask_step, o_all, N, HAS_MASK)
    m_anchor = m_all if SYMMETRIC else m_all & (o_all < N)

    # log-sum-exp of every row, folded over blocks of columns
    b_max = tl.full((ALL,), -2.0, ACC) * to_logit
    b_sum = tl.zeros((ALL,), ACC)
    b_pair = tl.zeros((ALL,), ACC)
    for i_some in range(tl.cdiv(2 * N, OWN)):
        o_some = i_some * OWN + tl.arange(0, OWN)
        m_some = _load_kept(p_mask, mask_step, o_some, N, HAS_MASK)
        b_logit = to_logit * _load_cosines(p_cosine, o_all, o_some, N)
        b_max, b_sum, b_pair = _fold(b_logit, o_all, o_pair, o_some, m_some, b_max, b_sum, b_pair)
    # rows that anchor nothing get an infinite log-sum-exp, hence probability 0
    b_lse = tl.where(m_anchor, b_max + tl.log2(tl.where(m_anchor, b_sum, 1.0)), float("inf"))

    count = tl.sum(m_anchor.to(tl.int32), axis=0)
    enough = count > (2 if SYMMETRIC else 1)  # two samples at least
    share = tl.where(enough, 1.0 / tl.maximum(count, 1).to(ACC), 0.0)
    i_own, i_block = tl.program_id(0), tl.program_id(1)
    if (i_own == 0) & (i_block == 0):
        total = tl.sum(tl.where(m_anchor, b_lse - b_pair, 0.0), axis=0)
        tl.store(p_loss, tl.where(enough, ln2 * share * total, 0.0))

    if GRAD:
        o_i = i_own * OWN + tl.arange(0, OWN)
        m_i = _load_kept(p_mask, mask_step, o_i, N, HAS_MASK)
        m_anchor_i = m_i if SYMMETRIC else m_i & (o_i < N)
        b_cos = _load_cosines(p_cosine, o_all, o_i, N)
        m_itself = o_all[:, None] == o_i[None, :]
        m_both = m_all[:, None] & m_i[None, :]
        b_lse_i = tl.sum(tl.where(m_itself & m_anchor[:, None], b_lse[:, None], 0.0), axis=0)
        b_lse_i = tl.where(m_anchor_i, b_lse_i, float("inf"))
        # dL/dcos_ij = p_ij + p_ji - [j pairs with i] (anchor i + anchor j), times share / temperature
        b_logit = tl.where(m_both & ~m_itself, to_logit * b_cos, float("-inf"))
        b_weight = tl.exp2(b_logit - b_lse_i[None, :]) + tl.exp2(b_logit - b_lse[:, None])
        b_positive = m_anchor.to(ACC)[:, None] + m_anchor_i.to(ACC)[None, :]
        b_weight -= tl.where(m_both & (o_pair[:, None] == o_i[None, :]), b_positive, 0.0)
        # through the normalisation: dx = (du - u (u . du)) / |x|
        b_along = tl.sum(b_weight * b_cos, axis=0)
        p_all = _row_pointers(p_a, p_b, a_row, b_row, o_all, N, ALIGNED)
        b_to_unit = tl.load(p_to_unit + o_all, mask=o_all < 2 * N, other=0.0)
        b_unit = (_load_block(p_all, m_all, i_block, D, ACC, BLOCK) * b_to_unit[:, None]).to(DOT)
        b_du = tl.dot(tl.trans(b_weight.to(DOT)), b_unit, input_precision=PRECISION, out_dtype=ACC)
        p_i = _row_pointers(p_a, p_b, a_row, b_row, o_i, N, ALIGNED)
        b_to_unit_i = tl.load(p_to_unit + o_i, mask=o_i < 2 * N, other=0.0)
        b_u = _load_block(p_i, m_i, i_block, D, ACC, BLOCK) * b_to_unit_i[:, None]
        b_grad = (b_du - b_along[:, None] * b_u) * (share * to_logit * ln2 * b_to_unit_i)[:, None]
        o_f = i_block * BLOCK + tl.arange(0, BLOCK)
        p_out = p_grad + o_i.to(tl.int64)[:, None] * D + o_f.to(tl.int64)[None, :]
        tl.store(p_out, tl.where(enough, b_grad, 0.0), mask=(o_i < 2 * N)[:, None] & (o_f < D)[None, :])


def small_forward(
    a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """Loss [] and its gradient [2, N, D] ([0, N, D] unless `with_grad`). Views whose columns lie apart are copied."""
    samples, features = a.shape
    a, b = (x if x.stride(1) == 1 else x.contiguous() for x in (a, b))
    dtype, operand = accumulate_dtype(a), operand_dtype(a)
    loss = torch.empty((), dtype=dtype, device=a.device)
    grad = torch.empty((2 if with_grad else 0, samples, features), dtype=dtype, device=a.device)
    cosine = torch.empty((2 * samples, 2 * samples), dtype=dtype, device=a.device)
    to_unit = torch.empty(2 * samples, dtype=dtype, device=a.device)
    kept = mask_numbers(mask, a)
    tiles = small_tiles(samples, target(a.device))

    def constants() -> dict[str, Any]:
        aligned = all(n * a.element_size() % 16 == 0 for n in (a.stride(0), b.stride(0)))
        return {
            "HAS_MASK": mask is not None, "ALIGNED": aligned and a.data_ptr() % 16 == 0 and b.data_ptr() % 16 == 0,
            "ACC": triton_type(dtype), "DOT": triton_type(operand), "PRECISION": product(operand, target(a.device)),
        }  # fmt: skip

    def plan_cosines() -> Plan:
        blocks = max(1, ceil_div(2 * samples, tiles.square))
        options = {"ROWS": tiles.square, "BLOCK": 64, "num_warps": 4}
        return Plan((blocks, blocks), scalars, constants() | options)

    def plan_contrast() -> Plan:
        grid = max(1, ceil_div(2 * samples, tiles.own)), max(1, ceil_div(features, tiles.block))
        options = {
            "SYMMETRIC": symmetric, "GRAD": with_grad, "OWN": tiles.own, "ALL": tiles.every, "BLOCK": tiles.block,
            "num_warps": tiles.warps,
        }  # fmt: skip
        return Plan(grid if with_grad else (1, 1), scalars, constants() | options)

    scalars = samples, features, a.stride(0), b.stride(0), kept.stride(0)
    key = layout(a), layout(b), layout(mask)
    launch(_cosine_kernel, key, (a, b, kept, cosine, to_unit), plan_cosines)
    launch(
        _contrast_kernel,
        (*key, symmetric, with_grad),
        (a, b, kept, cosine, to_unit, loss, grad, math.log2(math.e) / temperature),
        plan_contrast,
    )
    return loss, grad
