"""The launches of the pseudo-label kernels to compile ahead of time."""

from __future__ import annotations

import torch

from ferbench.kernels.pseudo.op import _run, _run_counts


def step(
    rows: int, classes: int, dtype: torch.dtype = torch.float32, mixed: bool = True, released: bool = False
) -> None:
    """One call on unfilled tensors, with per-class thresholds."""
    logits = torch.empty(rows, classes, dtype=dtype)
    _run(logits, torch.empty_like(logits) if mixed else None, torch.empty(classes), 0.5, 0.0, released)


def counts(rows: int, changed: bool) -> None:
    """One count of unfilled labels."""
    label, keep = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.bool)
    _run_counts(label, keep, label, keep if changed else None)


CASES = {
    "paper": lambda: step(64, 7),
    "paper-bf16": lambda: step(64, 8, torch.bfloat16),
    "released": lambda: step(64, 7, released=True),
    "plain": lambda: step(64, 7, mixed=False),
    "wide": lambda: step(4096, 1000),
    "widest": lambda: step(64, 8192),
    "counts": lambda: counts(64, changed=False),
    "counts-changed": lambda: counts(448, changed=True),
}
FAST = {"paper", "released", "counts"}
