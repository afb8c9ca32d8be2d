"""Top-k gate kernels: everything about a row in registers, of one thread where the experts are few.

Legend: B rows, N experts, K experts kept; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers. N
and the strides are constants of a run and of the compiled kernel: only then are loads as wide as can be.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, power_of_two, triton_type
from ferbench.kernels.numerics import load_row, log1p_of_exp

NARROW = 8  # experts up to which a thread takes whole rows
ELEMENTS = 1024  # per program: with 4 warps 8 per thread, which holds even 256 experts without spilling


@triton.jit
def _choose_rows(
    p_logits, p_weights, m_row,
    N: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr, SOFTPLUS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A thread to a row: an expert is kept if fewer than K come before it, larger or equal and earlier."""
    logits = load_row(p_logits, m_row, STEP, N, ACC)
    # NaN is taken as the largest, as a sort does: it must reach the weights, not be passed over
    row = ()
    for n in tl.static_range(N):
        row = row + (tl.where(logits[n] == logits[n], logits[n], float("inf")),)
    b_top = row[0]
    for n in tl.static_range(1, N):
        b_top = tl.maximum(b_top, row[n])
    b_top = log1p_of_exp(b_top) if SOFTPLUS else b_top
    kept = ()
    exps = ()
    b_total = tl.zeros_like(b_top)
    for i in tl.static_range(N):
        b_before = tl.zeros(b_top.shape, tl.int32)
        for j in tl.static_range(N):
            if j != i:
                b_before += (row[j] >= row[i] if j < i else row[j] > row[i]).to(tl.int32)
        b_active = log1p_of_exp(row[i]) if SOFTPLUS else row[i]
        # the largest activated value is subtracted: the softmax needs no maximum of its own
        kept = kept + (b_before < K,)
        exps = exps + (tl.exp(b_active - b_top),)
        b_total += tl.where(kept[i], exps[i], 0.0)
    for n in tl.static_range(N):
        tl.store(p_weights + n, tl.where(kept[n], exps[n] / b_total, 0.0), mask=m_row)


@triton.jit
def _choose_block(
    p_logits, p_weights, m_row,
    N: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr, SOFTPLUS: tl.constexpr, ACC: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows that several threads share: K rounds, each taking the largest that is free."""
    o_expert = tl.arange(0, COLUMNS)
    m = m_row[:, None] & (o_expert < N)[None, :]
    b_logit = tl.load(p_logits[:, None] + o_expert[None, :] * STEP, mask=m, other=0.0).to(ACC)
    b_logit = tl.where(b_logit == b_logit, b_logit, float("inf"))
    m_free = tl.broadcast_to((o_expert < N)[None, :], (ROWS, COLUMNS))
    b_weight = tl.zeros((ROWS, COLUMNS), ACC)
    b_total = tl.zeros((ROWS,), ACC)
    b_top = b_total
    for i_choice in tl.static_range(K):
        b_best = tl.max(tl.where(m_free, b_logit, float("-inf")), axis=1)
        m_best = m_free & (b_logit == b_best[:, None])
        m_pick = o_expert[None, :] == tl.min(tl.where(m_best, o_expert[None, :], COLUMNS), axis=1)[:, None]
        m_free = m_free & ~m_pick
        b_active = log1p_of_exp(b_best) if SOFTPLUS else b_best
        if i_choice == 0:
            b_top = b_active
        b_exp = tl.exp(b_active - b_top)
        b_total += b_exp
        b_weight = tl.where(m_pick, b_exp[:, None], b_weight)
    b_weight = tl.where(m_free, 0.0, b_weight / b_total[:, None])
    tl.store(p_weights[:, None] + o_expert[None, :], b_weight, mask=m)


@triton.jit(do_not_specialize=["B"])
def _gate_forward_kernel(
    p_logits,  # [B, N]
    p_weights,  # [B, N], contiguous
    B,
    N: tl.constexpr,
    LOGITS_ROW: tl.constexpr,
    LOGITS_STEP: tl.constexpr,
    K: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # 0: a thread takes whole rows
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    p_logits += o_row * LOGITS_ROW
    p_weights += o_row * N
    if COLUMNS == 0:
        _choose_rows(p_logits, p_weights, o_row < B, N, LOGITS_STEP, K, SOFTPLUS, ACC)
    else:
        _choose_block(p_logits, p_weights, o_row < B, N, LOGITS_STEP, K, SOFTPLUS, ACC, ROWS, COLUMNS)


@triton.jit(do_not_specialize=["B"])
def _gate_backward_kernel(
    p_grad,  # [B, N], gradient of the weights
    p_weights,  # [B, N], contiguous
    p_logits,  # [B, N]
    p_out,  # [B, N], contiguous, gradient of the logits
    B,
    N: tl.constexpr,
    GRAD_ROW: tl.constexpr,
    GRAD_STEP: tl.constexpr,
    LOGITS_ROW: tl.constexpr,
    LOGITS_STEP: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # 0: a thread takes whole rows
):
    # dx_i = w_i (g_i - sum_j w_j g_j) sigmoid(x_i), where sigmoid is softplus' and 1 without it
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = o_row < B
    if COLUMNS == 0:
        weights = load_row(p_weights + o_row * N, m_row, 1, N, ACC)
        grads = load_row(p_grad + o_row * GRAD_ROW, m_row, GRAD_STEP, N, ACC)
        b_mean = tl.zeros((ROWS,), ACC)
        for n in tl.static_range(N):
            b_mean += tl.where(weights[n] != 0.0, weights[n] * grads[n], 0.0)
        for n in tl.static_range(N):
            b_out = weights[n] * (grads[n] - b_mean)
            if SOFTPLUS:
                b_logit = tl.load(p_logits + o_row * LOGITS_ROW + n * LOGITS_STEP, mask=m_row, other=0.0).to(ACC)
                b_out = b_out / (1.0 + tl.exp(-b_logit))
            tl.store(p_out + o_row * N + n, tl.where(weights[n] != 0.0, b_out, 0.0), mask=m_row)
    else:
        o_expert = tl.arange(0, COLUMNS)[None, :]
        o_row = o_row[:, None]
        m = m_row[:, None] & (o_expert < N)
        b_weight = tl.load(p_weights + o_row * N + o_expert, mask=m, other=0.0).to(ACC)
        b_grad = tl.load(p_grad + o_row * GRAD_ROW + o_expert * GRAD_STEP, mask=m, other=0.0).to(ACC)
        m_chosen = b_weight != 0.0
        b_sum = tl.sum(tl.where(m_chosen, b_weight * b_grad, 0.0), axis=1)
        b_out = b_weight * (b_grad - b_sum[:, None])
        if SOFTPLUS:
            b_logit = tl.load(p_logits + o_row * LOGITS_ROW + o_expert * LOGITS_STEP, mask=m, other=0.0).to(ACC)
            b_out = b_out / (1.0 + tl.exp(-b_logit))
        tl.store(p_out + o_row * N + o_expert, tl.where(m_chosen, b_out, 0.0), mask=m)


def row_blocks(rows: int, experts: int) -> dict[str, Any]:
    """ROWS and COLUMNS of a program and its warps: single warps while the rows are few, to spread them widely."""
    if experts <= NARROW:
        warps = 1 if rows <= 4096 else 4
        return {"ROWS": 32 * warps, "COLUMNS": 0, "num_warps": warps}
    columns = power_of_two(experts)
    return {"ROWS": max(1, ELEMENTS // columns), "COLUMNS": columns, "num_warps": 4}


def gate_forward(logits: Tensor, k: int, softplus: bool) -> Tensor:
    """Weights [B, N] of `logits` [B, N], contiguous and of the same type."""
    rows, experts = logits.shape
    weights = torch.empty((rows, experts), dtype=logits.dtype, device=logits.device)

    def plan() -> Plan:
        blocks = row_blocks(rows, experts)
        constants = {
            "N": experts, "LOGITS_ROW": logits.stride(0), "LOGITS_STEP": logits.stride(1), "K": k,
            "SOFTPLUS": softplus, "ACC": triton_type(accumulate_dtype(logits)),
        }  # fmt: skip
        return Plan((ceil_div(rows, blocks["ROWS"]),), (rows,), constants | blocks)

    launch(_gate_forward_kernel, (layout(logits), k, softplus), (logits, weights), plan)
    return weights


def gate_backward(grad: Tensor, weights: Tensor, logits: Tensor, softplus: bool) -> Tensor:
    """Gradient of the logits [B, N] from that of the weights."""
    rows, experts = logits.shape
    out = torch.empty((rows, experts), dtype=logits.dtype, device=logits.device)

    def plan() -> Plan:
        blocks = row_blocks(rows, experts)
        constants = {
            "N": experts, "GRAD_ROW": grad.stride(0), "GRAD_STEP": grad.stride(1), "LOGITS_ROW": logits.stride(0),
            "LOGITS_STEP": logits.stride(1), "SOFTPLUS": softplus, "ACC": triton_type(accumulate_dtype(logits)),
        }  # fmt: skip
        return Plan((ceil_div(rows, blocks["ROWS"]),), (rows,), constants | blocks)

    launch(_gate_backward_kernel, (layout(grad), layout(logits), softplus), (grad, weights, logits, out), plan)
    return out
