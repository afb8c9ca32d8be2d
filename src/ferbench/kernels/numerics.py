"""Scalar functions that several kernels need and Triton lacks."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

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
