"""Antialiased bilinear resize of uint8 images in fixed point, as Pillow and torch on the CPU do it.

An output pixel is a weighted mean of neighbouring source pixels, along x first and then along y, rounded to uint8 after
each. The weights are whole numbers in units of 2^-bits.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


@lru_cache(maxsize=64)
def taps(source: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """(first source pixel [size], weights [size, taps], bits), int32, for a side of `source` pixels made `size`."""
    scale = source / size
    stretch = max(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    first = (centre - stretch + 0.5).long().clamp(min=0)
    stop = (centre + stretch + 0.5).long().clamp(max=source)
    place = first.unsqueeze(1) + torch.arange(int((stop - first).max()))
    distance = (place - centre.unsqueeze(1) + 0.5).abs() / stretch
    weights = torch.where(place < stop.unsqueeze(1), (1 - distance).clamp(min=0), 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    # As many bits as an int16 holds.
    bits = max(b for b in range(23) if b == 0 or int(0.5 + weights.max().item() * 2**b) < 2**15)
    fixed = (weights * 2**bits).abs().add(0.5).floor() * weights.sign()
    return first.int().to(device), fixed.int().to(device), bits


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 [B, C, H, W] -> [B, C, size, size]: torchvision's Resize((size, size)) on the CPU, equal on any device."""
    if images.shape[2:] == (size, size):
        return images
    if images.device.type == "cpu":
        if images.shape[1] == 3:
            images = images.contiguous(memory_format=torch.channels_last)  # three times as fast
        return functional.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    images = along_last(images, size)
    return along_last(images.transpose(2, 3), size).transpose(2, 3)


def along_last(images: Tensor, size: int) -> Tensor:
    """uint8 [B, C, H, W] -> [B, C, H, size]."""
    first, weights, bits = taps(images.shape[3], size, images.device)
    total = torch.full((*images.shape[:3], size), 1 << (bits - 1), dtype=torch.int32, device=images.device)
    for i, weight in enumerate(weights.unbind(1)):
        total += images.index_select(3, (first + i).clamp(max=images.shape[3] - 1)) * weight
    return (total >> bits).clamp_(0, 255).to(torch.uint8)
