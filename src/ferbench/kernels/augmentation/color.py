"""Batched colour operations on uint8 images [B, C, H, W], C = 1 or 3, one parameter per image.

An operation whose result at a pixel depends on that pixel's value alone is a look-up table of 256 entries per image
(and channel where it must be): `*_lut` builds it, `apply_lut` looks up. Against torchvision.transforms.v2.functional
on uint8 with the same parameters: autocontrast, brightness, equalize, posterize and solarize are equal; color, contrast
and sharpness are within 1 of 255, because they blend in 16-bit fixed point (and contrast rounds the mean, color the
luma, as Pillow does): integers give the same bits on every device and for every batch split.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256
ONE = 1 << 16
LUMA = (19595, 38470, 7471)  # ITU-R 601 weights in units of 2^-16, as Pillow's convert("L")


def apply_lut(images: Tensor, lut: Tensor) -> Tensor:
    """images [B, C, H, W] uint8 through lut [B, C or 1, 256] uint8: every value v of image b becomes lut[b, c, v]."""
    batch, channels = images.shape[:2]
    index = images.reshape(batch, channels, -1).long()
    if lut.shape[1] < channels:
        index = index.view(batch, 1, -1)
    return lut.gather(2, index).view(images.shape)


def brightness_lut(factor: Tensor) -> Tensor:
    """[B, 1, 256] for factor [B] in [0, 1]: v * factor, fraction dropped."""
    levels = torch.arange(LEVELS, dtype=torch.float32, device=factor.device)
    return (levels * factor.float().view(-1, 1, 1)).to(torch.uint8)


def posterize_lut(bits: Tensor) -> Tensor:
    """[B, 1, 256] for bits [B], integers from 0 to 8: the highest `bits` bits of v are kept."""
    levels = torch.arange(LEVELS, device=bits.device)
    return (levels & ~((1 << (8 - bits.long().view(-1, 1, 1))) - 1)).to(torch.uint8)


def solarize_lut(threshold: Tensor) -> Tensor:
    """[B, 1, 256] for threshold [B] in [0, 256]: v from the threshold on becomes 255 - v."""
    levels = torch.arange(LEVELS, device=threshold.device)
    return torch.where(levels >= threshold.view(-1, 1, 1), 255 - levels, levels).to(torch.uint8)


def autocontrast_lut(images: Tensor) -> Tensor:
    """[B, C, 256]: each channel's range of values stretched to 0 to 255; a constant channel stays."""
    low = images.amin((2, 3)).float().unsqueeze(2)
    high = images.amax((2, 3)).float().unsqueeze(2)
    levels = torch.arange(LEVELS, dtype=torch.float32, device=images.device)
    constant = low == high
    scale = torch.where(constant, 1.0, (high - low) * (1.0 / 255.0))
    return (levels - low.masked_fill(constant, 0.0)).div(scale).clamp(0, 255).to(torch.uint8)


def histogram(images: Tensor) -> Tensor:
    """[B, C, 256] int32: how many pixels of each channel have each value."""
    batch, channels = images.shape[:2]
    index = images.reshape(batch, channels, -1).long()
    counts = torch.zeros(batch, channels, LEVELS, dtype=torch.int32, device=images.device)
    return counts.scatter_add_(2, index, torch.ones((), dtype=torch.int32, device=images.device).expand_as(index))


def equalize_lut(images: Tensor) -> Tensor:
    """[B, C, 256]: each channel's histogram flattened by Pillow's rule; too few distinct values leave it as it is."""
    counts = histogram(images)
    cumulative = counts.cumsum(2, dtype=torch.int32)
    pixels = images.shape[2] * images.shape[3]
    levels = torch.arange(LEVELS, dtype=torch.int32, device=images.device)
    highest = torch.where(counts > 0, levels, 0).amax(2, keepdim=True)
    step = (pixels - counts.gather(2, highest.long())).div(255, rounding_mode="floor")
    below = cumulative - counts
    lut = (below + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    return torch.where(step > 0, lut, levels).to(torch.uint8)


def luma(images: Tensor) -> Tensor:
    """[B, 1, H, W] int32: brightness of RGB images, rounded as Pillow rounds; of grey ones the values themselves."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().unsqueeze(2).unbind(1)
    return (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + ONE // 2) >> 16


def fixed(factor: Tensor) -> Tensor:
    """Blend factors [B] in [0, 1] as int32 in units of 2^-16, rounded in float32 as the kernel does."""
    return (factor.float() * ONE + 0.5).floor().int()


def contrast_lut(images: Tensor, factor: Tensor) -> Tensor:
    """[B, 1, 256] for factor [B] in [0, 1]: v blended with the image's mean brightness (rounded)."""
    pixels = images.shape[2] * images.shape[3]
    mean = (luma(images).sum((2, 3)) * 2 + pixels).div(2 * pixels, rounding_mode="floor").int().view(-1, 1, 1)
    weight = fixed(factor).view(-1, 1, 1)
    levels = torch.arange(LEVELS, dtype=torch.int32, device=images.device)
    return ((levels * weight + mean * (ONE - weight)) >> 16).to(torch.uint8)


def autocontrast(images: Tensor) -> Tensor:
    """torchvision's autocontrast, equal."""
    return apply_lut(images, autocontrast_lut(images))


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_brightness with factor [B], equal."""
    return apply_lut(images, brightness_lut(factor))


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_contrast with factor [B], within 1."""
    return apply_lut(images, contrast_lut(images, factor))


def equalize(images: Tensor) -> Tensor:
    """torchvision's equalize, equal."""
    return apply_lut(images, equalize_lut(images))


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """torchvision's posterize with bits [B], equal."""
    return apply_lut(images, posterize_lut(bits))


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """torchvision's solarize with threshold [B], equal."""
    return apply_lut(images, solarize_lut(threshold))


def color(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_saturation with factor [B], within 1; a grey image stays."""
    if images.shape[1] == 1:
        return images
    weight = fixed(factor).view(-1, 1, 1, 1)
    return ((images.int() * weight + luma(images) * (ONE - weight)) >> 16).to(torch.uint8)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_sharpness with factor [B] in [0, 1], within 1; the outermost pixels stay.

    The image is blended with its smoothed form, the 3 x 3 mean with weight 5 in the middle and 1 around it, over 13.
    """
    if min(images.shape[2:]) <= 2:
        return images
    values = images.int()
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    centre = values[..., 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * centre
    smooth = ((2 * total + 13) * 20165) >> 19  # total / 13, rounded: 20165 / 2^19 is 1 / 26, exact for all totals
    weight = fixed(factor).view(-1, 1, 1, 1)
    inner = (centre * weight + smooth * (ONE - weight)) >> 16
    result = images.clone()
    result[..., 1:-1, 1:-1] = inner
    return result
