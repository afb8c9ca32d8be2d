"""The launches of FixMatch's head to compile ahead of time."""

from __future__ import annotations

import torch

from ferbench.kernels.head.op import _run


def step(classes: int, dtype: torch.dtype = torch.float32, thresholds: bool = False, with_grad: bool = True) -> None:
    """One call on unfilled logits, 32 labelled rows and 64 unlabelled ones."""
    labelled, weak, strong = (torch.empty(rows, classes, dtype=dtype) for rows in (32, 64, 64))
    limits = torch.empty(classes) if thresholds else None
    _run(labelled, torch.zeros(32, dtype=torch.int64), weak, strong, limits, 0.95, True, with_grad)


CASES = {
    "fixmatch": lambda: step(7),
    "flexmatch": lambda: step(8, thresholds=True),
    "bf16": lambda: step(8, torch.bfloat16),
    "widest": lambda: step(16),
}
FAST = {"fixmatch"}
