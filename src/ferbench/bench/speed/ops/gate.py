"""Speed cases of the top-k gate and of the mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Step, Work
from ferbench.kernels import mix_experts, reference, topk_gate


class Gate(Case):
    """Gate logits [B, N] to weights, with LEAF's softplus, forward and backward."""

    op = "topk_gate"
    sizes = {
        "quick": {"B": 64, "N": 4, "k": 2},
        "paper": {"B": 64, "N": 4, "k": 2},
        "experts": {"B": 65_536, "N": 16, "k": 2},
        "rows": {"B": 1_000_000, "N": 64, "k": 2},
        "wide": {"B": 65_536, "N": 256, "k": 8},
    }

    def floor(self, size: dict[str, int]) -> Work:
        """Two passes over [B, N] forward, four backward."""
        return Work(24 * size["B"] * size["N"], launches=2)

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        shape = size["B"], size["N"]
        # distinct values in a row: torch.topk does not say which of two equal ones it takes
        logits = 8.0 * torch.rand(shape, device=device).argsort(1) / size["N"] - 4.0
        return [logits.requires_grad_(), size["k"], torch.randn(shape, device=device)]

    def ours(self, logits: Tensor, k: int) -> Sequence[Tensor]:
        return [topk_gate(logits, k)]

    def eager(self, logits: Tensor, k: int) -> Sequence[Tensor]:
        values, chosen = logits.topk(k, dim=1)
        return [torch.zeros_like(logits).scatter(1, chosen, F.softplus(values).softmax(1))]

    def bound(self, forward: Forward, inputs: Inputs, backward: bool = True) -> Step:
        """The last input is the incoming gradient: a row's weights sum to 1, so that a constant one has no effect."""
        logits, k, incoming = inputs

        def step() -> list[Tensor]:
            (weights,) = forward(logits, k)
            return [weights.detach(), *(torch.autograd.grad(weights, logits, incoming) if backward else ())]

        return step


class Mixture(Case):
    """Weights [B, N], k of a row not 0, and experts' outputs [B, N, D] to [B, D], forward and backward to both."""

    op = "mix_experts"
    sizes = {
        "quick": {"B": 64, "N": 4, "k": 2, "D": 512},
        "paper": {"B": 64, "N": 4, "k": 2, "D": 512},
        "predictions": {"B": 65_536, "N": 16, "k": 2, "D": 7},
        "features": {"B": 65_536, "N": 8, "k": 8, "D": 512},
        "wide": {"B": 4096, "N": 256, "k": 8, "D": 512},
    }

    def floor(self, size: dict[str, int]) -> Work:
        """The k outputs that count read, all read and their gradients written backward, the mixture's once each way."""
        return Work(4 * size["B"] * size["D"] * (size["k"] + 2 * size["N"] + 2), launches=2)

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        weights = reference.topk_gate(torch.randn(size["B"], size["N"], device=device), size["k"])
        outputs = torch.randn(size["B"], size["N"], size["D"], device=device)
        return [weights.requires_grad_(), outputs.requires_grad_()]

    def ours(self, weights: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        return [mix_experts(weights, outputs)]

    def eager(self, weights: Tensor, outputs: Tensor) -> Sequence[Tensor]:
        return [torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)]

    def others(self) -> dict[str, Forward]:
        return {"guarded": lambda weights, outputs: [reference.mix_experts(weights, outputs)], "released": released}


def released(weights: Tensor, outputs: Tensor) -> Sequence[Tensor]:
    """The computation of LEAF's code: the experts are summed as exponentials, zeros replaced before the logarithm."""
    mixed = (weights.unsqueeze(2) * outputs.exp()).sum(1)
    return [mixed.masked_fill(mixed == 0, torch.finfo(torch.float64).eps).log()]
