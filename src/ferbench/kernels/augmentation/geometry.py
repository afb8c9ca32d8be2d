"""Batched geometric operations on uint8 images [B, C, H, W]: affine maps, Cutout, crop and flip.

Affine maps take the nearest source pixel and fill with 0. A map is six int32 numbers (a, b, c, d, e, f) in units of
2^-16 pixel: output pixel (x, y) comes from source pixel ((a x + b y + c) >> 16, (d x + e y + f) >> 16). It is Pillow's
own arithmetic, so results equal Pillow's `Image.rotate` and `Image.transform`. torchvision's `affine` and `rotate`
(nearest, fill 0) use float32 and differ only where a source coordinate lies within (H + W) 2^-17 of a pixel's border.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FILL = (125, 123, 114)  # FixMatch's Cutout colour, R, G, B
GREY_FILL = 123  # its luma, rounded


def affine(images: Tensor, maps: Tensor) -> Tensor:
    """images [B, C, H, W] through maps [B, 6] int32 (see the module), nearest pixel, 0 outside the source."""
    batch, channels, height, width = images.shape
    a, b, c, d, e, f = maps.view(batch, 6, 1, 1).unbind(1)
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device).unsqueeze(1)
    # A border of one zero pixel stands for everything outside, so that clamping replaces a mask.
    column = ((a * x + (b * y + c)) >> 16).clamp_(-1, width)
    row = ((d * x + (e * y + f)) >> 16).clamp_(-1, height)
    index = (row * (width + 2) + column).add_(width + 3).long().view(batch, 1, -1).expand(-1, channels, -1)
    padded = functional.pad(images, (1, 1, 1, 1)).view(batch, channels, -1)
    return padded.gather(2, index).view(images.shape)


def cutout(images: Tensor, boxes: Tensor) -> Tensor:
    """images with the box [B, 4] (left, top, right, bottom; right and bottom included) painted in the fill colour."""
    batch, channels, height, width = images.shape
    left, top, right, bottom = boxes.view(batch, 4, 1, 1, 1).unbind(1)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device).unsqueeze(1)
    inside = ((x >= left) & (x <= right)) & ((y >= top) & (y <= bottom))
    fill = torch.tensor(FILL if channels == 3 else (GREY_FILL,), dtype=torch.uint8, device=images.device)
    return torch.where(inside, fill.view(-1, 1, 1), images)


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """images [B, C, H, W] padded with `padding` zeros on every side, cut to H x W at (top, left), then mirrored or not.

    top, left: [B] int64 from 0 to 2 * padding; mirrored: [B] bool, left to right; all on the host.
    """
    batch, channels, height, width = images.shape
    if batch == 0:
        return images
    chosen = mirrored.nonzero().flatten()
    tall, wide = height + 2 * padding, width + 2 * padding
    inner = slice(padding, padding + height), slice(padding, padding + width)
    padded = images.new_zeros(batch + len(chosen), channels, tall, wide)
    padded[:batch, :, *inner] = images
    padded[batch:, :, *inner] = images.index_select(0, chosen.to(images.device)).flip(3)
    image = torch.arange(batch).index_copy_(0, chosen, torch.arange(batch, batch + len(chosen)))
    left = torch.where(mirrored, 2 * padding - left, left)
    corner = (image * channels * tall + top) * wide + left
    step = torch.arange(channels).view(-1, 1) * (tall * wide) + torch.arange(height) * wide
    start = (corner.view(-1, 1, 1) + step).flatten().to(images.device)
    # Every run of `width` pixels in memory as a row of an overlapping view: the crop then copies whole rows.
    runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    return runs.index_select(0, start).view(images.shape)
