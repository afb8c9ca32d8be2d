"""The launches of the gate and the mixture to compile ahead of time, one per kernel and size worth a budget."""

from __future__ import annotations

import torch

from ferbench.kernels.gate.op import _gate_backward, _gate_forward, _mix_backward, _mix_forward


def gate(rows: int, experts: int, k: int, dtype: torch.dtype = torch.float32, softplus: bool = True) -> None:
    """Forward and backward of the gate on unfilled logits [rows, experts]."""
    logits = torch.empty(rows, experts, dtype=dtype)
    weights = _gate_forward(logits, k, softplus)
    _gate_backward(logits, weights, logits, softplus)


def mix(rows: int, experts: int, features: int, dtype: torch.dtype = torch.float32) -> None:
    """Forward and backward of the mixture on unfilled outputs [rows, experts, features]."""
    weights, outputs = torch.empty(rows, experts, dtype=dtype), torch.empty(rows, experts, features, dtype=dtype)
    _mix_backward(_mix_forward(weights, outputs), weights, outputs)


CASES = {
    "gate-paper": lambda: gate(64, 4, 2),
    "gate-raw": lambda: gate(64, 4, 2, softplus=False),
    "gate-bf16": lambda: gate(64, 8, 2, torch.bfloat16),
    "gate-widest": lambda: gate(4096, 256, 8),
    "mix-paper": lambda: mix(64, 4, 512),
    "mix-classes": lambda: mix(64, 4, 7),
    "mix-predictions": lambda: mix(65_536, 16, 7),
    "mix-most-together": lambda: mix(4096, 256, 8),
    "mix-bf16": lambda: mix(4096, 8, 2048, torch.bfloat16),
}
FAST = {"gate-paper", "mix-paper"}
