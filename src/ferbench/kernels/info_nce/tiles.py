"""Launch sizes of the contrast kernels: fixed tables by machine and type, no tuning at run time. Needs no Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype, target


@dataclass(frozen=True)
class Tiles:
    """One launch of the tile kernels.

    `tile` rows by `tile` rows of cosines at a time; products run over `block` features; `warps` and `stages` are
    Triton's.
    """

    tile: int
    block: int
    warps: int
    stages: int


def operand_dtype(features: Tensor) -> torch.dtype:
    """The type in which unit rows are stored and multiplied.

    float16 joins float32: its range loses the softmax weights of a large batch. The interpreter's bfloat16 products
    are wrong, so there bfloat16 joins too.
    """
    if features.dtype == torch.bfloat16 and target(features.device) != "cpu":
        return torch.bfloat16
    return accumulate_dtype(features)


def product(operand: torch.dtype, machine: str) -> str:
    """Triton's `input_precision` for operands of a type on `machine` (a key of `ferbench.kernels.dispatch.target`).

    float32 is multiplied as three bfloat16 products, the accurate form that every tensor core has; the interpreter
    knows only exact products.
    """
    return "bf16x3" if operand == torch.float32 and machine != "cpu" else "ieee"


def feature_block(features: int) -> int:
    """Features per product: a power of two of at least 16."""
    return min(max(16, 1 << (features - 1).bit_length()), 64)


def padded_features(features: int) -> int:
    """Columns of a stored unit row: `features` rounded up to whole blocks."""
    block = feature_block(features)
    return -(-features // block) * block


def large_tiles(operand: torch.dtype, features: int, machine: str) -> Tiles:
    """The launch for unit rows of type `operand` on `machine`."""
    wide = operand == torch.bfloat16 and machine.startswith("sm")
    tile = 128 if wide else 64
    return Tiles(tile, feature_block(features), warps=8 if wide else 4, stages=2)
