"""A transformer decoder in the place of the linear head: one learnable query per class reads the encoder's tokens.

Source: PLL-FER (Wang et al., arXiv 2209.15402), Sec. III-C and Fig. 2, after DETR (Carion et al., ECCV 2020) and
Query2Label (Liu et al., 2021). Legend: K classes, T tokens, D width.

The paper gives two blocks, queries [K, D] and a logit per query; heads, width, dropout and normalisation are the
defaults of the two papers it cites: 8 heads, 4 D hidden units, dropout 0.1, normalisation before each part. The tokens
get no further position code: a transformer's patches have theirs, a ConvNet's cells know their place from the padding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8  # of attention, where they divide the width


class QueryDecoder(nn.Module):
    """tokens [B, T, D] -> logits [B, K]. `spread`: queries start at `uniform_positions`, else from N(0, 0.02^2)."""

    def __init__(self, classes: int, width: int, *, blocks: int, dropout: float, spread: bool) -> None:
        super().__init__()
        self.queries = nn.Parameter(uniform_positions(classes, width) if spread else 0.02 * torch.randn(classes, width))
        heads = math.gcd(HEADS, width)
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.randn(classes, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, tokens)
        logits: Tensor = (self.norm(x) * self.weight).sum(dim=2) + self.bias
        return logits


def uniform_positions(classes: int, width: int) -> Tensor:
    """Unit vectors [K, D] as far apart as K <= D of them can be: a randomly turned simplex, each cosine -1 / (K - 1).

    That is where L_uniform is smallest, in closed form. Drawn from torch's default generator.
    """
    assert 2 <= classes <= width
    frame = torch.linalg.qr(torch.randn(width, classes)).Q.T  # K orthonormal rows
    return F.normalize(frame - frame.mean(dim=0), dim=1)


def uniformity(queries: Tensor, tau: float, *, with_self: bool) -> Tensor:
    """L_uniform = 1/K sum_i log sum_j exp(t_i . t_j / tau) of the unit vectors along queries [K, D] (Eq. 2), 0-d.

    with_self: whether j = i is in the sum, as printed. By log-sum-exp: exp(1 / tau) overflows at tau = 0.001.
    """
    with torch.autocast(queries.device.type, enabled=False):  # else the product is in half precision
        unit = F.normalize(queries.float(), dim=1)
        similarity = unit @ unit.T / tau
    if not with_self:
        own = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        similarity = similarity.masked_fill(own, -math.inf)
    return similarity.logsumexp(dim=1).mean()
