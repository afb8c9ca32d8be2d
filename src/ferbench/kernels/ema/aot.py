"""The launches of the moving average to compile ahead of time."""

from __future__ import annotations

import torch
from torch import Tensor

from ferbench.kernels.ema.kernel import make_tables, move


def step(dtype: torch.dtype = torch.float32, decay: float | Tensor = 0.999, shrink: float | Tensor = 1.0) -> None:
    """One call on a pair of unfilled tensors."""
    (table,), _ = make_tables([torch.empty(5000, dtype=dtype)], [torch.empty(5000, dtype=dtype)])
    move(table, decay, shrink)


CASES = {
    "float": lambda: step(),
    "tensors": lambda: step(decay=torch.empty(()), shrink=torch.empty(())),
    "bf16": lambda: step(torch.bfloat16),
    "float64": lambda: step(torch.float64),
}
FAST = {"float"}
