"""Ambiguous loss kernels: membership, loss, gradient and weight of a row while it is in registers.

A thread takes whole rows where the classes are few, and compares all pairs of classes; else several threads share a row
and find by bisection the value at which the positive set ends.

Legend: B rows, K classes, P positive and N negative set; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in
registers. K and the strides are constants of a run and of the compiled kernel: only then are loads as wide as can be.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.ambiguous.reference import CURVE, REACHED
from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, power_of_two, triton_type
from ferbench.kernels.numerics import load_row, log1p_of_exp, softmax_parts

NARROW = 16  # classes up to which a thread takes whole rows


@triton.jit
def _admit(after, mass, rank, rest, limit, INCLUSIVE: tl.constexpr):
    """Whether a class enters, by the mass ranked after it: near a threshold of 1 only the small sums are exact."""
    left = after + mass if INCLUSIVE else after
    return ((rank == 0) | (left > rest)) & (rank < limit)


@triton.jit
def _finite(b):
    """`b`, and 0 for an infinity: subtracting that would leave NaN where the exponential alone is right."""
    return tl.where(tl.abs(b) == float("inf"), 0.0, b)


@triton.jit
def _loss_and_pulls(b_top_p, b_top_n, b_sum_p, b_sum_n, b_valid):
    """The loss, and what a member's exponential is multiplied by in the gradient, in P and in N.

    loss = log(1 + exp(margin)), margin = log sum_P exp(-y) + log sum_N exp(y); an empty N makes it -inf.
    """
    none = b_sum_n == 0.0
    b_sum_n = tl.where(none, 1.0, b_sum_n)
    # the two extremes first: far from zero they cancel exactly
    b_margin = (b_top_p + b_top_n) + (tl.log(b_sum_p) + tl.log(b_sum_n)) + tl.where(none, float("-inf"), 0.0)
    b_pull = b_valid / (1.0 + tl.exp(-b_margin))
    return b_valid * log1p_of_exp(b_margin), -b_pull / b_sum_p, b_pull / b_sum_n


@triton.jit
def _concave(b_mass_p, b_count_p, b_mass_n, b_mass_last, b_total, K: tl.constexpr, CURVE: tl.constexpr):
    """The released weight from the mass and number of P, the largest mass of N, and the smallest mass of all."""
    whole = b_count_p == K
    b_q = tl.where(whole, b_mass_last, b_mass_n) / b_total
    b_c = tl.where(whole, b_mass_p, b_mass_p + b_mass_n) / b_total / tl.where(whole, K, b_count_p + 1).to(tl.float32)
    return tl.minimum(tl.maximum(_log1p(CURVE * (b_c - b_q)) / _log1p(CURVE * b_c), 0.0), 1.0)


@triton.jit
def _log1p(x):
    """log(1 + x) for x > -1: the rounding of 1 + x cancels (Kahan)."""
    rounded = 1.0 + x
    return tl.where(rounded == 1.0, x, tl.log(rounded) * (x / tl.where(rounded == 1.0, 1.0, rounded - 1.0)))


@triton.jit
def _rows(
    p_scores, p_partition, p_loss, p_grad, m_row, rest, limit,
    K: tl.constexpr, SCORES_STEP: tl.constexpr, PARTITION_STEP: tl.constexpr, INCLUSIVE: tl.constexpr,
    GRAD: tl.constexpr, CONCAVE: tl.constexpr, CURVE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A thread to a row."""
    logits = load_row(p_partition, m_row, PARTITION_STEP, K, tl.float32)
    masses, b_total = softmax_parts(logits, K)
    b_rest = b_total * tl.full((), rest, tl.float32)
    scores = load_row(p_scores, m_row, SCORES_STEP, K, ACC)
    positive = ()
    b_top_p = tl.full(b_total.shape, float("-inf"), ACC)
    b_top_n = b_top_p
    for i in tl.static_range(K):
        b_after = tl.zeros_like(b_total)
        b_rank = tl.full(b_total.shape, K - 1, tl.int32)
        for j in tl.static_range(K):
            if j != i:
                m_after = logits[j] <= logits[i] if j > i else logits[j] < logits[i]
                b_after += tl.where(m_after, masses[j], 0.0)
                b_rank -= m_after.to(tl.int32)
        m_positive = _admit(b_after, masses[i], b_rank, b_rest, limit, INCLUSIVE)
        positive = positive + (m_positive,)
        b_top_p = tl.maximum(b_top_p, tl.where(m_positive, -scores[i], float("-inf")))
        b_top_n = tl.maximum(b_top_n, tl.where(m_positive, float("-inf"), scores[i]))
    b_top_p, b_top_n = _finite(b_top_p), _finite(b_top_n)
    exps = ()
    b_sum_p = tl.zeros(b_total.shape, ACC)
    b_sum_n = b_sum_p
    for k in tl.static_range(K):
        exps = exps + (tl.exp(tl.where(positive[k], -scores[k] - b_top_p, scores[k] - b_top_n)),)
        b_sum_p += tl.where(positive[k], exps[k], 0.0)
        b_sum_n += tl.where(positive[k], 0.0, exps[k])
    # a partition without a softmax (NaN, +inf, all -inf) defines no set: NaN rather than a plausible number
    b_valid = tl.where(b_total == b_total, 1.0, float("nan")).to(ACC)
    if CONCAVE:
        b_mass_p = tl.zeros_like(b_total)
        b_mass_n = b_mass_p
        b_least = masses[0]
        b_count = tl.zeros(b_total.shape, tl.int32)
        for k in tl.static_range(K):
            b_mass_p += tl.where(positive[k], masses[k], 0.0)
            b_mass_n = tl.maximum(b_mass_n, tl.where(positive[k], 0.0, masses[k]))
            b_least = tl.minimum(b_least, masses[k])
            b_count += positive[k].to(tl.int32)
        b_valid *= _concave(b_mass_p, b_count, b_mass_n, b_least, b_total, K, CURVE).to(ACC)
    b_loss, b_pull_p, b_pull_n = _loss_and_pulls(b_top_p, b_top_n, b_sum_p, b_sum_n, b_valid)
    tl.store(p_loss, b_loss, mask=m_row)
    if GRAD:
        for k in tl.static_range(K):
            tl.store(p_grad + k, exps[k] * tl.where(positive[k], b_pull_p, b_pull_n), mask=m_row)


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


@triton.jit
def _block(
    p_scores, p_partition, p_loss, p_grad, m_row, rest, limit,
    K: tl.constexpr, SCORES_STEP: tl.constexpr, PARTITION_STEP: tl.constexpr, INCLUSIVE: tl.constexpr,
    GRAD: tl.constexpr, CONCAVE: tl.constexpr, CURVE: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows that several threads share."""
    o_class = tl.arange(0, COLUMNS)
    m_class = tl.broadcast_to((o_class < K)[None, :], (ROWS, COLUMNS))
    m = m_row[:, None] & m_class
    p_in = p_partition[:, None] + o_class[None, :] * PARTITION_STEP
    b_logit = tl.where(m_class, tl.load(p_in, mask=m, other=0.0).to(tl.float32), float("-inf"))
    b_mass = tl.exp(b_logit - tl.max(b_logit, axis=1)[:, None])
    b_total = tl.sum(b_mass, axis=1)
    b_rest = b_total * tl.full((), rest, tl.float32)
    m_positive = _by_bisection(b_logit, b_mass, m_class, b_rest, limit, INCLUSIVE, ROWS)
    m_negative = m_class & ~m_positive

    p_in = p_scores[:, None] + o_class[None, :] * SCORES_STEP
    b_score = tl.load(p_in, mask=m, other=0.0).to(ACC)
    b_top_p = _finite(tl.max(tl.where(m_positive, -b_score, float("-inf")), axis=1))
    b_top_n = _finite(tl.max(tl.where(m_negative, b_score, float("-inf")), axis=1))
    b_exp = tl.exp(tl.where(m_positive, -b_score - b_top_p[:, None], b_score - b_top_n[:, None]))
    b_sum_p = tl.sum(tl.where(m_positive, b_exp, 0.0), axis=1)
    b_sum_n = tl.sum(tl.where(m_negative, b_exp, 0.0), axis=1)
    b_valid = tl.where(b_total == b_total, 1.0, float("nan")).to(ACC)
    if CONCAVE:
        b_mass_p = tl.sum(tl.where(m_positive, b_mass, 0.0), axis=1)
        b_mass_n = tl.max(tl.where(m_negative, b_mass, 0.0), axis=1)
        b_least = tl.min(tl.where(m_class, b_mass, float("inf")), axis=1)
        b_count = tl.sum(m_positive.to(tl.int32), axis=1)
        b_valid *= _concave(b_mass_p, b_count, b_mass_n, b_least, b_total, K, CURVE).to(ACC)
    b_loss, b_pull_p, b_pull_n = _loss_and_pulls(b_top_p, b_top_n, b_sum_p, b_sum_n, b_valid)
    tl.store(p_loss, b_loss, mask=m_row)
    if GRAD:
        b_grad = b_exp * tl.where(m_positive, b_pull_p[:, None], b_pull_n[:, None])
        tl.store(p_grad[:, None] + o_class[None, :], b_grad, mask=m)


@triton.jit(do_not_specialize=["B", "limit"])
def _ambiguous_kernel(
    p_scores,  # [B, K]
    p_partition,  # [B, K]
    p_loss,  # [B]
    p_grad,  # [B, K], contiguous, written only with GRAD
    rest: tl.float64,
    limit,
    B,
    K: tl.constexpr,
    SCORES_ROW: tl.constexpr,
    SCORES_STEP: tl.constexpr,
    PARTITION_ROW: tl.constexpr,
    PARTITION_STEP: tl.constexpr,
    INCLUSIVE: tl.constexpr,
    GRAD: tl.constexpr,
    CONCAVE: tl.constexpr,
    CURVE: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # 0: a thread takes whole rows
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = o_row < B
    p_scores += o_row * SCORES_ROW
    p_partition += o_row * PARTITION_ROW
    p_loss += o_row
    p_grad += o_row * K
    if COLUMNS == 0:
        _rows(
            p_scores, p_partition, p_loss, p_grad, m_row, rest, limit, K, SCORES_STEP, PARTITION_STEP, INCLUSIVE, GRAD,
            CONCAVE, CURVE, ACC,
        )  # fmt: skip
    else:
        _block(
            p_scores, p_partition, p_loss, p_grad, m_row, rest, limit, K, SCORES_STEP, PARTITION_STEP, INCLUSIVE, GRAD,
            CONCAVE, CURVE, ACC, ROWS, COLUMNS,
        )  # fmt: skip


def row_blocks(rows: int, classes: int) -> dict[str, Any]:
    """ROWS and COLUMNS of a program and its warps: single warps while the rows are few, to spread them widely."""
    if classes <= NARROW:
        warps = 1 if rows <= 4096 else 4
        return {"ROWS": 32 * warps, "COLUMNS": 0, "num_warps": warps}
    columns = power_of_two(classes)
    return {"ROWS": max(1, 2048 // columns), "COLUMNS": columns, "num_warps": 4 if columns <= 2048 else 16}


def ambiguous_forward(
    scores: Tensor, partition: Tensor, threshold: float, inclusive: bool, limit: int, concave: bool, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """Loss [B] and its gradient in the scores [B, K] ([0, K] unless `with_grad`), in one launch."""
    rows, classes = scores.shape
    dtype = accumulate_dtype(scores)
    loss = torch.empty(rows, dtype=dtype, device=scores.device)
    grad = torch.empty((rows if with_grad else 0, classes), dtype=scores.dtype, device=scores.device)

    def plan() -> Plan:
        blocks = row_blocks(rows, classes)
        constants = {
            "K": classes, "SCORES_ROW": scores.stride(0), "SCORES_STEP": scores.stride(1),
            "PARTITION_ROW": partition.stride(0), "PARTITION_STEP": partition.stride(1), "INCLUSIVE": inclusive,
            "GRAD": with_grad, "CONCAVE": concave, "CURVE": CURVE, "ACC": triton_type(dtype),
        }  # fmt: skip
        return Plan((ceil_div(rows, blocks["ROWS"]),), (rows,), constants | blocks)

    launch(
        _ambiguous_kernel,
        (layout(scores), layout(partition), inclusive, concave, with_grad),
        (scores, partition, loss, grad, 1.0 - threshold * (1.0 - REACHED), limit),
        plan,
    )
    return loss, grad
