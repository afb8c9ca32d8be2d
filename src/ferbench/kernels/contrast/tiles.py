"""Launch sizes of the contrast kernels: fixed tables by machine and type, no tuning at run time. Needs no Triton."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype, target

MAX_FEATURES = 8192  # of a row, which the kernel that normalises it holds in registers


@dataclass(frozen=True)
class Tiles:
    """One launch of the tile kernels.

    A program owns `own` rows and meets `other` rows at a time (`own` is a multiple of `other`); products run over
    `block` features; `warps` and `stages` are Triton's.
    """

    own: int
    other: int
    block: int
    warps: int
    stages: int


@dataclass(frozen=True)
class SmallTiles:
    """The launches of a small batch: cosines in tiles of `square` rows; then a program owns `own` rows and `block`
    features, holds `every` row of both views, and has `warps`."""

    square: int
    every: int
    own: int
    block: int
    warps: int


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


def mask_numbers(mask: Tensor | None, features: Tensor) -> Tensor:
    """What a kernel loads as its mask, [N], 0 for a row left out; `features`, which it does not read, without a mask.

    The mask's own bytes, but numbers of 64 bits beside float64: Triton lays out the operands of a product after the
    narrowest load that they depend on, and on NVIDIA it has no float64 product for the layout that a byte gives.
    """
    if mask is None:
        return features
    return mask.double() if features.dtype == torch.float64 else mask


def padded_features(features: int) -> int:
    """Columns of a stored unit row: a power of two from 16 to 64, or a multiple of 64."""
    return max(16, 1 << (features - 1).bit_length()) if features <= 64 else -(-features // 64) * 64


def small_tiles(samples: int, machine: str) -> SmallTiles:
    """The launches of up to 128 samples: what fits the 99 KiB of shared memory that every GPU since sm_80 has."""
    every = max(16, 1 << (2 * samples - 1).bit_length())
    return SmallTiles(
        square=16 if every <= 64 else 32,
        every=every,
        own=16 if every >= 128 else min(every, 32),
        block=32,
        warps=max(2, min(8 if machine.startswith("sm") else 4, every // 16)),
    )


def large_tiles(operand: torch.dtype, padded: int, machine: str, backward: bool) -> Tiles:
    """The launch for unit rows of type `operand` and `padded` columns on `machine`: the largest that does not spill."""
    narrow = min(padded, 64)
    whole = 128 if padded == 128 else narrow
    if operand == torch.bfloat16 and machine == "sm100":
        return Tiles(64, 32, whole, warps=8, stages=1)
    if operand == torch.bfloat16 and machine.startswith("sm"):
        if backward:
            return Tiles(
                128, 64 if machine == "sm90" else 32, whole if machine == "sm90" else narrow, warps=8, stages=2
            )
        return Tiles(128, 64, whole, warps=8, stages=2)
    if backward and machine in ("sm86", "sm89", "sm120"):
        return Tiles(32, 16 if machine == "sm120" else 32, narrow, warps=4, stages=1)
    warps, stages = {"sm90": (8, 2), "sm100": (4, 2), "gfx942": (4, 2)}.get(machine, (8, 1))
    return Tiles(64, 32, narrow, warps, stages)
