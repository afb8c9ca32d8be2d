"""Synthetic faces drawn from parameters: the parts of a face, back to front, each moved by its action units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.sets.synthetic.canvas import JAW_LENGTH, Array, Canvas, Colour, Parameters, arch, clip, cos_sin

_EYE_Y, _BROW_Y, _NOSE_Y, _MOUTH_Y = -0.12, -0.42, 0.20, 0.52


def render(parameters: Parameters, noise: Array, channels: int = 1) -> NDArray[np.uint8]:
    """Images [B, S, S, C] of the faces with `parameters` (each [B]) under pixel noise [B, S, S] in [-1, 1]."""
    canvas = Canvas(parameters, noise.shape[1], channels)
    for layer in (_head, _beard, _eyes, _brows, _nose, _mouth, _fringe, _glasses, _patch):
        layer(canvas)
    return canvas.developed(noise)


def boxes(parameters: Parameters, size: int) -> NDArray[np.float32]:
    """Face boxes [B, 4] (x1, y1, x2, y2 in pixels, clipped to the image) around the skin from forehead to chin."""
    cos, sin = cos_sin(parameters["roll"])
    width, height = parameters["face_width"], 1 + JAW_LENGTH * parameters["jaw_drop"]
    half_x = parameters["scale"] * np.sqrt(width * width * cos * cos + height * height * sin * sin)
    half_y = parameters["scale"] * np.sqrt(width * width * sin * sin + height * height * cos * cos)
    x, y = parameters["shift_x"], parameters["shift_y"]
    corners = np.stack([x - half_x, y - half_y, x + half_x, y + half_y], axis=1)
    return np.minimum(np.maximum((corners + 1) * (size / 2), 0), size).astype(np.float32)


def _skin(c: Canvas, dim: float = 1.0) -> Colour:
    tone: Array = c.p["skin"] * dim
    return tone, tone * 0.80, tone * 0.70


def _hair_colour(c: Canvas, floor: float = 0.0) -> Colour:
    tone = np.maximum(c.p["hair"], floor)
    return tone, tone * 0.85, tone * 0.65


def _flat(c: Canvas, red: float, green: float, blue: float) -> Colour:
    one = np.ones_like(c.pixel)
    return one * red, one * green, one * blue


def _ellipse(x: Array, y: Array, width: Array | float, height: Array | float) -> Array:
    """Signed distance, nearly, to an ellipse around the origin."""
    across, along = x / width, y / height
    distance: Array = (np.sqrt(across * across + along * along) - 1) * height
    return distance


def _head(c: Canvas) -> None:
    """Hair behind, neck, face; the cheeks turn away from the viewer and so from the light."""
    p = c.p
    cap = _ellipse(c.u, c.v + 0.10, p["face_width"] * 1.14, 1.08)
    long = np.maximum(np.abs(c.u) - p["face_width"] * 1.12, np.abs(c.v - 0.6) - 0.7) + (1 - p["long_hair"])
    c.paint(c.cover(np.minimum(cap, long)), _hair_colour(c))
    c.paint(c.cover(np.maximum(np.abs(c.u) - p["face_width"] * 0.6, 0.5 - c.v)), _skin(c, 0.7))
    face = c.cover(c.outline)
    c.paint(face, _skin(c))
    c.shade(face * clip(0.9 + c.outline) * 0.22)


def _beard(c: Canvas) -> None:
    jaw = c.cover(c.outline) * clip((c.y - 0.22 - 0.25 * arch(c.x, 0.5) * (c.y < 0.6)) * 6)
    c.shade(jaw * c.p["beard"])


def _fringe(c: Canvas) -> None:
    p = c.p
    line = p["hairline"] + p["parting"] * c.x + 0.30 * c.x * c.x
    c.paint(c.cover(np.maximum(c.y - line, c.outline - c.pixel)), _hair_colour(c))


def _eyes(c: Canvas) -> None:
    p = c.p
    width = p["eye_width"]
    x = c.side - p["eye_spacing"]
    y = c.y - _EYE_Y - p["eye_slant"] * x
    bow = arch(x, width)
    upper = p["eye_open"] * (1 + 0.9 * p["lid_raise"] - 0.55 * p["lid_tighten"] - 0.25 * p["cheek_raise"])
    lower = p["eye_open"] * (0.7 + 0.25 * p["lid_raise"] - 0.5 * p["lid_tighten"] - 0.85 * p["cheek_raise"])
    upper, lower = np.maximum(upper, 0.02) * -bow, lower * bow
    opening = np.maximum(np.maximum(upper - y, y - lower), np.abs(x) - width)
    c.shade(c.cover(_ellipse(x, y + 0.03, width * 1.35, 0.20)) * p["eye_shadow"])
    c.paint(c.cover(opening), _flat(c, 0.95, 0.95, 0.95))
    gaze = np.where(c.x > 0, p["gaze"], -p["gaze"])
    c.paint(c.cover(np.maximum(_ellipse(x - gaze, y, 0.105, 0.105), opening)), _iris(c))
    c.shade(c.cover(np.maximum(np.abs(y - upper) - 0.020, np.abs(x) - width * 1.08)) * 0.85)
    c.shade(c.cover(np.maximum(np.abs(y - lower) - 0.010, np.abs(x) - width)) * 0.5)
    pouch = np.maximum(np.abs(y - lower - 0.07 - 0.04 * bow) - 0.012, np.abs(x) - width)
    c.shade(c.cover(pouch) * clip(p["cheek_raise"]) * 0.45)


def _iris(c: Canvas) -> Colour:
    tone = c.p["iris"]
    return tone * 0.7, tone, tone * 1.1


def _brows(c: Canvas) -> None:
    p = c.p
    length = p["brow_width"]
    along = (c.side - p["eye_spacing"] + 0.05 * p["brow_lower"]) / length
    outer = clip((1 + along) * 0.5)
    inner = 1 - outer
    height = _BROW_Y + p["brow_height"] + p["brow_arch"] * (along * along - 0.5)
    height = height - 0.22 * p["inner_brow"] * inner * (inner + 0.3) - 0.20 * p["outer_brow"] * (outer + 0.2)
    height = height + p["brow_lower"] * (0.20 * inner + 0.03) + 0.05 * p["nose_wrinkle"]
    thick = p["brow_thickness"] * (1.2 - 0.6 * outer)
    c.paint(c.cover(np.maximum(np.abs(c.y - height) - thick, (np.abs(along) - 1) * length)), _brow_colour(c))
    frown = np.maximum(np.abs(c.side - 0.065) - 0.014, np.abs(c.y + 0.30) - 0.10)
    c.shade(c.cover(frown) * clip(p["brow_lower"]) * 0.55)
    raised = np.minimum(p["inner_brow"], p["outer_brow"] + 0.3)
    furrow = np.maximum(np.abs(np.abs(c.y + 0.68 - 0.1 * c.x * c.x) - 0.05) - 0.012, c.side - 0.35)
    c.shade(c.cover(furrow) * clip(raised) * 0.35)


def _brow_colour(c: Canvas) -> Colour:
    tone = np.minimum(c.p["hair"], c.p["skin"] * 0.5)
    return tone, tone * 0.85, tone * 0.75


def _nose(c: Canvas) -> None:
    p = c.p
    x, wrinkle = c.x - 0.12 * c.yaw, p["nose_wrinkle"]
    tip = _NOSE_Y + p["nose_length"] - 0.05 * wrinkle
    half = p["nose_width"] * (1 + 0.3 * wrinkle)
    ridge = np.maximum(np.abs(x - 0.05 * p["light_side"] - 0.05) - 0.014, np.abs(c.y - tip + 0.20) - 0.17)
    c.shade(c.cover(ridge) * 0.25)
    c.shade(c.cover(_ellipse(np.abs(x) - half * 0.6, c.y - tip, 0.05, 0.032)) * 0.65)
    wings = np.maximum(np.abs(np.abs(x) - half - 0.02) - 0.013, np.abs(c.y - tip + 0.03) - 0.05)
    c.shade(c.cover(wings) * 0.4)
    rows = np.abs(np.abs(c.y + 0.03 - 0.25 * np.abs(x)) - 0.055) - 0.016
    c.shade(c.cover(np.maximum(rows, np.abs(x) - 0.13)) * clip(wrinkle) * 0.6)
    down = (c.y - tip + 0.06) / 0.34
    bulge = np.maximum(p["corner_pull"], p["upper_lip"])
    fold = half + 0.06 + (0.14 + 0.08 * bulge) * down
    line = np.maximum(np.abs(c.side - fold) - 0.016, (np.abs(down - 0.5) - 0.5) * 0.34)
    strength = np.maximum(np.maximum(p["corner_pull"] * 0.8, p["upper_lip"]), wrinkle * 0.9) + p["age"]
    c.shade(c.cover(line) * clip(strength) * 0.45)


def _mouth(c: Canvas) -> None:
    p = c.p
    x, y = c.x - 0.06 * c.yaw, c.y - _MOUTH_Y - p["mouth_height"]
    pull, stretch = p["corner_pull"], p["lip_stretch"]
    rounding = 0.35 * np.maximum(p["jaw_drop"] - pull - stretch, 0)
    width = p["mouth_width"] * (1 + 0.30 * pull + 0.40 * stretch - rounding - 0.12 * p["lip_tighten"])
    along = x / width
    bow, square = arch(x, width), np.minimum(along * along, 1.3)
    raised = np.maximum(along * p["one_side"], 0)
    lift = 0.25 * pull - 0.25 * p["corner_depress"] - 0.05 * p["chin_raise"] - 0.06 * (p["upper_lip"] + stretch)
    middle = y + lift * (square - 0.4) + 0.26 * p["one_corner"] * np.minimum(raised * raised, 1.3)
    bow = bow + stretch * (np.sqrt(bow) - bow)
    top = -bow * (0.03 * p["lip_part"] + 0.03 * p["jaw_drop"] + 0.14 * p["upper_lip"])
    bottom = bow * (0.09 * p["lip_part"] + 0.32 * p["jaw_drop"] + 0.02 * p["upper_lip"])
    lip = p["lip_thickness"] * (1 - 0.75 * clip(p["lip_tighten"])) * bow
    ends = (np.abs(along) - 1) * width
    lips = np.maximum(np.maximum(top - lip - middle, middle - bottom - 1.3 * lip), ends)
    c.paint(c.cover(lips), _lip_colour(c))
    inside = np.maximum(np.maximum(top - middle, middle - bottom), ends)
    c.paint(c.cover(inside), _flat(c, 0.16, 0.06, 0.06))
    teeth = np.maximum(inside, middle - top - 0.02 - 0.06 * bow)
    shown = clip(pull + p["upper_lip"] + stretch) * clip(p["lip_part"] * 2)
    c.paint(c.cover(teeth) * shown, _flat(c, 0.92, 0.90, 0.86))
    c.shade(c.cover(np.maximum(np.abs(middle - top) - 0.016, ends)) * 0.6)
    chin = np.maximum(np.abs(y - 0.21 - 0.3 * p["jaw_drop"] + 0.06 * bow) - 0.014, np.abs(x) - 0.13)
    c.shade(c.cover(chin) * clip(p["chin_raise"]) * 0.4)


def _lip_colour(c: Canvas) -> Colour:
    tone = c.p["skin"] * c.p["lip_tone"]
    return tone, tone * 0.62, tone * 0.58


def _glasses(c: Canvas) -> None:
    p = c.p
    lens = _ellipse(c.side - p["eye_spacing"], c.y - _EYE_Y, 0.25, 0.20)
    bridge = np.maximum(np.abs(c.y - _EYE_Y + 0.03) - 0.015, c.side - p["eye_spacing"] + 0.24)
    frame = c.cover(np.minimum(np.abs(lens) - 0.018, bridge))
    c.shade(np.maximum(frame * 0.85, c.cover(lens) * p["tint"]) * p["glasses"])


def _patch(c: Canvas) -> None:
    """A hand, a cup, a scarf: something in front of part of the face."""
    p = c.p
    shape = _ellipse(c.right - p["patch_x"], c.down - p["patch_y"], p["patch_width"], p["patch_height"])
    tone = p["patch_tone"]
    c.paint(c.cover(shape) * p["patch"], (tone, tone * 0.85, tone * 0.8))
