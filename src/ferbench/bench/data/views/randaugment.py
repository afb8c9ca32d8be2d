"""RandAugment as the semi-supervised FER codes use it (FixMatch's variant): what is drawn, and what it means in pixels.

Three operations drawn with replacement from 14, each always applied, with a magnitude uniform in its range; then
Cutout, always. Sources: RandAugment (Cubuk et al., 2020), FixMatch (Sohn et al., 2020).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferbench.kernels.augmentation.plan import OPERATIONS

# Magnitudes: factor, bits, threshold, degrees, or share of the side. Posterize keeps the integer part: 4 to 7 bits
# in equal shares. Where nothing is said the magnitude has no effect.
RANGES: dict[str, tuple[float, float]] = {
    "identity": (0.0, 1.0),
    "brightness": (0.05, 0.95),
    "posterize": (4.0, 8.0),
    "solarize": (0.0, 256.0),
    "autocontrast": (0.0, 1.0),
    "equalize": (0.0, 1.0),
    "contrast": (0.05, 0.95),
    "color": (0.05, 0.95),
    "sharpness": (0.05, 0.95),
    "rotate": (-30.0, 30.0),
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "translate_x": (-0.3, 0.3),
    "translate_y": (-0.3, 0.3),
}
MOVES = OPERATIONS[OPERATIONS.index("rotate") :]
Amounts = float | NDArray[np.float64]


def affine_maps(
    height: int,
    width: int,
    *,
    rotate: Amounts = 0.0,
    shear_x: Amounts = 0.0,
    shear_y: Amounts = 0.0,
    translate_x: Amounts = 0.0,
    translate_y: Amounts = 0.0,
) -> NDArray[np.int32]:
    """Fixed-point maps [..., 6] for `geometry.affine`, one per entry of the arrays; one array may be non-zero per map.

    rotate: degrees counter-clockwise about the centre; shear_x: source x = x + shear y, about the left top corner;
    shear_y: source y = y + shear x; translate_x, translate_y: source = output + this share of the width or height.
    """
    angle = -np.radians(np.asarray(rotate, np.float64))
    cos, sin = np.cos(angle).round(15), np.sin(angle).round(15)
    x, y = width / 2, height / 2
    a, b, c = cos, sin + shear_x, x - cos * x - sin * y + width * np.asarray(translate_x)
    d, e, f = shear_y - sin, cos, y + sin * x - cos * y + height * np.asarray(translate_y)
    # A pixel's centre is half a pixel from its index.
    entries = np.broadcast_arrays(a, b, c + (a + b) / 2, d, e, f + (d + e) / 2)
    return np.floor(np.stack(entries, -1) * 65536 + 0.5).astype(np.int32)


def operation_maps(operations: Tensor, magnitudes: Tensor, height: int, width: int) -> Tensor:
    """[B, n, 6] int32 maps of operations [B, n] with magnitudes [B, n]; one that moves nothing gets the identity."""
    chosen, amounts = operations.numpy(), magnitudes.numpy()
    moves = {name: np.where(chosen == OPERATIONS.index(name), amounts, 0.0) for name in MOVES}
    return torch.from_numpy(affine_maps(height, width, **moves))


def cutout_boxes(side: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """[B, 4] int64 boxes for `geometry.cutout` from shares: side [B] of the width, centre [B, 2] (x, y) of the size.

    The released codes' rule: the left top corner is centre - side / 2, moved into the image and its fraction dropped;
    the right bottom corner is that corner + side, so a box over the left or top border is moved inwards whole, one
    over the right or bottom border is cut off there. Both corners are painted. A side of 0 paints nothing.
    """
    pixels = side.unsqueeze(1) * width
    size = torch.tensor((width, height), dtype=torch.float64)
    low = (centre * size - pixels / 2).clamp(min=0).floor()
    high = torch.minimum(size, low + pixels).floor()
    high[side <= 0] = -1
    return torch.cat((low, high), 1).long()
