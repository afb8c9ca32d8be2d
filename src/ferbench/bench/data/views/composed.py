"""SSFER's views: a random resized crop and mirror image, and timm's RandAugment after them for the strong one.

    weak    resized crop (bicubic) -> horizontal flip with p = 0.5 -> normalise
    strong  resized crop (bicubic) -> horizontal flip with p = 0.5 -> timm's operations -> normalise

MAE's pre-training takes the weak one as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ferbench.bench.data.views.resized_crop import WindowParams, draw_windows, resized_crop, windows
from ferbench.bench.data.views.timm_policy import TimmParams, apply_operations, draw_operations
from ferbench.kernels.augmentation.reference import normalise


@dataclass(frozen=True)
class ComposedParams:
    """Windows and flips [B]; operations for a strong view, None for a weak one."""

    windows: WindowParams
    operations: TimmParams | None

    def __getitem__(self, rows: Tensor | slice) -> ComposedParams:
        return ComposedParams(self.windows[rows], None if self.operations is None else self.operations[rows])


def draw_composed(strong: bool, n: int, flip: float, generator: torch.Generator) -> ComposedParams:
    """Parameters of n images."""
    drawn = draw_windows(n, flip, generator)
    return ComposedParams(drawn, draw_operations(n, generator) if strong else None)


def apply_composed(
    images: Tensor, params: ComposedParams, *, size: int, least_area: float, mean: Sequence[float],
    std: Sequence[float], channels_last: bool,
) -> Tensor:  # fmt: skip
    """uint8 [B, H, W, C], C = 1 or 3 -> float32 [B, 3, size, size], normalised."""
    pixels = images.permute(0, 3, 1, 2)
    chosen = windows(params.windows, pixels.shape[2], pixels.shape[3], least_area)
    pixels = resized_crop(pixels, chosen, params.windows.mirrored, size)
    if params.operations is not None:
        pixels = apply_operations(pixels, params.operations, [round(255 * value) for value in mean])
    return normalise(pixels, mean, std, channels_last)
