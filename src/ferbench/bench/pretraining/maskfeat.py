"""MaskFeat: the encoder sees all patches, some of them blank, and tells the gradient histograms of the blank ones.

Paper: Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training", CVPR 2022; the pre-training of
PLL-FER (Wang et al., arXiv 2209.15402, Sec. III-B, Tables II and VII).

1. Masked patches are drawn one by one; the code takes rectangles of them.
2. PLL-FER says of the encoder that it "only acts on the visible and unmasked patches", which is MAE's way; MaskFeat, as
   PLL-FER cites and names it, puts a learnt token in the place of a masked patch.
3. `mask_ratio`: 0.4 in MaskFeat and in PLL-FER's text; its Table II prints "85%(40%)". `--recipe pll` has the text's.
4. `variant`: how gradients, angles and cells are taken, see `hog`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ferbench.bench.pretraining import vit
from ferbench.bench.pretraining.hog import Variant, hog
from ferbench.bench.pretraining.objective import Masked, mask_of


@dataclass(frozen=True)
class MaskFeatOptions:
    """mask_ratio: share of patches that are blank; cell: pixels a side, must divide a patch; orientations: of 180."""

    mask_ratio: float = 0.4
    cell: int = 8
    orientations: int = 9
    variant: Variant = "maskfeat"


class MaskFeat(Masked):
    Options = MaskFeatOptions
    paper = "Wei et al., CVPR 2022"

    def __init__(self, encoder: nn.Module, options: MaskFeatOptions, size: int) -> None:
        super().__init__(encoder, options, size)
        vit.check_plain(encoder, "maskfeat")
        self.mask_ratio = options.mask_ratio
        self.side = int(self.encoder.patch_embed.patch_size[0])
        if self.side % options.cell:
            raise ValueError(f"cells of {options.cell} pixels do not divide patches of {self.side}; set another cell")
        per_patch = (self.side // options.cell) ** 2 * 3 * options.orientations
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.encoder.embed_dim))
        self.head = nn.Linear(self.encoder.embed_dim, per_patch)
        for weight in (self.mask_token, self.head.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def patches(self) -> int:
        return int(self.encoder.patch_embed.num_patches)

    def targets(self, images: Tensor) -> Tensor:
        cells = hog(
            images, cell=self.options.cell, orientations=self.options.orientations, variant=self.options.variant
        )
        return cells_to_patches(cells, self.side // self.options.cell)

    def reconstruct(self, images: Tensor, order: Tensor, kept: int) -> Tensor:
        predicted: Tensor = self.head(
            vit.encode(self.encoder, blanked(self.encoder, images, self.mask_token, order, kept))[:, 1:]
        )
        return predicted


def blanked(encoder: Any, images: Tensor, token: Tensor, order: Tensor, kept: int) -> Tensor:
    """[B, L, D]: embedded patches with positions, `token` [1, 1, D] in the place of all but order[:, :kept]."""
    mask = mask_of(order, kept).unsqueeze(2)
    return vit.tokens(encoder, images, lambda embedded: torch.where(mask, token.to(embedded.dtype), embedded))


def cells_to_patches(cells: Tensor, inside: int) -> Tensor:
    """[B, cells, F] in rows of the image -> [B, L, inside^2 * F]: the cells of each patch, row by row."""
    batch, count, width = cells.shape
    rows = round(count**0.5) // inside
    grid = cells.reshape(batch, rows, inside, rows, inside, width).transpose(2, 3)
    return grid.reshape(batch, rows * rows, inside * inside * width)
