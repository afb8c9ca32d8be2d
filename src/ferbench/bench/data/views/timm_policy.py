"""timm's RandAugment `rand-m9-mstd0.5-inc1`, batched: two operations of fifteen, each applied with probability 1/2.

A magnitude is normal around 9 with deviation 0.5, within 0 to 10; "inc1" makes every operation stronger with it. Values
follow timm's (`timm.data.auto_augment`), pixels follow Pillow: geometry is bicubic and fills with the mean colour, as
timm's `create_transform` sets it up; blends are in 16-bit fixed point and within 1 of 255 of Pillow's.
All numbers are drawn on the host, which then knows which images take an operation without asking the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ferbench.kernels.augmentation import color

OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
LAYERS, PROBABILITY, MAGNITUDE, DEVIATION = 2, 0.5, 9.0, 0.5


@dataclass(frozen=True)
class TimmParams:
    """operations [B, LAYERS] int64 into OPERATIONS, applied [B, LAYERS] bool, level [B, LAYERS] float64 in [0, 1] and
    negative [B, LAYERS] bool: the operation's sign where it has one; all on the host."""

    operations: Tensor
    applied: Tensor
    level: Tensor
    negative: Tensor

    def __getitem__(self, rows: Tensor | slice) -> TimmParams:
        return TimmParams(self.operations[rows], self.applied[rows], self.level[rows], self.negative[rows])


def draw_operations(n: int, generator: torch.Generator) -> TimmParams:
    """Operations of n images."""
    uniform = torch.rand(n, 3 * LAYERS, dtype=torch.float64, generator=generator)
    chosen, applied, sign = uniform.chunk(3, dim=1)
    level = MAGNITUDE + DEVIATION * torch.randn(n, LAYERS, dtype=torch.float64, generator=generator)
    operations = (chosen * len(OPERATIONS)).long()
    return TimmParams(operations, applied < PROBABILITY, level.clamp(0, 10) / 10, sign < 0.5)


def apply_operations(images: Tensor, params: TimmParams, fill: Sequence[int]) -> Tensor:
    """uint8 [B, C, H, W], C = 1 or 3, through the operations; fill: colour (R, G, B) of what lies outside."""
    for layer in range(LAYERS):
        chosen = torch.where(params.applied[:, layer], params.operations[:, layer], -1)
        signed = torch.where(params.negative[:, layer], -params.level[:, layer], params.level[:, layer])
        result = images.clone()
        for number, name in enumerate(OPERATIONS):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                there = rows.to(images.device, non_blocking=True)
                part = operate(images.index_select(0, there), name, signed[rows], fill)
                result.index_copy_(0, there, part)
        images = result
    return images


def operate(images: Tensor, name: str, level: Tensor, fill: Sequence[int]) -> Tensor:
    """One operation on all images; level: [B] in [-1, 1] on the host, its sign used where the operation has one."""
    if name in _MAPS:
        along_x, along_y = not name.endswith("_y"), not name.endswith("_x")
        return bicubic(images, _MAPS[name](level, *images.shape[2:]), fill, x=along_x, y=along_y)
    return _COLOURS[name](images, level.to(images.device))


def _invert(images: Tensor, level: Tensor) -> Tensor:
    return 255 - images


def _posterize(images: Tensor, level: Tensor) -> Tensor:
    return color.posterize(images, 4 - (level.abs() * 4).long())


def _solarize(images: Tensor, level: Tensor) -> Tensor:
    return color.solarize(images, 256 - (level.abs() * 256).long().clamp(max=256))


def _solarize_add(images: Tensor, level: Tensor) -> Tensor:
    added = (level.abs() * 110).long().clamp(max=128).view(-1, 1, 1, 1)
    return torch.where(images < 128, (images.long() + added).clamp(max=255), images.long()).to(torch.uint8)


def _blend(images: Tensor, other: Tensor | int, level: Tensor) -> Tensor:
    """other + factor * (image - other), cut to 0 to 255, for factor = 1 + 0.9 level, at least 0.1."""
    weight = color.fixed((1 + 0.9 * level).clamp(min=0.1)).view(-1, 1, 1, 1)
    return ((images.int() * weight + other * (color.ONE - weight)) >> 16).clamp_(0, 255).to(torch.uint8)


def _contrast(images: Tensor, level: Tensor) -> Tensor:
    pixels = images.shape[2] * images.shape[3]
    total = color.luma(images).sum((1, 2, 3), dtype=torch.int64)
    mean = (total * 2 + pixels).div(2 * pixels, rounding_mode="floor").int().view(-1, 1, 1, 1)
    return _blend(images, mean, level)


def _color(images: Tensor, level: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, color.luma(images), level)


def _sharpness(images: Tensor, level: Tensor) -> Tensor:
    none = torch.zeros(len(images), device=images.device)
    return _blend(images, color.sharpness(images, none).int(), level)  # factor 0: the smoothed image


_COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": lambda images, level: color.autocontrast(images),
    "equalize": lambda images, level: color.equalize(images),
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": lambda images, level: _blend(images, 0, level),
    "sharpness": _sharpness,
}


def _rotation(level: Tensor, height: int, width: int) -> Tensor:
    angle = -torch.deg2rad(30 * level)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    return torch.stack([cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y], dim=1)


def _moves(level: Tensor, *entries: float) -> Tensor:
    """Rows (a, b, c, d, e, f) of the identity plus level times `entries`."""
    identity = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64)
    return identity + level.unsqueeze(1) * torch.tensor(entries, dtype=torch.float64)


_MAPS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "rotate": _rotation,
    "shear_x": lambda level, height, width: _moves(level, 0, 0.3, 0, 0, 0, 0),
    "shear_y": lambda level, height, width: _moves(level, 0, 0, 0, 0.3, 0, 0),
    "translate_x": lambda level, height, width: _moves(level, 0, 0, 0.45 * width, 0, 0, 0),
    "translate_y": lambda level, height, width: _moves(level, 0, 0, 0, 0, 0, 0.45 * height),
}


def bicubic(images: Tensor, maps: Tensor, fill: Sequence[int], *, x: bool = True, y: bool = True) -> Tensor:
    """Pillow's bicubic affine transform: a pixel comes from x' = a x + b y + c, y' = d x + e y + f (pixel centres).

    images: uint8 [B, C, H, W]; maps: [B, 6] float64 on the host; fill: three colours (a grey image takes their luma).
    Pillow's cubic has a = -1, repeats the border and drops the fraction. x, y: False where the maps move nothing along
    that axis, which then needs one neighbour instead of four.
    """
    batch, channels, height, width = images.shape
    device = images.device
    a, b, c, d, e, f = maps.to(device).view(batch, 6, 1, 1).unbind(1)
    u = torch.arange(width, dtype=torch.float64, device=device) + 0.5
    v = torch.arange(height, dtype=torch.float64, device=device).unsqueeze(1) + 0.5
    across, down = a * u + b * v + c, d * u + e * v + f
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    column, row = (across - 0.5).floor(), (down - 0.5).floor()
    columns = _neighbours(across - 0.5 - column, column, width, x)
    rows = _neighbours(down - 0.5 - row, row, height, y)
    pixels = images.reshape(batch, channels, -1).float()
    total = torch.zeros(batch, channels, height, width, device=device)
    for start, weight in rows:
        line = torch.zeros_like(total)
        for place, share in columns:
            index = (start * width + place).view(batch, 1, -1).expand(-1, channels, -1)
            line.addcmul_(pixels.gather(2, index).view(total.shape), share.unsqueeze(1))
        total.addcmul_(line, weight.unsqueeze(1))
    colours = fill if channels == 3 else (sum(v * w for v, w in zip(fill, color.LUMA, strict=True)) // color.ONE,)
    outside = torch.tensor(colours, dtype=torch.float32, device=device).view(-1, 1, 1)
    return torch.where(inside.unsqueeze(1), total.clamp_(0, 255), outside).to(torch.uint8)


def _neighbours(t: Tensor, first: Tensor, side: int, moved: bool) -> list[tuple[Tensor, Tensor]]:
    """Place and weight of each neighbour on one axis, at a distance t in [0, 1) behind `first`."""
    if not moved:
        return [(first.long().clamp(0, side - 1), torch.ones_like(t, dtype=torch.float32))]
    t = t.float()
    weights = (-t + 2 * t**2 - t**3, 1 - 2 * t**2 + t**3, t + t**2 - t**3, -(t**2) + t**3)
    return [((first.long() + k).clamp(0, side - 1), weight) for k, weight in zip((-1, 0, 1, 2), weights, strict=True)]
