"""Ambiguous-loss kernel: membership, loss and gradient of a block of rows in one pass, without a sort.

Legend: B rows, K classes; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.ambiguous.reference import REACHED
from ferbench.kernels.dispatch import accumulate_dtype, launch, triton_type
from ferbench.kernels.numerics import log1p_of_exp

PAIRWISE = 16  # classes up to which comparing all pairs is cheaper than a 32-step bisection


@triton.jit
def _admit(after, mass, rank, rest, limit, INCLUSIVE: tl.constexpr):
    """Whether a class enters, by the mass ranked after it: near a threshold of 1 only the small sums are exact."""
    left = after + mass if INCLUSIVE else after
    return ((rank == 0) | (left > rest)) & (rank < limit)


@triton.jit
def _by_pairs(b_logit, b_mass, b_rest, limit, INCLUSIVE: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] membership by comparing every class with every other."""
    o = tl.arange(0, COLUMNS)
    one = b_logit[:, :, None]
    other = b_logit[:, None, :]
    m_later = o[None, None, :] > o[None, :, None]
    m_after = (other < one) | ((other == one) & m_later)
    b_after = tl.sum(tl.where(m_after, b_mass[:, None, :], 0.0), axis=2)
    b_rank = COLUMNS - 1 - tl.sum(m_after.to(tl.int32), axis=2)
    return _admit(b_after, b_mass, b_rank, b_rest[:, None], limit, INCLUSIVE)


@triton.jit
def _by_bisection(b_logit, b_mass, m_class, b_rest, limit, INCLUSIVE: tl.constexpr, ROWS: tl.constexpr):
    """[ROWS, COLUMNS] membership: find the value at which the set ends, bit by bit, and admit its ties by index."""
    b_bits = tl.where(b_logit == 0.0, 0.0, b_logit).to(tl.int32, bitcast=True)  # -0 and 0 tie, but differ in bits
    # floats order as their bits once the magnitude of the negatives is flipped; padding goes below -inf
    lowest: tl.constexpr = -2147483648
    b_key = tl.where(m_class, b_bits ^ ((b_bits >> 31) & 0x7FFFFFFF), lowest)
    b_pivot = tl.full((ROWS,), lowest, tl.int32)
    for i_bit in range(32):
        b_try = b_pivot ^ (tl.full((), 1, tl.int32) << (31 - i_bit))
        m_below = b_key < b_try[:, None]
        b_left = tl.sum(tl.where(m_below, b_mass, 0.0), axis=1)
        b_count = tl.sum((~m_below).to(tl.int32), axis=1)
        b_pivot = tl.where((b_left <= b_rest) | (b_count >= limit), b_try, b_pivot)
    m_above = b_key > b_pivot[:, None]
    m_tie = m_class & (b_key == b_pivot[:, None])
    b_place = tl.cumsum(m_tie.to(tl.int32), axis=1)
    b_later = (tl.sum(m_tie.to(tl.int32), axis=1)[:, None] - b_place).to(tl.float32)
    b_below = tl.sum(tl.where(b_key < b_pivot[:, None], b_mass, 0.0), axis=1)
    b_rank = tl.sum(m_above.to(tl.int32), axis=1)[:, None] + b_place - 1
    b_after = b_below[:, None] + b_later * b_mass
    return m_above | (m_tie & _admit(b_after, b_mass, b_rank, b_rest[:, None], limit, INCLUSIVE))


@triton.jit(do_not_specialize=["B", "K", "limit"])
def _ambiguous_kernel(
    p_scores,  # [B, K]
    p_partition,  # [B, K]
    p_loss,  # [B]
    p_grad,  # [B, K], contiguous, written only with GRAD
    B,
    K,
    scores_row,
    scores_column,
    partition_row,
    partition_column,
    rest: tl.float64,
    limit,
    INCLUSIVE: tl.constexpr,
    GRAD: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_class = tl.arange(0, COLUMNS).to(tl.int64)
    m_class = tl.broadcast_to((o_class < K)[None, :], (ROWS, COLUMNS))
    m_row = o_row < B
    m = m_row[:, None] & m_class
    p_in = p_partition + o_row[:, None] * partition_row + o_class[None, :] * partition_column
    b_logit = tl.where(m_class, tl.load(p_in, mask=m, other=0.0).to(tl.float32), float("-inf"))
    b_mass = tl.exp(b_logit - tl.max(b_logit, axis=1)[:, None])
    b_total = tl.sum(b_mass, axis=1)
    b_rest = b_total * tl.full((), rest, tl.float32)
    if PAIRS:
        m_positive = m_class & _by_pairs(b_logit, b_mass, b_rest, limit, INCLUSIVE, COLUMNS)
    else:
        m_positive = _by_bisection(b_logit, b_mass, m_class, b_rest, limit, INCLUSIVE, ROWS)
    m_negative = m_class & ~m_positive

    # loss = log(1 + exp(margin)), margin = log sum_P exp(-y) + log sum_N exp(y)
    p_in = p_scores + o_row[:, None] * scores_row + o_class[None, :] * scores_column
    b_score = tl.load(p_in, mask=m, other=0.0).to(ACC)
    b_top_p = tl.max(tl.where(m_positive, -b_score, float("-inf")), axis=1)
    b_top_n = tl.max(tl.where(m_negative, b_score, float("-inf")), axis=1)
    b_empty = tl.sum(m_negative.to(tl.int32), axis=1) == 0
    b_exp = tl.exp(tl.where(m_positive, -b_score - b_top_p[:, None], b_score - b_top_n[:, None]))
    b_sum_p = tl.sum(tl.where(m_positive, b_exp, 0.0), axis=1)
    b_sum_n = tl.where(b_empty, 1.0, tl.sum(tl.where(m_negative, b_exp, 0.0), axis=1))
    # the two extremes first: far from zero they cancel exactly. Where N is empty its maximum makes the margin -inf
    b_margin = (b_top_p + b_top_n) + (tl.log(b_sum_p) + tl.log(b_sum_n))
    # a partition without a softmax (NaN, +inf, all -inf) defines no set: NaN rather than a plausible number
    b_valid = tl.where(b_total == b_total, 1.0, float("nan")).to(ACC)
    tl.store(p_loss + o_row, b_valid * log1p_of_exp(b_margin), mask=m_row)
    if GRAD:
        b_pull = (b_valid / (1.0 + tl.exp(-b_margin)))[:, None]
        b_grad = b_exp * tl.where(m_positive, -b_pull / b_sum_p[:, None], b_pull / b_sum_n[:, None])
        tl.store(p_grad + o_row[:, None] * K + o_class[None, :], b_grad, mask=m)


def ambiguous_options(classes: int) -> dict[str, int | bool]:
    """The compile-time sizes of a launch over `classes` columns."""
    columns = triton.next_power_of_2(classes)
    pairs = columns <= PAIRWISE
    rows = 4096 // columns**2 if pairs else max(1, 2048 // columns)
    return {
        "PAIRS": pairs,
        "ROWS": max(1, min(rows, 128)),
        "COLUMNS": columns,
        "num_warps": 4 if columns <= 2048 else 16,
    }


def ambiguous_forward(
    scores: Tensor, partition: Tensor, threshold: float, inclusive: bool, limit: int, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """Loss [B] and its gradient in the scores [B, K] ([0, K] unless `with_grad`), in one launch."""
    rows, classes = scores.shape
    dtype = accumulate_dtype(scores)
    loss = torch.empty(rows, dtype=dtype, device=scores.device)
    grad = torch.empty((rows if with_grad else 0, classes), dtype=scores.dtype, device=scores.device)
    options = ambiguous_options(classes)
    launch(
        _ambiguous_kernel, (triton.cdiv(rows, options["ROWS"]),),
        scores, partition, loss, grad, rows, classes, *scores.stride(), *partition.stride(),
        1.0 - threshold * (1.0 - REACHED), limit, INCLUSIVE=inclusive, GRAD=with_grad,
        ACC=triton_type(dtype), **options,
    )  # fmt: skip
    return loss, grad
