"""Mixture-of-experts kernels: the weighted sum over experts and its two gradients, owner-computes (no atomics).

A program goes through the experts one by one; where they give few numbers, `mix_narrow` takes all of a row at once.

Legend: B rows, N experts, D features; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, power_of_two, triton_type
from ferbench.kernels.gate import mix_narrow

ELEMENTS = 1024  # per program and expert
MAX_BLOCK = 512  # features per program


@triton.jit(do_not_specialize=["B", "N"])
def _mix_forward_kernel(
    p_weights,  # [B, N]
    p_outputs,  # [B, N, D]
    p_mixed,  # [B, D], contiguous
    B,
    N,
    D,
    weights_row,
    weights_expert,
    outputs_row,
    outputs_expert,
    outputs_feature,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_feature = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_row < B
    m = m_row[:, None] & (o_feature < D)[None, :]
    p_weight = p_weights + o_row * weights_row
    p_output = p_outputs + o_row[:, None] * outputs_row + o_feature[None, :] * outputs_feature
    b_sum = tl.zeros((ROWS, BLOCK), ACC)
    for _ in range(N):
        b_weight = tl.load(p_weight, mask=m_row, other=0.0).to(ACC)
        # an expert of weight 0 is not read: k of N experts cost the traffic of k
        b_output = tl.load(p_output, mask=m & (b_weight != 0.0)[:, None], other=0.0).to(ACC)
        b_sum += b_weight[:, None] * b_output
        p_weight += weights_expert
        p_output += outputs_expert
    tl.store(p_mixed + o_row[:, None] * D + o_feature[None, :], b_sum, mask=m)


@triton.jit(do_not_specialize=["B", "N"])
def _mix_backward_kernel(
    p_grad,  # [B, D], gradient of the mixture
    p_weights,  # [B, N]
    p_outputs,  # [B, N, D]
    p_grad_weights,  # [B, N], contiguous
    p_grad_outputs,  # [B, N, D], contiguous
    B,
    N,
    D,
    grad_row,
    grad_feature,
    weights_row,
    weights_expert,
    outputs_row,
    outputs_expert,
    outputs_feature,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # dw[b, n] = sum_d g[b, d] o[b, n, d];  do[b, n, d] = w[b, n] g[b, d]
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = o_row < B
    p_weight = p_weights + o_row * weights_row
    p_output = p_outputs + o_row * outputs_row
    p_weight_out = p_grad_weights + o_row * N
    p_output_out = p_grad_outputs + o_row * N * D
    for _ in range(N):
        b_weight = tl.load(p_weight, mask=m_row, other=0.0).to(ACC)
        b_sum = tl.zeros((ROWS,), ACC)
        for i_block in range(tl.cdiv(D, BLOCK)):
            o_feature = (i_block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[None, :]
            m = m_row[:, None] & (o_feature < D)
            p_in = p_grad + o_row[:, None] * grad_row + o_feature * grad_feature
            b_grad = tl.load(p_in, mask=m, other=0.0).to(ACC)
            b_output = tl.load(p_output[:, None] + o_feature * outputs_feature, mask=m, other=0.0).to(ACC)
            # what a non-chosen expert overflowed to counts as 0, as in the sum
            m_counts = (b_weight != 0.0)[:, None] | (tl.abs(b_output) < float("inf"))
            b_sum += tl.sum(b_grad * tl.where(m_counts, b_output, 0.0), axis=1)
            tl.store(p_output_out[:, None] + o_feature, b_weight[:, None] * b_grad, mask=m)
        tl.store(p_weight_out, b_sum, mask=m_row)
        p_weight += weights_expert
        p_output += outputs_expert
        p_weight_out += 1
        p_output_out += D


def mix_options(features: int, *tensors: Tensor) -> dict[str, Any]:
    """The compile-time part of a launch over `features` columns."""
    block = min(max(power_of_two(features), 8), MAX_BLOCK)
    return {"ACC": triton_type(accumulate_dtype(*tensors)), "ROWS": ELEMENTS // block, "BLOCK": block, "num_warps": 4}


def mix_forward(weights: Tensor, outputs: Tensor) -> Tensor:
    """Mixture [B, D] of `weights` [B, N] and `outputs` [B, N, D], in their promoted type."""
    rows, experts, features = outputs.shape
    dtype = torch.promote_types(weights.dtype, outputs.dtype)
    mixed = torch.empty((rows, features), dtype=dtype, device=outputs.device)
    key, tensors = (layout(weights), layout(outputs)), (weights, outputs, mixed)
    if mix_narrow.takes(experts, features):
        launch(mix_narrow.mix_narrow_forward_kernel, key, tensors, lambda: mix_narrow.forward_plan(weights, outputs))
        return mixed

    def plan() -> Plan:
        options = mix_options(features, weights, outputs)
        scalars = rows, experts, features, *weights.stride(), *outputs.stride()
        return Plan((ceil_div(rows, options["ROWS"]), ceil_div(features, options["BLOCK"])), scalars, options)

    launch(_mix_forward_kernel, key, tensors, plan)
    return mixed


def mix_backward(grad: Tensor, weights: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `weights` [B, N] and `outputs` [B, N, D] from that of the mixture [B, D]."""
    rows, experts, features = outputs.shape
    grad_weights = torch.empty((rows, experts), dtype=weights.dtype, device=weights.device)
    grad_outputs = torch.empty((rows, experts, features), dtype=outputs.dtype, device=outputs.device)
    key = layout(grad), layout(weights), layout(outputs)
    tensors = grad, weights, outputs, grad_weights, grad_outputs
    if mix_narrow.takes(experts, features):
        kernel = mix_narrow.mix_narrow_backward_kernel
        launch(kernel, key, tensors, lambda: mix_narrow.backward_plan(grad, weights, outputs))
        return grad_weights, grad_outputs

    def plan() -> Plan:
        options = mix_options(features, weights, outputs)
        scalars = rows, experts, features, *grad.stride(), *weights.stride(), *outputs.stride()
        return Plan((ceil_div(rows, options["ROWS"]),), scalars, options)

    launch(_mix_backward_kernel, key, tensors, plan)
    return grad_weights, grad_outputs
