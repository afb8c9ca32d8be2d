"""Further outputs on the encoder's feature, beside the linear classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Module):
    """Linear, activation, linear, L2 norm: feature [B, D] -> [B, width] on the unit sphere, float32.

    slope: of the leaky activation, 0 for ReLU. several: as many heads of their own, whose outputs are averaged before
    the norm.
    """

    def __init__(self, feature_width: int, width: int, *, slope: float = 0.0, several: int = 1) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(feature_width, feature_width), nn.LeakyReLU(slope), nn.Linear(feature_width, width))
            for _ in range(several)
        )

    def forward(self, features: Tensor) -> Tensor:
        outputs = torch.stack([head(features).float() for head in self.heads])
        return F.normalize(outputs.mean(dim=0), dim=1)
