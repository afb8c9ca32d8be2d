"""Mixture of experts on a vector: LEAF's decoupling and fusing at its semantic and instance levels (Eqs. 2-5)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.kernels import mix_experts, topk_gate

Kind = Literal["linear", "bottleneck", "residual"]
Activation = Literal["softplus", "none"]
Fusion = Literal["linear", "log"]

LEAST_HIDDEN = 8  # hidden width of a bottleneck where half the input's would be less (seven classes: three)


class Experts(nn.Module):
    """x [B, D] -> [B, D]: the outputs of `count` experts weighted by a gate that keeps the `top_k` largest of each row.

    linear: W x + b. bottleneck: W2 ReLU(W1 x + b1) + b2 with D // 2 hidden units. residual: x + bottleneck (Figure 3).
    All experts are computed for all rows, as two batched products: their number is small and shapes stay static.
    With one expert there is no gate. fusion "log" is log of the weighted sum of exp(output), taken about its largest
    part, where the released code takes it plainly and overflows above 88.7.
    """

    def __init__(
        self, width: int, count: int, top_k: int, *, kind: Kind, activation: Activation, fusion: Fusion
    ) -> None:
        super().__init__()
        self.top_k = min(top_k, count)
        self.kind, self.activation, self.fusion = kind, activation, fusion
        hidden = width if kind == "linear" else max(width // 2, LEAST_HIDDEN)
        self.weight1, self.bias1 = _uniform(width, count, width, hidden), _uniform(width, count, hidden)
        if kind != "linear":
            self.weight2, self.bias2 = _uniform(hidden, count, hidden, width), _uniform(hidden, count, width)
        if count > 1:
            self.gate = _uniform(width, width, count)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.outputs(x)
        if outputs.shape[1] == 1:
            return outputs.squeeze(1)
        weights = topk_gate(x @ self.gate, self.top_k, activation=self.activation)
        return mix_experts(weights, outputs) if self.fusion == "linear" else _log_fusion(weights, outputs)

    def outputs(self, x: Tensor) -> Tensor:
        """Every expert's answer [B, N, D] to x [B, D]."""
        y = torch.einsum("bi,nij->bnj", x, self.weight1) + self.bias1
        if self.kind == "linear":
            return y
        y = torch.einsum("bnj,njo->bno", F.relu(y), self.weight2) + self.bias2
        return y + x.unsqueeze(1) if self.kind == "residual" else y


def _log_fusion(weights: Tensor, outputs: Tensor) -> Tensor:
    """log sum_j weights [B, N] exp(outputs [B, N, D]) over the experts with a weight."""
    unused = (weights == 0).unsqueeze(2)
    largest = outputs.detach().masked_fill(unused, -torch.inf).amax(dim=1)
    shifted = (outputs - largest.unsqueeze(1)).masked_fill(unused, 0.0)
    return mix_experts(weights, shifted.exp()).log() + largest


def _uniform(inputs: int, *shape: int) -> nn.Parameter:
    """A parameter that starts as `nn.Linear`'s do: uniform within 1 / sqrt(inputs)."""
    bound = inputs**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
