"""Mixture-of-experts kernels for experts that give few numbers, class scores: all experts of a row at once.

What lies side by side in memory is then loaded together, and nothing waits in a loop over the experts.

Legend: B rows, N experts, D features; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers. N, D
and the strides are constants of a run and of the compiled kernel.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, power_of_two, triton_type

FEW = 32  # features up to which all experts of a row are taken at once,
TOGETHER = 2048  # where that is at most so many numbers
ELEMENTS = 512  # of a program, a single warp: sums over experts then cross no barrier


@triton.jit(do_not_specialize=["B"])
def mix_narrow_forward_kernel(
    p_weights,  # [B, N]
    p_outputs,  # [B, N, D]
    p_mixed,  # [B, D], contiguous
    B,
    N: tl.constexpr,
    D: tl.constexpr,
    WEIGHTS_ROW: tl.constexpr,
    WEIGHTS_EXPERT: tl.constexpr,
    OUTPUTS_ROW: tl.constexpr,
    OUTPUTS_EXPERT: tl.constexpr,
    OUTPUTS_FEATURE: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    o_row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    o_expert, o_feature = tl.arange(0, EXPERTS)[None, :], tl.arange(0, BLOCK)[None, :]
    m_expert = (o_row < B) & (o_expert < N)
    b_weight = tl.load(p_weights + o_row * WEIGHTS_ROW + o_expert * WEIGHTS_EXPERT, mask=m_expert, other=0.0).to(ACC)
    # an expert of weight 0 is not read: k of N experts cost the traffic of k
    m = (b_weight != 0.0)[:, :, None] & (o_feature < D)[:, None, :]
    p_output = p_outputs + (o_row * OUTPUTS_ROW + o_expert * OUTPUTS_EXPERT)[:, :, None]
    b_output = tl.load(p_output + (o_feature * OUTPUTS_FEATURE)[:, None, :], mask=m, other=0.0).to(ACC)
    b_sum = tl.sum(b_weight[:, :, None] * b_output, axis=1)
    tl.store(p_mixed + o_row * D + o_feature, b_sum, mask=(o_row < B) & (o_feature < D))


@triton.jit(do_not_specialize=["B"])
def mix_narrow_backward_kernel(
    p_grad,  # [B, D], gradient of the mixture
    p_weights,  # [B, N]
    p_outputs,  # [B, N, D]
    p_grad_weights,  # [B, N], contiguous
    p_grad_outputs,  # [B, N, D], contiguous
    B,
    N: tl.constexpr,
    D: tl.constexpr,
    GRAD_ROW: tl.constexpr,
    GRAD_FEATURE: tl.constexpr,
    WEIGHTS_ROW: tl.constexpr,
    WEIGHTS_EXPERT: tl.constexpr,
    OUTPUTS_ROW: tl.constexpr,
    OUTPUTS_EXPERT: tl.constexpr,
    OUTPUTS_FEATURE: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    o_row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    o_expert, o_feature = tl.arange(0, EXPERTS)[None, :], tl.arange(0, BLOCK)[None, :]
    m_expert, m_feature = (o_row < B) & (o_expert < N), (o_row < B) & (o_feature < D)
    m = m_expert[:, :, None] & (o_feature < D)[:, None, :]
    p_output = p_outputs + (o_row * OUTPUTS_ROW + o_expert * OUTPUTS_EXPERT)[:, :, None]
    b_output = tl.load(p_output + (o_feature * OUTPUTS_FEATURE)[:, None, :], mask=m, other=0.0).to(ACC)
    b_weight = tl.load(p_weights + o_row * WEIGHTS_ROW + o_expert * WEIGHTS_EXPERT, mask=m_expert, other=0.0).to(ACC)
    b_grad = tl.load(p_grad + o_row * GRAD_ROW + o_feature * GRAD_FEATURE, mask=m_feature, other=0.0).to(ACC)
    # what a non-chosen expert overflowed to counts as 0, as in the sum
    m_counts = (b_weight != 0.0)[:, :, None] | (tl.abs(b_output) < float("inf"))
    b_sum = tl.sum(b_grad[:, None, :] * tl.where(m_counts, b_output, 0.0), axis=2)
    tl.store(p_grad_weights + o_row * N + o_expert, b_sum, mask=m_expert)
    p_to = p_grad_outputs + (o_row * (N * D) + o_expert * D)[:, :, None] + o_feature[:, None, :]
    tl.store(p_to, b_weight[:, :, None] * b_grad[:, None, :], mask=m)


def takes(experts: int, features: int) -> bool:
    """Whether these kernels take rows of so many experts and features."""
    return features <= FEW and power_of_two(experts) * power_of_two(features) <= TOGETHER


def forward_plan(weights: Tensor, outputs: Tensor) -> Plan:
    """The launch for weights [B, N] and outputs [B, N, D]."""
    return _plan(outputs, {}, weights)


def backward_plan(grad: Tensor, weights: Tensor, outputs: Tensor) -> Plan:
    """The launch for the mixture's gradient [B, D], weights [B, N] and outputs [B, N, D]."""
    return _plan(outputs, {"GRAD_ROW": grad.stride(0), "GRAD_FEATURE": grad.stride(1)}, weights)


def _plan(outputs: Tensor, constants: dict[str, Any], weights: Tensor) -> Plan:
    rows, experts, features = outputs.shape
    together = power_of_two(experts) * power_of_two(features)
    block = max(1, ELEMENTS // together)
    constants = {
        "N": experts, "D": features, **constants, "WEIGHTS_ROW": weights.stride(0), "WEIGHTS_EXPERT": weights.stride(1),
        "OUTPUTS_ROW": outputs.stride(0), "OUTPUTS_EXPERT": outputs.stride(1), "OUTPUTS_FEATURE": outputs.stride(2),
        "ACC": triton_type(accumulate_dtype(weights, outputs)), "ROWS": block, "EXPERTS": power_of_two(experts),
        "BLOCK": power_of_two(features), "num_warps": 1,
    }  # fmt: skip
    return Plan((ceil_div(rows, block),), (rows,), constants)
