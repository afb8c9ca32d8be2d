"""The launches of centre + ETF to compile ahead of time, one per kernel and type worth a budget."""

from __future__ import annotations

import torch

from ferbench.kernels.center_etf.op import _backward, _forward


def step(
    rows: int, classes: int, width: int, dtype: torch.dtype = torch.float32, more: int = 0,
    centers_dtype: torch.dtype = torch.float32,
) -> None:  # fmt: skip
    """Forward and backward on unfilled tensors, `rows` masked ones and `more` of a second set."""
    centers, grad = torch.empty(classes, width, dtype=centers_dtype), torch.empty(())

    def rows_of(count: int) -> tuple[torch.Tensor | None, ...]:
        return torch.empty(count, width, dtype=dtype), torch.zeros(count, dtype=torch.int64), torch.empty(count).bool()

    others = (*rows_of(more), torch.ones(()), 1.0) if more else (None, None, None, None, 1.0)
    inputs = centers, *rows_of(rows), None, 2.0, *others
    _, *state = _forward(*inputs, True)
    _backward(*inputs, *state, grad, grad, True)


CASES = {
    "paper-both": lambda: step(64, 7, 512, more=64),
    "paper-wide": lambda: step(64, 8, 2048),
    "paper-bf16": lambda: step(64, 8, 512, torch.bfloat16),
    "most-centers": lambda: step(64, 16, 512),
    "rows": lambda: step(65_536, 7, 512),
    "pairs": lambda: step(4096, 200, 512),
    "pairs-bf16": lambda: step(4096, 1000, 512, torch.bfloat16),
    "gram": lambda: step(4096, 2000, 512),
    "gram-bf16": lambda: step(4096, 4000, 512, torch.bfloat16),  # sorted labels
    "float64": lambda: step(64, 7, 512, torch.float64, centers_dtype=torch.float16),
    "pairs-float64": lambda: step(64, 20, 512, torch.float64, centers_dtype=torch.float16),
}
FAST = {"paper-both"}
