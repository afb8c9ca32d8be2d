"""Crops, resizes and the five-point alignment, against slow arithmetic and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.preparing.geometry import (
    TEMPLATE,
    Window,
    alignment,
    five_points,
    map_boxes,
    map_points,
    similarity,
    to_square,
    warp,
    window_of,
)

FACE = np.array([[60.0, 80.0], [110.0, 70.0], [90.0, 105.0], [75.0, 140.0], [115.0, 132.0]])


def turned(points: np.ndarray, angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    sine, cosine = np.sin(angle), np.cos(angle)
    return scale * points @ np.array([[cosine, -sine], [sine, cosine]]).T + np.array(shift)


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0, 3.1])
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0])
def test_similarity_is_found_exactly(angle: float, scale: float) -> None:
    target = turned(FACE, angle, scale, (-7.0, 31.0))
    np.testing.assert_allclose(map_points(similarity(FACE, target)[None], FACE[None])[0], target, atol=1e-3)


def test_similarity_is_the_least_squares_one() -> None:
    """No nearby rotation, scale or shift brings the noisy points closer."""
    target = turned(FACE, 0.3, 1.4, (5.0, -2.0)) + np.random.default_rng(0).normal(0, 4, FACE.shape)
    best = similarity(FACE, target)

    def error(matrix: np.ndarray) -> float:
        return float(((FACE @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum())

    scale, angle = np.hypot(best[0, 0], best[1, 0]), np.arctan2(best[1, 0], best[0, 0])
    for change in np.eye(4) * 1e-3:
        for sign in (-1, 1):
            s, a, x, y = np.array([scale, angle, *best[:, 2]]) + sign * change
            near = np.array([[s * np.cos(a), -s * np.sin(a), x], [s * np.sin(a), s * np.cos(a), y]])
            assert error(near) > error(best)


def test_similarity_never_mirrors() -> None:
    mirrored = FACE * [-1.0, 1.0]
    matrix = similarity(FACE, mirrored)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_points_that_are_all_one_have_no_similarity() -> None:
    with pytest.raises(ValueError, match="all points are one"):
        similarity(np.ones((5, 2)), TEMPLATE)


def test_68_landmarks_become_five() -> None:
    points = np.random.default_rng(1).uniform(0, 100, (68, 2)).astype(np.float32)
    five = five_points(points)
    eye = sum(points[k].astype(float) for k in (36, 37, 38, 39, 40, 41)) / 6
    np.testing.assert_allclose(five[0], eye)
    np.testing.assert_array_equal(five[2:], points[[30, 48, 54]].astype(float))


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0], ids=["small", "same", "large"])
def test_alignment_brings_a_dot_on_the_nose_to_the_template(scale: float) -> None:
    """A large image is reduced first; the dot must land where the template says, half a pixel at most beside it."""
    points = turned(FACE, -0.3, scale, (30.0 * scale, 60.0 * scale))
    image = Image.new("RGB", (round(300 * scale), round(300 * scale)))
    x, y = points[2]
    radius = 4 * scale
    pixels = np.asarray(image).copy()
    rows, columns = np.mgrid[0 : image.height, 0 : image.width] + 0.5
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 255
    size = 112
    matrix = alignment(points, size)
    aligned = np.asarray(warp(Image.fromarray(pixels), matrix, size))[..., 0].astype(float)
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    found = np.array([(columns * aligned).sum(), (rows * aligned).sum()]) / aligned.sum()
    expected = matrix[:, :2] @ points[2] + matrix[:, 2]
    np.testing.assert_allclose(found, expected, atol=0.5)
    assert np.abs(expected - TEMPLATE[2]).max() < 8  # FACE is another face than the template's


@pytest.mark.parametrize("mode", ["square", "pad", "centre_crop"])
def test_square_keeps_a_whole_image_of_the_size(mode: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    square, matrix = to_square(Image.fromarray(pixels), Window(0, 0, 20, 20), 20, mode)
    np.testing.assert_array_equal(np.asarray(square), pixels)
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("mode", ["square", "pad", "centre_crop"])
@pytest.mark.parametrize("window", [Window(0, 0, 60, 30), Window(10, 2.5, 40, 30), Window(20, 0, 30, 30)], ids=str)
def test_maps_follow_the_pixels(mode: str, window: Window) -> None:
    """A bright square in the image lies, after the change, where the map puts its corners."""
    pixels = np.zeros((30, 60), np.uint8)
    pixels[12:18, 22:28] = 255
    square, matrix = to_square(Image.fromarray(pixels), window, 64, mode)
    box = map_boxes(matrix[None], np.array([[22.0, 12.0, 28.0, 18.0]]), 64)[0]
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    light = np.asarray(square).astype(float)
    middle = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
    np.testing.assert_allclose(middle, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=0.6)
    np.testing.assert_allclose(light.sum() / 255, (box[2] - box[0]) * (box[3] - box[1]), rtol=0.15)


def test_pad_keeps_the_shape_on_black() -> None:
    square, _ = to_square(Image.new("L", (40, 20), 200), Window(0, 0, 40, 20), 32, "pad")
    pixels = np.asarray(square)
    assert (pixels[8:24] == 200).all() and (pixels[:8] == 0).all() and (pixels[24:] == 0).all()


def test_boxes_turn_with_the_face_and_stay_inside() -> None:
    quarter = np.array([[[0.0, -1.0, 50.0], [1.0, 0.0, 0.0]]])  # a quarter turn, then 50 to the right
    np.testing.assert_allclose(map_boxes(quarter, np.array([[10.0, 20.0, 30.0, 90.0]]), 64), [[0.0, 10.0, 30.0, 30.0]])
    assert np.isnan(map_boxes(quarter, np.full((1, 4), np.nan), 64)).all()


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        (None, 0.0, (0, 0, 100, 80)),
        ((np.nan, 0, 1, 1), 0.0, (0, 0, 100, 80)),
        ((10, 20, 50, 60), 0.0, (10, 20, 50, 60)),
        ((10, 20, 50, 60), 0.25, (0, 10, 60, 70)),
        ((-2, -3, 400, 500), 0.0, (0, 0, 100, 80)),
        ((150, 20, 190, 60), 0.0, (0, 0, 100, 80)),
        ((40, 20, 40.5, 60), 0.0, (0, 0, 100, 80)),
    ],
    ids=["none", "unknown", "inside", "margin", "beyond", "outside", "thin"],
)
def test_window(box: tuple[float, ...] | None, margin: float, expected: tuple[float, ...]) -> None:
    window = window_of(None if box is None else np.array(box), 100, 80, margin)
    assert (window.left, window.top, window.right, window.bottom) == expected
