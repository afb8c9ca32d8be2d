"""The launches of the contrast to compile ahead of time, one per kernel and type worth a budget."""

from __future__ import annotations

import torch

from ferbench.kernels.contrast.op import _large, _large_backward, _small, _small_grad


def small(samples: int, features: int, dtype: torch.dtype = torch.float32, with_grad: bool = True) -> None:
    """One launch on unfilled, masked views [samples, features]."""
    view, mask = torch.empty(samples, features, dtype=dtype), torch.empty(samples, dtype=torch.bool)
    (_small_grad if with_grad else _small)(view, view, mask, 0.07, True)


def large(
    samples: int, features: int, dtype: torch.dtype = torch.float32, temperature: float = 0.07, masked: bool = False
) -> None:
    """Forward and backward on unfilled views [samples, features]."""
    view = torch.empty(samples, features, dtype=dtype)
    mask = torch.ones(samples, dtype=torch.bool) if masked else None
    _, *saved = _large(view, view, mask, temperature, True)
    _large_backward(torch.empty(()), *saved, mask, features, dtype, temperature, True)


CASES = {
    "small-paper": lambda: small(16, 512),
    "small-tiny": lambda: small(3, 7),
    "small-batch-32": lambda: small(32, 512),
    "small-batch-64": lambda: small(64, 512),
    "small-largest": lambda: small(128, 128),
    "small-bf16": lambda: small(64, 512, torch.bfloat16),
    "small-no-grad": lambda: small(64, 512, with_grad=False),
    "large": lambda: large(4096, 128),
    "large-wide": lambda: large(4096, 512, masked=True),
    "large-bf16": lambda: large(131072, 128, torch.bfloat16),
    "large-bf16-masked": lambda: large(4096, 128, torch.bfloat16, masked=True),
    "large-bf16-wide": lambda: large(4096, 512, torch.bfloat16),
    "large-cold": lambda: large(4096, 128, torch.bfloat16, temperature=0.01),
}
FAST = {"small-paper", "large-bf16"}
