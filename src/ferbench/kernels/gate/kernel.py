"""Top-k gate kernels: a block of rows per program, everything about a row in registers.

Legend: B rows, N experts, K experts kept; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype, launch, triton_type
from ferbench.kernels.numerics import log1p_of_exp

ELEMENTS = 1024  # per program: with 4 warps 8 per thread, which holds even 256 experts without spilling


@triton.jit(do_not_specialize=["B", "N"])
def _gate_forward_kernel(
    p_logits,  # [B, N]
    p_weights,  # [B, N], contiguous
    B,
    N,
    logits_row,
    logits_column,
    K: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_expert = tl.arange(0, COLUMNS)
    m = (o_row < B)[:, None] & (o_expert < N)[None, :]
    p_in = p_logits + o_row[:, None] * logits_row + o_expert.to(tl.int64)[None, :] * logits_column
    b_logit = tl.load(p_in, mask=m, other=0.0).to(ACC)
    # NaN is taken as the largest, as a sort does: it must reach the weights, not be passed over
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
        # the first choice is the largest activated value: the softmax needs no further maximum
        b_exp = tl.exp(b_active - b_top)
        b_total += b_exp
        b_weight = tl.where(m_pick, b_exp[:, None], b_weight)

    b_weight = tl.where(m_free, 0.0, b_weight / b_total[:, None])
    p_out = p_weights + o_row[:, None] * N + o_expert[None, :]
    tl.store(p_out, b_weight, mask=m)


@triton.jit(do_not_specialize=["B", "N"])
def _gate_backward_kernel(
    p_grad,  # [B, N], gradient of the weights
    p_weights,  # [B, N], contiguous
    p_logits,  # [B, N]
    p_out,  # [B, N], contiguous, gradient of the logits
    B,
    N,
    grad_row,
    grad_column,
    logits_row,
    logits_column,
    SOFTPLUS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # dx_i = w_i (g_i - sum_j w_j g_j) sigmoid(x_i), where sigmoid is softplus' and 1 without it
    o_row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    o_expert = tl.arange(0, COLUMNS).to(tl.int64)[None, :]
    m = (o_row < B) & (o_expert < N)
    b_weight = tl.load(p_weights + o_row * N + o_expert, mask=m, other=0.0).to(ACC)
    b_grad = tl.load(p_grad + o_row * grad_row + o_expert * grad_column, mask=m, other=0.0).to(ACC)
    m_chosen = b_weight != 0.0
    b_mean = tl.sum(tl.where(m_chosen, b_weight * b_grad, 0.0), axis=1)
    b_out = b_weight * (b_grad - b_mean[:, None])
    if SOFTPLUS:
        b_logit = tl.load(p_logits + o_row * logits_row + o_expert * logits_column, mask=m, other=0.0).to(ACC)
        b_out = b_out / (1.0 + tl.exp(-b_logit))
    tl.store(p_out + o_row * N + o_expert, tl.where(m_chosen, b_out, 0.0), mask=m)


def gate_options(tensor: Tensor, experts: int) -> dict[str, Any]:
    """The compile-time part of a launch for [B, `experts`]."""
    columns = triton.next_power_of_2(experts)
    return {
        "ACC": triton_type(accumulate_dtype(tensor)),
        "ROWS": max(1, ELEMENTS // columns),
        "COLUMNS": columns,
        "num_warps": 4,
    }


def gate_forward(logits: Tensor, k: int, softplus: bool) -> Tensor:
    """Weights [B, N] of `logits` [B, N], contiguous and of the same type."""
    rows, experts = logits.shape
    weights = torch.empty((rows, experts), dtype=logits.dtype, device=logits.device)
    options = gate_options(logits, experts)
    launch(
        _gate_forward_kernel, (triton.cdiv(rows, options["ROWS"]),), logits, weights, rows, experts, *logits.stride(),
        K=k, SOFTPLUS=softplus, **options,
    )  # fmt: skip
    return weights


def gate_backward(grad: Tensor, weights: Tensor, logits: Tensor, softplus: bool) -> Tensor:
    """Gradient of the logits [B, N] from that of the weights."""
    rows, experts = logits.shape
    out = torch.empty((rows, experts), dtype=logits.dtype, device=logits.device)
    options = gate_options(logits, experts)
    launch(
        _gate_backward_kernel, (triton.cdiv(rows, options["ROWS"]),), grad, weights, logits, out, rows, experts,
        *grad.stride(), *logits.stride(), SOFTPLUS=softplus, **options,
    )  # fmt: skip
    return out
