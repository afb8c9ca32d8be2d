"""Histograms of oriented gradients of batches of images, as targets of pre-training.

Source: Dalal and Triggs, CVPR 2005; two published variants of the details:
    maskfeat  Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training", CVPR 2022, code SlowFast:
              Sobel gradients of the mirrored image, the angle measured from the vertical, sums over a cell
    skimage   scikit-image's `hog` with blocks of one cell and block_norm "L2": centred differences, none at the border,
              the angle measured from the horizontal, means over a cell
Both: each colour by itself, 9 unsigned orientations of 20 degrees, a pixel counts its gradient's length in one of them,
and each cell's histogram is brought to length 1.

Legend: B images of S x S pixels, cells of C x C pixels, (S / C)^2 cells in rows, N orientations.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Variant = Literal["maskfeat", "skimage"]
LEAST_LENGTH = 1e-12  # below which a histogram is left as short as it is (maskfeat)
EPSILON = 1e-5  # added, squared, to the squared length (skimage)


@torch.no_grad()
def hog(images: Tensor, *, cell: int = 8, orientations: int = 9, variant: Variant = "maskfeat") -> Tensor:
    """[B, 3, S, S] -> [B, (S / C)^2, 3 * N]: of each cell the histograms of its colours, in float32 or wider."""
    batch, colours, side, _ = images.shape
    images = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    down, right = _sobel(images) if variant == "maskfeat" else _differences(images)
    angle = torch.atan2(right, down) if variant == "maskfeat" else torch.atan2(down, right)
    bins = (angle / math.pi * orientations).floor().long() % orientations
    length = torch.hypot(down, right)
    cells = side // cell
    histogram = length.new_zeros(batch, colours, cells * cells, orientations)
    histogram.scatter_add_(3, _by_cell(bins, cell), _by_cell(length, cell))
    if variant == "maskfeat":
        histogram = F.normalize(histogram, dim=3, eps=LEAST_LENGTH)
    else:
        histogram = histogram / cell**2
        histogram = histogram / (histogram.square().sum(dim=3, keepdim=True) + EPSILON**2).sqrt()
    return histogram.transpose(1, 2).flatten(2)


def _by_cell(values: Tensor, cell: int) -> Tensor:
    """[B, 3, S, S] -> [B, 3, cells, C * C]."""
    batch, colours, side, _ = values.shape
    cells = side // cell
    grid = values.reshape(batch, colours, cells, cell, cells, cell).transpose(3, 4)
    return grid.reshape(batch, colours, cells * cells, cell * cell)


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients downwards and to the right, both with the sign turned, of images mirrored at their border."""
    across = images.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    mirrored = F.pad(images, (1, 1, 1, 1), mode="reflect")
    down, right = (
        F.conv2d(mirrored, kernel.expand(images.shape[1], 1, 3, 3), groups=images.shape[1])
        for kernel in (across.T, across)
    )
    return down, right


def _differences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of the neighbours below and above, right and left; 0 in the first and last row, or column."""
    down, right = torch.zeros_like(images), torch.zeros_like(images)
    down[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    right[:, :, :, 1:-1] = images[:, :, :, 2:] - images[:, :, :, :-2]
    return down, right
