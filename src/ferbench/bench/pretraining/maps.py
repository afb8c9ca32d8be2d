"""A ConvNet's last feature map as tokens: one for every square of pixels that a cell of the map stands for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def has_map(encoder: nn.Module) -> bool:
    """Whether `tokens` may be asked of it; a vision transformer, whose patches are tokens already, has none."""
    return hasattr(encoder, "forward_features") and not hasattr(encoder, "patch_embed")


@torch.no_grad()
def cells(encoder: Any, size: int, wanted_by: str) -> tuple[int, int]:
    """(D, P): width of the last map for images of `size` pixels, and pixels a side that a cell stands for."""
    training = encoder.training
    last = encoder.eval().forward_features(torch.zeros(1, 3, size, size))
    encoder.train(training)
    if last.ndim != 4 or last.shape[2] != last.shape[3] or size % last.shape[3]:
        raise ValueError(f"{wanted_by} needs a map of cells that divide {size} pixels, not one of {list(last.shape)}")
    return int(last.shape[1]), size // int(last.shape[3])


def tokens(encoder: Any, images: Tensor) -> Tensor:
    """[B, L, D]: the cells of the last map, row by row."""
    last: Tensor = encoder.forward_features(images)
    return last.flatten(2).transpose(1, 2)
