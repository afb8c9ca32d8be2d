"""Each batched operation against torchvision (colour) and Pillow and torchvision (geometry), image by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ferbench.bench.data.views.randaugment import affine_maps, cutout_boxes
from ferbench.kernels.augmentation import color, geometry
from ferbench.kernels.augmentation.resize import along_last, resize

SHAPES = [(1, 48, 48), (3, 47, 53), (1, 53, 47), (3, 3, 5), (1, 1, 4), (3, 100, 100)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def pictures(shape: tuple[int, int, int], batch: int = 9) -> Tensor:
    """Noise of several ranges, a smooth ramp, and constant images (black, grey, white)."""
    generator = torch.Generator().manual_seed(sum(shape))
    noise = torch.randint(0, 256, (batch, *shape), generator=generator, dtype=torch.uint8)
    noise[1] = noise[1] // 4 + 90
    noise[2] = torch.linspace(10, 240, noise[2].numel()).view(shape).to(torch.uint8)
    noise[3], noise[4], noise[5] = 0, 119, 255
    noise[6] = noise[6] // 128 * 255
    return noise


def worst(result: Tensor, expected: Tensor) -> int:
    assert result.dtype == torch.uint8 and result.shape == expected.shape
    return int((result.int() - expected.int()).abs().max())


FACTORS = torch.tensor([0.05, 0.95, 0.5, 0.3, 0.0, 1.0, 0.71, 0.123456, 0.9], dtype=torch.float64)
BITS = torch.tensor([4, 5, 6, 7, 8, 1, 4, 7, 2])
THRESHOLDS = torch.tensor([0.0, 255.0, 254.5, 119.0, 119.5, 1e-9, 128.0, 77.7, 3.0], dtype=torch.float64)

COLOUR: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Tensor | None, int]] = {
    "autocontrast": (color.autocontrast, tv.autocontrast, None, 0),
    "equalize": (color.equalize, tv.equalize, None, 0),
    "brightness": (color.brightness, tv.adjust_brightness, FACTORS, 0),
    "posterize": (color.posterize, tv.posterize, BITS, 0),
    "solarize": (color.solarize, tv.solarize, THRESHOLDS, 0),
    "contrast": (color.contrast, tv.adjust_contrast, FACTORS, 1),
    "color": (color.color, tv.adjust_saturation, FACTORS, 1),
    "sharpness": (color.sharpness, tv.adjust_sharpness, FACTORS, 1),
}


@shapes
@pytest.mark.parametrize("name", COLOUR)
def test_colour_equals_torchvision(name: str, shape: tuple[int, int, int]) -> None:
    ours, theirs, parameters, tolerance = COLOUR[name]
    images = pictures(shape)
    if parameters is None:
        result, expected = ours(images), torch.stack([theirs(image) for image in images])
    else:
        result = ours(images, parameters)
        expected = torch.stack([theirs(image, p.item()) for image, p in zip(images, parameters, strict=True)])
    assert worst(result, expected) <= tolerance


def test_solarize_at_256_keeps_all_values() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(color.solarize(images, torch.tensor([256.0])), images)


@shapes
@pytest.mark.parametrize("name", ["contrast", "color", "sharpness"])
def test_blends_keep_constant_images_and_factor_one(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(shape)
    assert torch.equal(COLOUR[name][0](images, torch.ones(len(images))), images)
    constant = images[3:6]
    assert torch.equal(COLOUR[name][0](constant, torch.tensor([0.05, 0.5, 0.77])), constant)


def test_lut_of_one_channel_serves_all() -> None:
    images = pictures((3, 7, 5))
    lut = torch.stack([torch.randperm(256) for _ in images]).to(torch.uint8).unsqueeze(1)
    slow = [[lut[b, 0][images[b, c].long()] for c in range(3)] for b in range(len(images))]
    assert torch.equal(color.apply_lut(images, lut), torch.stack([torch.stack(rows) for rows in slow]))


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1)


def shear(image: Tensor, x: float, y: float) -> Tensor:
    angles = [float(np.degrees(np.arctan(x))), float(np.degrees(np.arctan(y)))]
    return tv.affine(image, 0.0, [0.0, 0.0], 1.0, angles, InterpolationMode.NEAREST, [0.0], [0.0, 0.0])


def translate(image: Tensor, x: float, y: float) -> Tensor:
    shift = [-x * image.shape[2], -y * image.shape[1]]
    return tv.affine(image, 0.0, shift, 1.0, [0.0, 0.0], InterpolationMode.NEAREST, [0.0])


AFFINE, NEAREST = Image.Transform.AFFINE, Image.Resampling.NEAREST
GEOMETRY: dict[str, tuple[Callable[..., Image.Image], Callable[..., Tensor], float]] = {
    "rotate": (
        lambda image, v: image.rotate(v),
        lambda image, v: tv.rotate(image, v, InterpolationMode.NEAREST, False, None, [0.0]),
        30.0,
    ),
    "shear_x": (
        lambda image, v: image.transform(image.size, AFFINE, (1, v, 0, 0, 1, 0), NEAREST),
        lambda image, v: shear(image, v, 0.0),
        0.3,
    ),
    "shear_y": (
        lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, v, 1, 0), NEAREST),
        lambda image, v: shear(image, 0.0, v),
        0.3,
    ),
    "translate_x": (
        lambda image, v: image.transform(image.size, AFFINE, (1, 0, v * image.size[0], 0, 1, 0), NEAREST),
        lambda image, v: translate(image, v, 0.0),
        0.3,
    ),
    "translate_y": (
        lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, v * image.size[1]), NEAREST),
        lambda image, v: translate(image, 0.0, v),
        0.3,
    ),
}
SHARES = np.array([-1.0, 1.0, 0.0, 0.013, -0.31, 0.77, 0.5004, -0.6621, 0.1234])


@shapes
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_equals_pillow(name: str, shape: tuple[int, int, int]) -> None:
    pillow, _, limit = GEOMETRY[name]
    images = pictures(shape)
    maps = torch.from_numpy(affine_maps(*shape[1:], **{name: SHARES * limit}))
    expected = [from_pil(pillow(to_pil(image), share * limit)) for image, share in zip(images, SHARES, strict=True)]
    assert worst(geometry.affine(images, maps), torch.stack(expected)) == 0


@pytest.mark.parametrize("shape", [(1, 48, 48), (3, 47, 53), (3, 100, 100)], ids=str)
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_equals_torchvision_away_from_pixel_borders(name: str, shape: tuple[int, int, int]) -> None:
    _, torchvision, limit = GEOMETRY[name]
    _, height, width = shape
    images = pictures(shape)
    maps = affine_maps(height, width, **{name: SHARES * limit})
    result = geometry.affine(images, torch.from_numpy(maps))
    y, x = np.mgrid[:height, :width]
    near = (height + width + 2) / 65536  # twice the documented bound: torchvision's float32 adds its own error
    compared = 0
    for image, ours, share, coefficients in zip(images, result, SHARES, maps.astype(np.float64) / 65536, strict=True):
        a, b, c, d, e, f = coefficients
        sources = (a * x + b * y + c, d * x + e * y + f)
        safe = np.all([np.abs(source - np.round(source)) > near for source in sources], axis=0)
        theirs = torchvision(image, float(share * limit))
        assert torch.equal(ours[:, safe], theirs[:, safe]), share
        compared += int(safe.sum())
    assert compared > 0.95 * len(images) * height * width


@pytest.mark.parametrize("shape", [(3, 48, 48), (3, 47, 53), (1, 48, 48)], ids=str)
def test_cutout_equals_pillow_at_centre_and_borders(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    side = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.25, 0.0, 0.01, 0.4999, 0.37], dtype=torch.float64)
    x = torch.tensor([0, 0.999, 0.5, 0.02, 0.98, 0.5, 0.7, 0.3, 0.25], dtype=torch.float64)
    y = torch.tensor([0, 0.999, 0.5, 0.97, 0.03, 0.5, 0.2, 0.9, 0.6], dtype=torch.float64)
    centre = torch.stack((x, y), 1)
    colour = (125, 123, 114)
    fill = colour if channels == 3 else Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
    images = pictures(shape)
    result = geometry.cutout(images, cutout_boxes(side, centre, height, width))
    for image, ours, share, (cx, cy) in zip(images, result, side.tolist(), centre.tolist(), strict=True):
        expected = to_pil(image)
        if share > 0:
            v = share * width
            x0, y0 = int(max(0, cx * width - v / 2.0)), int(max(0, cy * height - v / 2.0))
            ImageDraw.Draw(expected).rectangle((x0, y0, min(width, x0 + v), min(height, y0 + v)), fill)
        assert torch.equal(ours, from_pil(expected)), (share, cx, cy)


@pytest.mark.parametrize("padding", [0, 1, 8])
@shapes
def test_crop_and_flip_equals_torchvision(shape: tuple[int, int, int], padding: int) -> None:
    images = pictures(shape)
    generator = torch.Generator().manual_seed(0)
    top, left = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=generator)
    top[:2], left[:2] = torch.tensor([0, 2 * padding]), torch.tensor([2 * padding, 0])
    mirrored = torch.arange(len(images)) % 3 > 0
    expected = []
    for image, t, x, mirror in zip(images, top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        cropped = tv.crop(tv.pad(image, [padding]), t, x, *shape[1:])
        expected.append(tv.horizontal_flip(cropped) if mirror else cropped)
    assert torch.equal(geometry.crop_and_flip(images, top, left, mirrored, padding), torch.stack(expected))


@pytest.mark.parametrize("shape", [(1, 48, 48), (3, 47, 53), (3, 100, 100), (1, 300, 260)], ids=str)
def test_resize_equals_torchvision(shape: tuple[int, int, int]) -> None:
    images = pictures(shape, batch=7)
    expected = tv.resize(images, [96, 96], InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(resize(images, 96), expected)
    across = along_last(images, 96)
    assert torch.equal(along_last(across.transpose(2, 3), 96).transpose(2, 3), expected)
