"""The launches of augmentation to compile ahead of time: grey and RGB, resized or not, gathered or not."""

from __future__ import annotations

import torch

from ferbench.kernels.augmentation.op import _run


def step(side: int, channels: int, size: int, operations: int = 3, gathered: bool = True, cubic: bool = False) -> None:
    """One call on unfilled images [N, side, side, channels]."""
    images = torch.empty(100, side, side, channels, dtype=torch.uint8)
    plan = torch.empty(64, 8 * operations + 7, dtype=torch.int32)
    indices = torch.empty(64, dtype=torch.int64) if gathered else None
    interpolation = "bicubic" if cubic else "bilinear"
    _run(images, plan, indices, size, 8, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], interpolation, False)  # type: ignore[arg-type]


CASES = {
    "strong-grey-48": lambda: step(48, 1, 48),
    "strong-grey-224": lambda: step(48, 1, 224),
    "strong-rgb-224": lambda: step(100, 3, 224, gathered=False),
    "strong-rgb-cubic": lambda: step(100, 3, 224, cubic=True),
    "weak-grey-48": lambda: step(48, 1, 48, operations=0),
    "weak-rgb-224": lambda: step(100, 3, 224, operations=0),
}
FAST = {"strong-grey-48"}
