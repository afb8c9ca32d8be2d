"""The launches of the ambiguous loss to compile ahead of time, one per form of membership and size worth a budget."""

from __future__ import annotations

import torch

from ferbench.kernels.ambiguous.op import _forward, _forward_grad


def step(
    rows: int,
    classes: int,
    dtype: torch.dtype = torch.float32,
    inclusive: bool = True,
    concave: bool = False,
    with_grad: bool = True,
) -> None:
    """One call on unfilled tensors [rows, classes]."""
    scores = torch.empty(rows, classes, dtype=dtype)
    (_forward_grad if with_grad else _forward)(scores, scores, 0.9, inclusive, classes, concave)


CASES = {
    "paper": lambda: step(64, 7),
    "released": lambda: step(64, 8, inclusive=False, concave=True),
    "bf16": lambda: step(64, 8, torch.bfloat16),
    "no-grad": lambda: step(64, 7, with_grad=False),
    "narrow-widest": lambda: step(64, 16),
    "bisection": lambda: step(4096, 64),
    "wide": lambda: step(4096, 1000),
    "widest": lambda: step(64, 8192),
}
FAST = {"paper", "wide"}
