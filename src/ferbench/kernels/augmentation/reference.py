"""The views in plain torch: batched, and grouped by operation, so that it is also the fast path on a CPU.

All arithmetic on pixels is in integers (`brightness` and `autocontrast`: one float32 operation per table entry), so the
result has the same bits on every device, for every batch split and from the kernel, up to the last normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ferbench.kernels.augmentation import color, geometry
from ferbench.kernels.augmentation.plan import OPERATIONS, unpack
from ferbench.kernels.augmentation.resize import resize

_TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, factor: color.brightness_lut(factor),
    "posterize": lambda images, bits: color.posterize_lut(bits),
    "solarize": lambda images, threshold: color.solarize_lut(threshold),
    "autocontrast": lambda images, _: color.autocontrast_lut(images),
    "equalize": lambda images, _: color.equalize_lut(images),
    "contrast": color.contrast_lut,
}
_FILTERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"color": color.color, "sharpness": color.sharpness}


def augment(
    images: Tensor,
    plan: Tensor,
    *,
    size: int,
    padding: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels_last: bool = False,
) -> Tensor:
    """See the op of this name; images [B, H, W, C], plan [B, 8 n + 7]. Waits for a plan on a GPU."""
    pixels = images.permute(0, 3, 1, 2)
    if len(pixels) == 0:
        return normalise(pixels.new_zeros(0, 3, size, size), mean, std, channels_last)
    steps = unpack(plan)
    if steps.operations.shape[1]:
        pixels = apply_operations(pixels, steps.operations, steps.amounts, steps.maps)
        pixels = geometry.cutout(pixels, steps.box)
    pixels = resize(pixels, size)
    top, left = steps.corner.cpu().long().unbind(1)
    pixels = geometry.crop_and_flip(pixels, top, left, steps.mirrored.cpu(), padding)
    return normalise(pixels, mean, std, channels_last)


def apply_operations(images: Tensor, operations: Tensor, amounts: Tensor, maps: Tensor) -> Tensor:
    """images [B, C, H, W] uint8 through n operations one after the other; the fields are `Plan`'s."""
    chosen = operations.cpu()
    amounts, maps = amounts.to(images.device), maps.to(images.device)
    before = torch.arange(len(images))
    for slot in range(chosen.shape[1]):
        order = chosen[:, slot].argsort(stable=True)
        images = images.index_select(0, before.argsort()[order].to(images.device))
        index = order.to(images.device)
        images = _apply_sorted(images, chosen[order, slot], amounts[index, slot], maps[index, slot])
        before = order
    return images.index_select(0, before.argsort().to(images.device))


def _apply_sorted(images: Tensor, chosen: Tensor, amounts: Tensor, maps: Tensor) -> Tensor:
    """One operation per image, images sorted by operation: each operation gets a slice of the batch."""
    bounds = torch.searchsorted(chosen, torch.arange(len(OPERATIONS) + 1, dtype=chosen.dtype)).tolist()
    spans = {name: slice(*bounds[i : i + 2]) for i, name in enumerate(OPERATIONS)}
    present = {name: span for name, span in spans.items() if span.start < span.stop}
    parts = [images[spans["identity"]]]
    tables = [
        table(images[present[name]], amounts[present[name]]) for name, table in _TABLES.items() if name in present
    ]
    if tables:
        lut = torch.cat([table.expand(-1, images.shape[1], -1) for table in tables])
        parts.append(color.apply_lut(images[spans["brightness"].start : spans["contrast"].stop], lut))
    for name, operation in _FILTERS.items():
        if name in present:
            parts.append(operation(images[present[name]], amounts[present[name]]))
    moved = slice(spans["rotate"].start, None)
    if moved.start < len(images):
        parts.append(geometry.affine(images[moved], maps[moved]))
    return torch.cat(parts)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], channels_last: bool) -> Tensor:
    """uint8 [B, 1 or 3, S, S] -> float32 [B, 3, S, S]: (v / 255 - mean) / std per channel."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (len(images), 3, *images.shape[2:])
    result = torch.empty(shape, device=images.device, memory_format=layout).copy_(images)
    for plane, middle, spread in zip(result.unbind(1), mean, std):  # noqa: B905
        plane.mul_(1 / (255 * spread)).add_(-middle / spread)
    return result
