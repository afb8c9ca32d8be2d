"""Speed case of the centre + ETF loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Work
from ferbench.kernels import center_etf_loss, reference


class CenterEtf(Case):
    """Forward and backward to features and centres; beyond paper size for few classes and for very many."""

    op = "center_etf_loss"
    sizes = {
        "quick": {"B": 64, "K": 7, "D": 512},
        "paper": {"B": 64, "K": 7, "D": 512},
        "rows": {"B": 65_536, "K": 7, "D": 512},
        "pairs": {"B": 4096, "K": 1000, "D": 512},
        "squared": {"B": 65_536, "K": 20_000, "D": 512},
        "large": {"B": 65_536, "K": 100_000, "D": 512},
    }
    inexact = 1e-4

    def floor(self, size: dict[str, int]) -> Work:
        """Features read twice and their gradient written; of the centres' products two, of three bfloat16 ones each."""
        rows, classes, width = size["B"], size["K"], size["D"]
        return Work(12 * (rows + 2 * classes) * width, 12 * classes * width * min(classes, width), launches=2)

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        features = torch.randn(size["B"], size["D"], device=device, requires_grad=True)
        centers = torch.randn(size["K"], size["D"], device=device, requires_grad=True)
        labels = torch.randint(size["K"], (size["B"],), device=device)
        return [features, labels, centers, torch.rand(size["B"], device=device) > 0.3]

    def ours(self, features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor) -> Sequence[Tensor]:
        return center_etf_loss(features, labels, centers, mask=mask)

    def eager(self, features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor) -> Sequence[Tensor]:
        return reference.center_etf_loss(features, labels, centers, mask=mask)

    def others(self) -> dict[str, Forward]:
        return {"released": released}


def released(features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor) -> Sequence[Tensor]:
    """The computation of ReMoP's code: all B x K distances masked to one per row, and K x K matrices for the ETF."""
    distances = features.square().sum(1, keepdim=True) + centers.square().sum(1) - 2.0 * features @ centers.T
    own = labels[:, None] == torch.arange(len(centers), device=labels.device)
    center = (distances * (own & mask[:, None])).clamp(1e-12, 1e12).sum() / mask.sum()
    centred = centers - centers.mean(0)
    unit = centred / centred.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    shift = torch.diag(torch.full((len(centers),), 1.0 / (len(centers) - 1), device=labels.device))
    return center, (cosines - torch.diag(torch.diag(cosines)) - shift).norm()
