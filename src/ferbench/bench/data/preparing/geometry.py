"""From the pixels of an image file to those of the stored square: crops, resizes and the five-point alignment.

Every change is an affine map [2, 3], source to stored pixels, so that boxes and landmarks follow their image. A pixel's
area is the unit square around it: coordinates run from 0 to the width, as boxes of data sets and detectors do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Matrix = NDArray[np.float64]  # [2, 3]
Points = NDArray[np.float64]  # [P, 2] x, y

# Where ArcFace's 112 x 112 alignment (Deng et al., CVPR 2019) puts the eyes, the nose and the corners of the mouth.
TEMPLATE_SIZE = 112
TEMPLATE: Points = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# Groups of the 68 points of iBUG whose mean is one of the five.
_GROUPS = (range(36, 42), range(42, 48), range(30, 31), range(48, 49), range(54, 55))


@dataclass(frozen=True)
class Window:
    """A rectangle of the image, in its pixels and perhaps beyond its edges: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top


def five_points(landmarks: NDArray[np.floating]) -> Points:
    """Eyes, nose and corners of the mouth [5, 2], of 5 points or of the 68 of iBUG."""
    points = landmarks.astype(np.float64)
    if len(points) == len(_GROUPS):
        return points
    return np.stack([points[list(group)].mean(axis=0) for group in _GROUPS])


def similarity(source: Points, target: Points) -> Matrix:
    """The rotation, scale and shift that take `source` [P, 2] closest to `target`, in least squares (Umeyama, 1991).

    Raises ValueError where the source points are all one.
    """
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    centred, wanted = source - middle, target - goal
    spread = (centred**2).sum()
    if not spread > 0:
        raise ValueError("all points are one")
    left, singular, right = np.linalg.svd(wanted.T @ centred)
    keep = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0])  # no mirror image
    linear = (singular * keep).sum() / spread * (left * keep) @ right
    return np.concatenate([linear, (goal - linear @ middle)[:, None]], axis=1)


def alignment(landmarks: NDArray[np.floating], size: int) -> Matrix:
    """The map that brings the face to ArcFace's template, scaled to `size` pixels."""
    return similarity(five_points(landmarks), TEMPLATE * (size / TEMPLATE_SIZE))


def warp(image: Image.Image, matrix: Matrix, size: int) -> Image.Image:
    """The square of `size` that `matrix` maps `image` to, bilinear; black beyond its edges."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    step = max(int(1 / scale), 1) if scale > 0 else 1
    if step > 1:  # bilinear sampling would skip pixels
        image = image.reduce(step)
        matrix = matrix @ np.array([[step, 0.0, 0.0], [0.0, step, 0.0], [0.0, 0.0, 1.0]])
    inverse = np.linalg.inv(np.concatenate([matrix, [[0.0, 0.0, 1.0]]]))[:2]
    return image.transform(
        (size, size), Image.Transform.AFFINE, tuple(inverse.ravel()), resample=Image.Resampling.BILINEAR
    )


def window_of(box: NDArray[np.floating] | None, width: int, height: int, margin: float) -> Window:
    """The box with its margin, cut to the image; the whole image without a box, or where the box lies outside."""
    whole = Window(0.0, 0.0, float(width), float(height))
    if box is None or not np.isfinite(box).all():
        return whole
    x1, y1, x2, y2 = (float(value) for value in box)
    extra_x, extra_y = margin * (x2 - x1), margin * (y2 - y1)
    cut = Window(
        max(x1 - extra_x, 0.0), max(y1 - extra_y, 0.0), min(x2 + extra_x, whole.right), min(y2 + extra_y, whole.bottom)
    )
    return cut if cut.width >= 1 and cut.height >= 1 else whole


def to_square(image: Image.Image, window: Window, size: int, mode: str) -> tuple[Image.Image, Matrix]:
    """The window of `image` as a square of `size`, and the map that made it.

    mode: `square` squeezes it, `pad` keeps its shape on black, `centre_crop` keeps its shape and cuts the centre out
    """
    if mode == "centre_crop":
        side = min(window.width, window.height)
        left, top = window.left + (window.width - side) / 2, window.top + (window.height - side) / 2
        window = Window(left, top, min(left + side, window.right), min(top + side, window.bottom))
    columns = rows = size
    if mode == "pad":
        longest = max(window.width, window.height)
        columns, rows = (max(round(size * side / longest), 1) for side in (window.width, window.height))
    box = (window.left, window.top, window.right, window.bottom)
    # A whole image that has the size already is returned as it is, pixel by pixel.
    resized = image.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    left, top = (size - columns) // 2, (size - rows) // 2
    if (columns, rows) != (size, size):
        canvas = Image.new(image.mode, (size, size))
        canvas.paste(resized, (left, top))
        resized = canvas
    x, y = columns / window.width, rows / window.height
    return resized, np.array([[x, 0.0, left - x * window.left], [0.0, y, top - y * window.top]])


def map_points(matrices: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """points [N, P, 2] under the maps [N, 2, 3]."""
    moved = np.einsum("nij,npj->npi", matrices[:, :, :2].astype(np.float64), points.astype(np.float64))
    shifted: NDArray[np.float32] = (moved + matrices[:, None, :, 2]).astype(np.float32)
    return shifted


def map_boxes(matrices: NDArray[np.floating], boxes: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """boxes [N, 4] under the maps [N, 2, 3]: the upright box around the moved corners, cut to the stored square."""
    corners = map_points(matrices, boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(len(boxes), 4, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).clip(0, size)
