"""timm's vision transformer with patches left out, and images as rows of patches.

Everything here works on a plain ViT: one class token, absolute positions, square patches (any size, depth and width).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def check_plain(encoder: nn.Module, wanted_by: str) -> None:
    """Raise ValueError where `encoder` is not a ViT that these functions understand."""
    plain = all(hasattr(encoder, name) for name in ("patch_embed", "cls_token", "pos_embed", "blocks", "norm"))
    if not plain or getattr(encoder, "num_prefix_tokens", 0) != 1 or getattr(encoder, "no_embed_class", False):
        raise ValueError(f"{wanted_by} needs a plain vision transformer: vit_base, vit_small or vit_tiny")


def tokens(vit: Any, images: Tensor, replace: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """[B, L, D]: embedded patches with their positions; `replace` changes them before the positions are added."""
    embedded: Tensor = vit.patch_embed(images)
    placed: Tensor = (replace(embedded) if replace else embedded) + vit.pos_embed[:, 1:]
    return placed


def encode(vit: Any, patches: Tensor) -> Tensor:
    """[B, 1 + n, D]: the class token and n patches (any n) through the blocks and the last normalisation."""
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(patches), -1, -1)
    sequence = vit.norm_pre(vit.pos_drop(torch.cat([first, patches], dim=1)))
    encoded: Tensor = vit.norm(vit.blocks(sequence))
    return encoded


def take(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B, L, D] at index [B, n] -> [B, n, D]."""
    return rows.gather(1, index.unsqueeze(2).expand(-1, -1, rows.shape[2]))


def patchify(images: Tensor, side: int) -> Tensor:
    """[B, 3, S, S] -> [B, L, side * side * 3]: patches in rows; inside a patch row by row, the colours last."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * channels)


def unpatchify(patches: Tensor, side: int) -> Tensor:
    """The inverse of `patchify` for square images."""
    batch, count, width = patches.shape
    rows, channels = round(count**0.5), width // (side * side)
    grid = patches.reshape(batch, rows, rows, side, side, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, rows * side, rows * side)


def sincos_positions(width: int, grid: int) -> Tensor:
    """[1, 1 + grid^2, width] fixed positions: zeros for the class token, then half the width for each axis.

    He et al. (CVPR 2022): sin and cos of the coordinate times 10000^(-i / (width / 4)); the column's half comes first.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width that 4 divides, not {width}")
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angle = torch.arange(grid, dtype=torch.float64).unsqueeze(1) * omega
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # [grid, width / 2]
    column, row = axis.repeat(grid, 1), axis.repeat_interleave(grid, dim=0)
    patches = torch.cat([column, row], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), patches]).float().unsqueeze(0)


def initialise(module: nn.Module) -> None:
    """He et al.'s start: Xavier-uniform matrices without bias, normalisations at one; use with `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
