"""What several kernels need and Triton lacks: scalar functions, and rows held by one thread each."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log1p_of_exp(x):
    """log(1 + exp(x)) to full relative precision in both tails; plain log(1 + exp(x)) is exactly 0 below x = -17."""
    small = tl.exp(-tl.abs(x))
    rounded = 1.0 + small
    # log(1 + s) = log(r) * s / (r - 1): the rounding of r = 1 + s cancels (Kahan)
    excess = tl.where(rounded == 1.0, 1.0, rounded - 1.0)
    return tl.maximum(x, 0.0) + tl.where(rounded == 1.0, small, tl.log(rounded) * (small / excess))


@triton.jit
def load_row(p_row, m_row, step, K: tl.constexpr, ACC: tl.constexpr):
    """K blocks [ROWS], one per column: a thread then holds whole rows, and nothing crosses threads."""
    row = ()
    for k in tl.static_range(K):
        row = row + (tl.load(p_row + k * step, mask=m_row, other=0.0).to(ACC),)
    return row


@triton.jit
def largest(row, K: tl.constexpr):
    """Elementwise maximum of K blocks; a NaN is passed over."""
    b_top = row[0]
    for k in tl.static_range(1, K):
        b_top = tl.maximum(b_top, row[k])
    return b_top


@triton.jit
def softmax_parts(row, K: tl.constexpr):
    """exp(x - max x) of K blocks, and their sum: a NaN anywhere in a row makes its sum NaN."""
    b_top = largest(row, K)
    parts = ()
    b_sum = tl.zeros_like(b_top)
    for k in tl.static_range(K):
        parts = parts + (tl.exp(row[k] - b_top),)
        b_sum += parts[k]
    return parts, b_sum
