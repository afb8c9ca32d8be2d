"""The canvas synthetic faces are painted on: coordinates on a turned head, soft-edged shapes, light and camera.

Only additions, multiplications, divisions, square roots and comparisons touch a pixel: they are exactly rounded
everywhere, so a seed gives the same bytes on every processor. Rotations come as the tangent of half their angle for
that reason.

Shapes: B images, S pixels a side, C channels. Lengths are in half heads: a face is about 2 tall, x grows to the right,
y downwards, and the origin is the middle of the face.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 when painting
Parameters = Mapping[str, NDArray[np.float64]]
Colour = tuple[Array, Array, Array]

JAW_LENGTH = 0.12  # half heads by which a fully dropped jaw lengthens the face
_LUMA = (0.299, 0.587, 0.114)


def cos_sin(half_tangent: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine of an angle, given the tangent of its half."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def clip(values: Array) -> Array:
    """`values` limited to [0, 1]."""
    return np.minimum(np.maximum(values, 0), 1)


def arch(values: Array, length: Array | float) -> Array:
    """1 - (values / length)^2, at least 0: the bow that lids and lips follow."""
    ratio = values / length
    bow: Array = np.maximum(1 - ratio * ratio, 0)
    return bow


class Canvas:
    """A block of images in the making, and where each pixel lies on its face.

    p:          parameters by name, [B, 1, 1]
    right, down: position in the image, -1 to 1
    u, v:       position on the upright face as it is seen [B, S, S]
    x, y:       the same point on a face looking straight ahead [B, S, S]; side is |x|
    outline:    signed distance to the outline of the skin [B, S, S], negative inside
    """

    def __init__(self, parameters: Parameters, size: int, channels: int) -> None:
        p = self.p = {name: self._column(values) for name, values in parameters.items()}
        steps = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        self.right, self.down = steps[None, None, :], steps[None, :, None]
        self.pixel: Array = 2 / size / p["scale"]
        cos, sin = map(self._column, cos_sin(parameters["roll"]))
        across, along = (self.right - p["shift_x"]) / p["scale"], (self.down - p["shift_y"]) / p["scale"]
        self.u: Array = across * cos + along * sin
        self.v: Array = along * cos - across * sin
        self._turn_head(parameters)
        backdrop = p["backdrop"] + p["backdrop_x"] * self.right + p["backdrop_y"] * self.down
        self.channels = [backdrop.copy() for _ in range(channels)]

    @staticmethod
    def _column(values: NDArray[np.float64]) -> Array:
        return values.astype(np.float32)[:, None, None]

    def _turn_head(self, parameters: Parameters) -> None:
        """Set outline, x and y: the head is half an ellipsoid, turned by yaw and pitch behind an outline that stays."""
        p = self.p
        chin = np.maximum(self.v, 0)
        width = p["face_width"] * (1 - p["taper"] * chin * chin)
        height = np.where(self.v > 0, 1 + JAW_LENGTH * p["jaw_drop"], 1)
        across, along = self.u / np.maximum(width, 0.1), self.v / height
        square = across * across + along * along
        self.outline: Array = (np.sqrt(square) - 1) * 0.85
        depth = np.sqrt(np.maximum(1 - square, 0))
        (yaw_cos, yaw_sin), (pitch_cos, pitch_sin) = (
            tuple(map(self._column, cos_sin(parameters[name]))) for name in ("yaw", "pitch")
        )
        self.yaw: Array = yaw_sin
        self.x: Array = self.u * yaw_cos - depth * p["face_width"] * yaw_sin
        self.y: Array = self.v * pitch_cos - depth * pitch_sin
        self.side: Array = np.abs(self.x)

    def cover(self, distance: Array) -> Array:
        """Share of each pixel inside a shape of this signed distance (negative inside): its edge is a pixel wide."""
        return clip(0.5 - distance / self.pixel)

    def paint(self, cover: Array, colour: Colour) -> None:
        """Lay `colour` (red, green, blue) over the images as far as `cover` [B, S, S] says."""
        if len(self.channels) == 1:
            self.channels[0] += cover * (sum(w * c for w, c in zip(_LUMA, colour, strict=True)) - self.channels[0])
            return
        for channel, value in zip(self.channels, colour, strict=True):
            channel += cover * (value - channel)

    def shade(self, cover: Array) -> None:
        """Darken the images as far as `cover` says: a crease, a line or a shadow on whatever lies below."""
        keep = 1 - cover
        for channel in self.channels:
            channel *= keep

    def developed(self, noise: Array) -> NDArray[np.uint8]:
        """The images [B, S, S, C] under each one's light, focus and grain; noise [B, S, S] lies in [-1, 1]."""
        p = self.p
        light = p["gain"] * (1 + p["light_x"] * self.right + p["light_y"] * self.down)
        grain = p["grain"] * noise
        out = np.empty((*noise.shape, len(self.channels)), np.uint8)
        for index, channel in enumerate(self.channels):
            lit = channel * light + p["offset"]
            for _ in range(max(1, round(noise.shape[1] / 48))):
                lit += p["blur"] * (_smooth(lit) - lit)
            out[..., index] = clip(lit + grain) * 255 + 0.5
        return out


def _smooth(image: Array) -> Array:
    """Binomial 3 x 3 filter of [B, S, S], edges repeated."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = 0.25 * (padded[:, :-2] + padded[:, 2:]) + 0.5 * padded[:, 1:-1]
    smooth: Array = 0.25 * (rows[:, :, :-2] + rows[:, :, 2:]) + 0.5 * rows[:, :, 1:-1]
    return smooth
