"""Contrast of up to 128 samples: the loss and its whole gradient from one launch.

Every program recomputes all M x M cosines (they are few) to get every row's log-sum-exp without talking to the others,
then writes the gradient of its own rows and features.

Legend: N samples, M = 2N rows (view a, then view b), D features, `ALL` >= M; logits are cosines / temperature in
units of log 2; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype, launch, target, triton_type
from ferbench.kernels.info_nce.tiles import mask_numbers, operand_dtype, product, small_tiles

BLOCK = 32  # features per product


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
def _scale_and_length(p_row, m_row, D, ACC: tl.constexpr, DOT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """A power of two that brings a row's largest entry near 1, and 1 / length of the row so scaled (0 if zero)."""
    b_largest = tl.zeros((ROWS,), ACC)
    b_scale = tl.full((ROWS,), 1.0, ACC)
    b_square = tl.zeros((ROWS,), ACC)
    for i_block in range(tl.cdiv(D, BLOCK)):
        b_x = _load_block(p_row, m_row, i_block, D, ACC, BLOCK)
        b_largest = tl.maximum(b_largest, tl.max(tl.abs(b_x), axis=1))
        # a power of two, so that scaling rounds nothing; within a range whose inverse is finite in float32
        b_power = tl.floor(tl.log2(tl.where(b_largest > 0.0, b_largest, 1.0)))
        b_new = tl.exp2(-tl.minimum(tl.maximum(b_power, -120.0), 120.0))
        b_x = (b_x * b_new[:, None]).to(DOT).to(ACC)
        b_square = b_square * (b_new / b_scale) * (b_new / b_scale) + tl.sum(b_x * b_x, axis=1)
        b_scale = b_new
    return b_scale, tl.where(b_square == 0.0, 0.0, 1.0 / tl.sqrt(tl.where(b_square == 0.0, 1.0, b_square)))


@triton.jit
def _cosines(
    p_all, p_i, o_all, o_i, m_all, m_i, b_scale, b_inverse, D,
    ACC: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, ALL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """[ALL, ROWS] cosines of all rows, given their scales and 1 / lengths, with rows o_i; scale / length of those."""
    m_same = o_all[:, None] == o_i[None, :]
    b_scale_i = tl.sum(tl.where(m_same, b_scale[:, None], 0.0), axis=0)
    b_inverse_i = tl.sum(tl.where(m_same, b_inverse[:, None], 0.0), axis=0)
    b_dot = tl.zeros((ALL, ROWS), ACC)
    for i_block in range(tl.cdiv(D, BLOCK)):
        b_x = (_load_block(p_all, m_all, i_block, D, ACC, BLOCK) * b_scale[:, None]).to(DOT)
        b_i = (_load_block(p_i, m_i, i_block, D, ACC, BLOCK) * b_scale_i[:, None]).to(DOT)
        b_dot = tl.dot(b_x, tl.trans(b_i), b_dot, input_precision=PRECISION, out_dtype=ACC)
    # the factors first: the cosine of i and j is then that of j and i to the last bit
    return b_dot * (b_inverse[:, None] * b_inverse_i[None, :]), b_scale_i * b_inverse_i


@triton.jit
def _fold(b_logit, o_all, o_pair, o_i, m_i, b_max, b_sum, b_pair):
    """Add the logits [ALL, ROWS] with rows o_i to every row's maximum, sum of exponentials, and positive."""
    b_pair += tl.sum(tl.where(o_pair[:, None] == o_i[None, :], b_logit, 0.0), axis=1)
    b_logit = tl.where(m_i[None, :] & (o_all[:, None] != o_i[None, :]), b_logit, float("-inf"))
    b_new = tl.maximum(b_max, tl.max(b_logit, axis=1))
    b_sum = b_sum * tl.exp2(b_max - b_new) + tl.sum(tl.exp2(b_logit - b_new[:, None]), axis=1)
    return b_new, b_sum, b_pair


@triton.jit
def _load_kept(p_mask, mask_step, o_row, N, HAS_MASK: tl.constexpr):
    """Which of the stacked rows take part."""
    m_row = o_row < 2 * N
    if HAS_MASK:
        o_sample = tl.where(o_row < N, o_row, o_row - N).to(tl.int64)
        m_row = m_row & (tl.load(p_mask + o_sample * mask_step, mask=m_row, other=0) != 0)
    return m_row


@triton.jit(do_not_specialize=["N"])
def _small_kernel(
    p_a,  # [N, D], features side by side
    p_b,  # [N, D], features side by side
    p_mask,  # [N] uint8 (float64 beside float64), read only with HAS_MASK
    p_loss,  # []
    p_grad,  # [2, N, D], contiguous, written only with GRAD
    N,
    D,
    a_row,
    b_row,
    mask_step,
    scale: tl.float64,  # log2(e) / temperature
    SYMMETRIC: tl.constexpr,
    HAS_MASK: tl.constexpr,
    GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    ACC: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    to_logit = tl.full((), scale, ACC)
    ln2: tl.constexpr = 0.6931471805599453
    o_all = tl.arange(0, ALL)
    o_pair = tl.where(o_all < N, o_all + N, o_all - N)
    m_all = _load_kept(p_mask, mask_step, o_all, N, HAS_MASK)
    m_anchor = m_all if SYMMETRIC else m_all & (o_all < N)
    p_all = _row_pointers(p_a, p_b, a_row, b_row, o_all, N, ALIGNED)
    b_scale, b_inverse = _scale_and_length(p_all, m_all, D, ACC, DOT, ALL, BLOCK)

    # log-sum-exp of every row, folded over blocks of the others; this program's own block first, and kept
    i_own = tl.program_id(0)
    o_i = i_own * ROWS + tl.arange(0, ROWS)
    m_i = _load_kept(p_mask, mask_step, o_i, N, HAS_MASK)
    p_i = _row_pointers(p_a, p_b, a_row, b_row, o_i, N, ALIGNED)
    b_cos, b_to_unit = _cosines(
        p_all, p_i, o_all, o_i, m_all, m_i, b_scale, b_inverse, D, ACC, DOT, PRECISION, ALL, ROWS, BLOCK
    )  # fmt: skip
    b_max = tl.full((ALL,), -2.0, ACC) * to_logit
    b_sum = tl.zeros((ALL,), ACC)
    b_max, b_sum, b_pair = _fold(to_logit * b_cos, o_all, o_pair, o_i, m_i, b_max, b_sum, b_sum)
    for i_other in range(tl.cdiv(2 * N, ROWS) - 1):
        o_o = (i_other + (i_other >= i_own).to(tl.int32)) * ROWS + tl.arange(0, ROWS)
        m_o = _load_kept(p_mask, mask_step, o_o, N, HAS_MASK)
        p_o = _row_pointers(p_a, p_b, a_row, b_row, o_o, N, ALIGNED)
        b_other, _ = _cosines(
            p_all, p_o, o_all, o_o, m_all, m_o, b_scale, b_inverse, D, ACC, DOT, PRECISION, ALL, ROWS, BLOCK
        )  # fmt: skip
        b_max, b_sum, b_pair = _fold(to_logit * b_other, o_all, o_pair, o_o, m_o, b_max, b_sum, b_pair)
    # rows that anchor nothing get an infinite log-sum-exp, hence probability 0
    b_lse = tl.where(m_anchor, b_max + tl.log2(tl.where(m_anchor, b_sum, 1.0)), float("inf"))

    count = tl.sum(m_anchor.to(tl.int32), axis=0)
    enough = count > (2 if SYMMETRIC else 1)  # two samples at least
    share = tl.where(enough, 1.0 / tl.maximum(count, 1).to(ACC), 0.0)
    if (i_own == 0) & (tl.program_id(1) == 0):
        total = tl.sum(tl.where(m_anchor, b_lse - b_pair, 0.0), axis=0)
        tl.store(p_loss, tl.where(enough, ln2 * share * total, 0.0))

    if GRAD:
        m_itself = o_all[:, None] == o_i[None, :]
        m_both = m_all[:, None] & m_i[None, :]
        m_anchor_i = m_i if SYMMETRIC else m_i & (o_i < N)
        b_lse_i = tl.sum(tl.where(m_itself & m_anchor[:, None], b_lse[:, None], 0.0), axis=0)
        b_lse_i = tl.where(m_anchor_i, b_lse_i, float("inf"))
        # dL/dcos_ij = p_ij + p_ji - [j pairs with i] (anchor i + anchor j), times share / temperature
        b_logit = tl.where(m_both & ~m_itself, to_logit * b_cos, float("-inf"))
        b_weight = tl.exp2(b_logit - b_lse_i[None, :]) + tl.exp2(b_logit - b_lse[:, None])
        b_positive = m_anchor.to(ACC)[:, None] + m_anchor_i.to(ACC)[None, :]
        b_weight -= tl.where(m_both & (o_pair[:, None] == o_i[None, :]), b_positive, 0.0)
        # through the normalisation: dx = (du - u (u . du)) / |x|
        b_along = tl.sum(b_weight * b_cos, axis=0)
        i_block = tl.program_id(1)
        b_x = (_load_block(p_all, m_all, i_block, D, ACC, BLOCK) * b_scale[:, None]).to(DOT)
        b_weight = (b_weight * b_inverse[:, None]).to(DOT)
        b_du = tl.dot(tl.trans(b_weight), b_x, input_precision=PRECISION, out_dtype=ACC)
        b_u = _load_block(p_i, m_i, i_block, D, ACC, BLOCK) * b_to_unit[:, None]
        b_grad = (b_du - b_along[:, None] * b_u) * (share * to_logit * ln2 * b_to_unit)[:, None]
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
    machine = target(a.device)
    every, rows, warps = small_tiles(samples, machine)
    aligned = all(n * a.element_size() % 16 == 0 for n in (a.stride(0), b.stride(0)))
    aligned = aligned and a.data_ptr() % 16 == 0 and b.data_ptr() % 16 == 0
    grid = (max(1, triton.cdiv(2 * samples, rows)), max(1, triton.cdiv(features, BLOCK)))
    kept = mask_numbers(mask, a)
    launch(
        _small_kernel, grid if with_grad else (1, 1), a, b, kept, loss, grad, samples, features,
        a.stride(0), b.stride(0), kept.stride(0), math.log2(math.e) / temperature,
        SYMMETRIC=symmetric, HAS_MASK=mask is not None, GRAD=with_grad, ALIGNED=aligned,
        ACC=triton_type(dtype), DOT=triton_type(operand), PRECISION=product(operand, machine),
        ROWS=rows, ALL=every, BLOCK=BLOCK, num_warps=warps,
    )  # fmt: skip
    return loss, grad
