"""The launches of augmentation to compile ahead of time: grey and RGB, resized or not."""

from __future__ import annotations

import torch

from ferbench.kernels.augmentation.op import _run


def step(side: int, channels: int, size: int, operations: int = 3) -> None:
    """One call on unfilled images [64, side, side, channels]."""
    images = torch.empty(64, side, side, channels, dtype=torch.uint8)
    plan = torch.empty(64, 8 * operations + 7, dtype=torch.int32)
    _run(images, plan, size, 8, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], False)


CASES = {
    "strong-grey-48": lambda: step(48, 1, 48),
    "strong-grey-224": lambda: step(48, 1, 224),
    "strong-rgb-224": lambda: step(100, 3, 224),
    "weak-grey-48": lambda: step(48, 1, 48, operations=0),
    "weak-rgb-224": lambda: step(100, 3, 224, operations=0),
}
FAST = {"strong-grey-48"}
