"""Random resized crop and mirror image, batched: a window of its own per image, stretched to one size.

The window follows torchvision's RandomResizedCrop: ten tries at an area of `least_area` to 1 of the image with an
aspect from 3/4 to 4/3, uniform in its logarithm; the first that fits, else the largest central one. Every number is
drawn on the host before the image's size is known, so that a batch cut in two draws the same.

Resampling is Pillow's and torchvision's antialiased bicubic one. On the CPU torch's own uint8 kernel does it window by
window, which is the fastest way there and equals `torchvision.transforms.v2.functional.resized_crop`; elsewhere it is
two batched matrix products, along x and then y with uint8 in between, within 1 of 255 of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TRIES = 10
RATIO = (3 / 4, 4 / 3)  # width over height


@dataclass(frozen=True)
class WindowParams:
    """area, aspect [B, TRIES], place [B, 2] (down, right): uniform in [0, 1); mirrored [B] bool; all on the host."""

    area: Tensor
    aspect: Tensor
    place: Tensor
    mirrored: Tensor

    def __getitem__(self, rows: Tensor | slice) -> WindowParams:
        return WindowParams(self.area[rows], self.aspect[rows], self.place[rows], self.mirrored[rows])


def draw_windows(n: int, flip: float, generator: torch.Generator) -> WindowParams:
    """Parameters for n images; flip: probability of the mirror image."""
    uniform = torch.rand(n, 2 * TRIES + 3, dtype=torch.float64, generator=generator)
    area, aspect, place, mirrored = torch.split(uniform, [TRIES, TRIES, 2, 1], dim=1)
    return WindowParams(area, aspect, place, mirrored[:, 0] < flip)


def windows(params: WindowParams, height: int, width: int, least_area: float) -> Tensor:
    """[B, 4] int64 top, left, height, width of the windows in images of height x width pixels."""
    areas = (least_area + (1 - least_area) * params.area) * (height * width)
    low, high = (math.log(ratio) for ratio in RATIO)
    aspects = (low + (high - low) * params.aspect).exp()
    tall, wide = (areas / aspects).sqrt().round().long(), (areas * aspects).sqrt().round().long()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first True, 0 where there is none
    found = fits.any(dim=1)
    central = _central(height, width)
    size = torch.cat([tall.gather(1, first), wide.gather(1, first)], dim=1)
    room = torch.tensor([height, width]) - size
    corner = (params.place * (room + 1)).long()
    return torch.where(found.unsqueeze(1), torch.cat([corner, size], dim=1), torch.tensor(central))


def _central(height: int, width: int) -> tuple[int, int, int, int]:
    tall, wide = height, width
    if width / height < RATIO[0]:
        tall = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        wide = round(height * RATIO[1])
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def resized_crop(images: Tensor, window: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """uint8 [B, C, H, W] -> [B, C, size, size]: each image's window (top, left, height, width), then mirrored or not.

    window: [B, 4]; mirrored: [B] bool; both on the host.
    """
    if images.device.type == "cpu":
        return _one_by_one(images, window, mirrored, size)
    return batched(images, window, mirrored, size)


def _one_by_one(images: Tensor, window: Tensor, mirrored: Tensor, size: int) -> Tensor:
    if images.shape[1] == 3:
        images = images.contiguous(memory_format=torch.channels_last)  # three times as fast
    result = images.new_empty(len(images), images.shape[1], size, size)
    for row, (top, left, tall, wide) in enumerate(window.tolist()):
        part = images[row : row + 1, :, top : top + tall, left : left + wide]
        result[row] = functional.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]
    chosen = mirrored.nonzero().flatten()
    result[chosen] = result[chosen].flip(3)
    return result


def batched(images: Tensor, window: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """`resized_crop` as matrix products, for any device."""
    device, (height, width) = images.device, images.shape[2:]
    top, left, tall, wide = window.unbind(1)
    along_x = weights(left, wide, mirrored, width, size, device)
    along_y = weights(top, tall, torch.zeros_like(mirrored), height, size, device)
    squeezed = _levels(torch.matmul(images.float(), along_x.transpose(1, 2).unsqueeze(1)))
    return _levels(torch.matmul(along_y.unsqueeze(1), squeezed)).to(torch.uint8)


def _levels(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def weights(start: Tensor, length: Tensor, mirrored: Tensor, source: int, size: int, device: torch.device) -> Tensor:
    """[B, size, source] float32: what each output pixel takes from each of `source` pixels on one axis.

    start, length: [B] of the windows, on the host; a mirrored row runs from the window's end to its start.
    """
    scale = length.double().unsqueeze(1) / size
    stretch = scale.clamp(min=1.0)
    reach = 2 * stretch
    place = torch.arange(size, dtype=torch.float64).expand(len(start), -1)
    centre = (torch.where(mirrored.unsqueeze(1), size - 1 - place, place) + 0.5) * scale
    first = (centre - reach + 0.5).long().clamp(min=0)
    stop = torch.minimum((centre + reach + 0.5).long(), length.unsqueeze(1))
    begin = start.unsqueeze(1)
    low, high, middle = ((value + begin).double().to(device).unsqueeze(2) for value in (first, stop, centre))
    pixel = torch.arange(source, dtype=torch.float64, device=device)
    distance = (pixel - middle + 0.5).abs_().div_(stretch.to(device).unsqueeze(2))
    inside = (pixel >= low) & (pixel < high)
    value = _cubic(distance).mul_(inside)
    value.div_(value.sum(dim=2, keepdim=True))
    # whole numbers in units of 2^-bits, with as many bits as an int16 holds, as the uint8 kernels have them
    ones = torch.floor(torch.log2(32767.5 / value.amax(dim=(1, 2), keepdim=True))).clamp_(0, 22).exp2_()
    return (value.abs() * ones).add_(0.5).floor_().mul_(value.sign()).div_(ones).float()


def _cubic(d: Tensor) -> Tensor:
    """The weight at a distance in source pixels: Keys' cubic with a = -0.5."""
    near = (1.5 * d - 2.5) * d * d + 1
    far = -0.5 * (((d - 5) * d + 8) * d - 4)
    return torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
