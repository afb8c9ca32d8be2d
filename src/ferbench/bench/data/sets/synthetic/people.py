"""Who is in a synthetic image and how it was taken: all that is drawn for a face except its expression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Each parameter is uniform between two bounds: lengths in half heads, tones and strengths from 0 to 1, roll, yaw and
# pitch as the tangent of half the angle.
IDENTITY: dict[str, tuple[float, float]] = {
    "face_width": (0.68, 0.84), "taper": (0.0, 0.28), "skin": (0.5, 0.95), "hair": (0.04, 0.50),
    "long_hair": (-0.6, 2.0), "hairline": (-0.88, -0.58), "parting": (-0.25, 0.25), "age": (-0.4, 0.5),
    "eye_spacing": (0.30, 0.37), "eye_width": (0.17, 0.22), "eye_open": (0.09, 0.13), "eye_slant": (-0.15, 0.15),
    "eye_shadow": (0.0, 0.3), "iris": (0.10, 0.45), "brow_width": (0.17, 0.24), "brow_height": (-0.05, 0.05),
    "brow_arch": (0.0, 0.07), "brow_thickness": (0.030, 0.055), "nose_length": (-0.05, 0.06),
    "nose_width": (0.08, 0.14), "mouth_height": (-0.04, 0.05), "mouth_width": (0.26, 0.36),
    "lip_thickness": (0.03, 0.075), "lip_tone": (0.60, 0.90), "beard": (-1.2, 0.5), "glasses": (-3.0, 1.0),
    "tint": (-1.5, 0.8),
}  # fmt: skip
SCENE: dict[str, tuple[float, float]] = {
    "shift_x": (-0.06, 0.06), "shift_y": (-0.06, 0.06), "scale": (0.84, 0.98), "roll": (-0.10, 0.10),
    "yaw": (-0.20, 0.20), "pitch": (-0.06, 0.06), "gaze": (-0.06, 0.06), "one_side": (-1.0, 1.0),
    "light_side": (-1.0, 1.0), "backdrop": (0.05, 0.95), "backdrop_x": (-0.3, 0.3), "backdrop_y": (-0.3, 0.3),
    "gain": (0.75, 1.15), "offset": (-0.05, 0.08), "light_x": (-0.3, 0.3), "light_y": (-0.2, 0.2), "blur": (0.0, 0.7),
    "grain": (0.0, 0.06), "patch": (-9.0, 1.0), "patch_x": (-0.8, 0.8), "patch_y": (-0.6, 0.9),
    "patch_width": (0.2, 0.45), "patch_height": (0.2, 0.45), "patch_tone": (0.1, 0.9),
}  # fmt: skip
# Of these only part of the range counts, so that not every face has a beard or glasses.
_SWITCHES = ("glasses", "patch")  # 0 or 1
_SIGNS = ("one_side", "light_side")  # left or right
_SHARES = ("long_hair", "age", "beard", "tint")  # cut to 0 to 1


def draw(ranges: dict[str, tuple[float, float]], rng: np.random.Generator, total: int) -> dict[str, Floats]:
    """`total` values of each parameter in `ranges`."""
    uniform = rng.random((total, len(ranges)))
    values: dict[str, Floats] = {}
    for column, (name, (low, high)) in enumerate(ranges.items()):
        value = low + (high - low) * uniform[:, column]
        if name in _SWITCHES:
            value = np.where(value > 0, 1.0, 0.0)
        elif name in _SIGNS:
            value = np.where(value > 0, 1.0, -1.0)
        elif name in _SHARES:
            value = np.minimum(np.maximum(value, 0.0), 1.0)
        values[name] = value
    return values
