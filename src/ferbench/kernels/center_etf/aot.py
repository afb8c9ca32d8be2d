"""The launches of centre + ETF to compile ahead of time, one per kernel and type worth a budget."""

from __future__ import annotations

import torch

from ferbench.kernels.center_etf.op import _backward, _forward


def step(rows: int, classes: int, width: int, dtype: torch.dtype = torch.float32, masked: bool = True) -> None:
    """Forward and backward on unfilled tensors: rows [B], classes [K] and width [D] select the kernels."""
    features, centers = torch.empty(rows, width, dtype=dtype), torch.empty(classes, width)
    labels, grad = torch.zeros(rows, dtype=torch.int64), torch.empty(())
    mask = torch.empty(rows, dtype=torch.bool) if masked else None
    _, etf, scale, matrix, r, mean, total = _forward(features, labels, centers, mask, True, True)
    _backward(features, labels, centers, mask, etf, scale, matrix, r, mean, total, grad, grad, True)


CASES = {
    "paper": lambda: step(64, 7, 512),
    "paper-wide": lambda: step(64, 8, 1024),
    "paper-bf16": lambda: step(64, 8, 512, torch.bfloat16),
    "pairs": lambda: step(4096, 200, 512),
    "gram": lambda: step(4096, 2000, 512),
    "gram-bf16": lambda: step(4096, 2000, 512, torch.bfloat16),
}
FAST = {"paper"}
