"""Rows at length 1, padded to whole blocks of features: what the tile kernels of the contrast read.

Legend as in `kernel.py`.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.contrast.tiles import mask_numbers, operand_dtype, padded_features
from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, power_of_two, triton_type


@triton.jit(do_not_specialize=["N"])
def _unit_kernel(
    p_x,  # [N, D], one view
    p_mask,  # [N] uint8 (float64 beside float64), read only with HAS_MASK
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


def normalise(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Unit rows [2, N, DP] of both views and 1 / lengths [2, N]; zeros for zero rows and rows left out."""
    samples, features = a.shape
    dtype, padded = accumulate_dtype(a), padded_features(features)
    unit = torch.empty((2, samples, padded), dtype=operand_dtype(a), device=a.device)
    inverse = torch.empty((2, samples), dtype=dtype, device=a.device)
    kept = mask_numbers(mask, unit)
    for i_view, view in enumerate((a, b)):

        def plan(view: Tensor = view) -> Plan:
            columns = power_of_two(padded)
            rows = max(1, 2048 // columns)
            options = {
                "HAS_MASK": mask is not None, "ACC": triton_type(dtype), "ROWS": rows, "DP": padded,
                "COLUMNS": columns, "num_warps": 4,
            }  # fmt: skip
            return Plan((ceil_div(samples, rows),), (samples, features, *view.stride(), kept.stride(0)), options)

        launch(
            _unit_kernel,
            (layout(view), layout(mask), i_view),  # the second view's rows may begin anywhere
            (view, kept, unit[i_view], inverse[i_view]),
            plan,
        )
    return unit, inverse
