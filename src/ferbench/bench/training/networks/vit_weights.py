"""Weights of vision transformers from other codes: without their pre-training's decoder, and at another input size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

DECODER = ("decoder_", "decoder.", "mask_token")  # a masked autoencoder's other half


def of_decoder(key: str) -> bool:
    """Whether a masked autoencoder's checkpoint has this entry for its decoder, which fine-tuning does without."""
    return key.startswith(DECODER)


def fit_positions(weights: Mapping[str, Tensor], encoder: nn.Module) -> tuple[dict[str, Tensor], str]:
    """`weights` with position embeddings resampled (bicubic, timm's) to the encoder's grid, and a remark if they were.

    Only square grids with one class token before them are resampled; anything else is left for the shape check.
    """
    fitted, ours = dict(weights), getattr(encoder, "pos_embed", None)
    theirs = fitted.get("pos_embed")
    if not isinstance(ours, Tensor) or theirs is None or theirs.ndim != 3 or theirs.shape[1] == ours.shape[1]:
        return fitted, ""
    side = round((theirs.shape[1] - 1) ** 0.5)
    if side * side != theirs.shape[1] - 1 or theirs.shape[2] != ours.shape[2]:
        return fitted, ""
    embedding: Any = encoder.patch_embed
    height, width = embedding.grid_size
    fitted["pos_embed"] = resample_abs_pos_embed(theirs, [height, width], [side, side], num_prefix_tokens=1)
    return fitted, f"; positions resampled from {side} x {side} to {height} x {width}"
