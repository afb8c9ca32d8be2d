"""Views of a batch of images: weak, strong and plain, batched, on the images' device and repeatable.

    weak    Resize -> with p = 0.5 RandomCrop(size, zero padding) -> horizontal flip with p = 0.5 -> normalise
    strong  RandAugment and Cutout on the image as stored (`randaugment`), then the weak chain
    plain   Resize -> normalise, for evaluation

With `geometry="resized_crop"` the weak and strong views are SSFER's (`composed`).

Every random number comes from the caller's CPU generator and is drawn on the host, one row per image: the host then
knows which image takes which operation without asking the device, a batch cut in two draws and gives the same as
the whole, and a data-parallel rank draws for the global batch and keeps its share (`params[indices]`).
A non-square image is resized to a square (the released codes keep the aspect ratio, which no batch can hold).
Grey images stay one channel until they are normalised; Cutout then paints its colour's luma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ferbench.bench.data.views.boxes import in_padded_crop, in_window, with_fallback
from ferbench.bench.data.views.composed import ComposedParams, apply_composed, draw_composed
from ferbench.bench.data.views.randaugment import RANGES, cutout_boxes, operation_maps
from ferbench.bench.data.views.resized_crop import windows
from ferbench.kernels.augmentation.op import augment as kernel
from ferbench.kernels.augmentation.plan import OPERATIONS, Plan, pack
from ferbench.kernels.dispatch import Impl

View = Literal["weak", "weak2", "strong", "strong2", "plain"]
VIEWS: tuple[View, ...] = ("weak", "weak2", "strong", "strong2", "plain")


@dataclass(frozen=True)
class ViewRecipe:
    """How images become network inputs; the defaults are those of the released codes of Ada-CM, LEAF and ReMoP.

    size: side of the output in pixels; padding: zeros around it before the crop, in pixels of the output
    crop, flip: probabilities of the crop and of the mirror image
    num_ops: RandAugment operations per image; cutout: largest side of the box, a share of the width
    mean, std: per channel, for values in [0, 1]
    channel_order: "bgr" turns the stored RGB round before anything else (Ada-CM reads files so)
    channels_last: memory format of the output, whose shape is [B, 3, size, size] either way
    geometry: "resized_crop" replaces resize, crop and RandAugment by `composed`; least_area: of its windows, a share
    """

    size: int = 224
    padding: int = 8
    crop: float = 0.5
    flip: float = 0.5
    num_ops: int = 3
    cutout: float = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    channels_last: bool = False
    geometry: Literal["crop", "resized_crop"] = "crop"
    least_area: float = 0.2


@dataclass(frozen=True)
class WeakParams:
    """Crop corners top, left [B] int64 in the padded image (no crop: the padding itself) and flip [B] bool."""

    top: Tensor
    left: Tensor
    flip: Tensor

    def __getitem__(self, indices: Tensor | slice) -> WeakParams:
        return WeakParams(self.top[indices], self.left[indices], self.flip[indices])


@dataclass(frozen=True)
class StrongParams:
    """operations [B, num_ops] int64 (into OPERATIONS), magnitudes [B, num_ops] float64, Cutout's side [B] and centre
    [B, 2] (x, y) as shares of the image, and the weak chain that follows."""

    operations: Tensor
    magnitudes: Tensor
    side: Tensor
    centre: Tensor
    weak: WeakParams

    def __getitem__(self, indices: Tensor | slice) -> StrongParams:
        return StrongParams(
            self.operations[indices],
            self.magnitudes[indices],
            self.side[indices],
            self.centre[indices],
            self.weak[indices],
        )


Params = WeakParams | StrongParams | ComposedParams | None
_RANGES = torch.tensor([RANGES[name] for name in OPERATIONS], dtype=torch.float64)


def _weak_from_uniform(uniform: Tensor, recipe: ViewRecipe) -> WeakParams:
    """uniform [B, 4] in [0, 1): crop or not, top, left, flip or not."""
    cropped = uniform[:, 0] < recipe.crop
    corner = (uniform[:, 1:3] * (2 * recipe.padding + 1)).long()
    corner = torch.where(cropped.unsqueeze(1), corner, recipe.padding)
    return WeakParams(corner[:, 0], corner[:, 1], uniform[:, 3] < recipe.flip)


def draw_weak(n: int, recipe: ViewRecipe, generator: torch.Generator) -> WeakParams:
    """Parameters of the weak view of n images."""
    return _weak_from_uniform(torch.rand(n, 4, dtype=torch.float64, generator=generator), recipe)


def _strong_from_uniform(uniform: Tensor, recipe: ViewRecipe) -> StrongParams:
    """uniform [B, 2 num_ops + 7] in [0, 1): operations, magnitudes, Cutout's side and centre, and the weak chain's."""
    ops = recipe.num_ops
    operations = (uniform[:, :ops] * len(OPERATIONS)).long()
    low, high = _RANGES[operations].unbind(2)
    magnitudes = low + (high - low) * uniform[:, ops : 2 * ops]
    box = uniform[:, 2 * ops : 2 * ops + 3]
    weak = _weak_from_uniform(uniform[:, 2 * ops + 3 :], recipe)
    return StrongParams(operations, magnitudes, box[:, 0] * recipe.cutout, box[:, 1:], weak)


def draw_strong(n: int, recipe: ViewRecipe, generator: torch.Generator) -> StrongParams:
    """Parameters of the strong view of n images."""
    uniform = torch.rand(n, columns("strong", recipe), dtype=torch.float64, generator=generator)
    return _strong_from_uniform(uniform, recipe)


def draw(view: View, n: int, recipe: ViewRecipe, generator: torch.Generator) -> Params:
    """Parameters of the named view of n images; None for the plain view, which draws nothing."""
    if view == "plain":
        return None
    if recipe.geometry == "resized_crop":
        return draw_composed(view.startswith("strong"), n, recipe.flip, generator)
    return draw_strong(n, recipe, generator) if view.startswith("strong") else draw_weak(n, recipe, generator)


def columns(view: View, recipe: ViewRecipe) -> int:
    """How many numbers in [0, 1) decide the named view of one image, where `geometry` is "crop"."""
    if view == "plain":
        return 0
    return 2 * recipe.num_ops + 7 if view.startswith("strong") else 4


def from_uniform(view: View, uniform: Tensor, recipe: ViewRecipe) -> WeakParams | StrongParams | None:
    """What `draw` makes of the numbers [B, columns] that it draws, row by row, where `geometry` is "crop"."""
    if view == "plain":
        return None
    return _strong_from_uniform(uniform, recipe) if view.startswith("strong") else _weak_from_uniform(uniform, recipe)


def channels_last(images: Tensor, recipe: ViewRecipe) -> Tensor:
    """uint8 [B, H, W, C] or [B, C, H, W], C = 1 or 3, as [B, H, W, C] in the recipe's channel order."""
    if images.dtype != torch.uint8 or images.ndim != 4 or not {images.shape[1], images.shape[3]} & {1, 3}:
        raise ValueError(f"images must be uint8 [B, H, W, C], C = 1 or 3, got {images.dtype} {list(images.shape)}")
    if images.shape[3] not in (1, 3):
        images = images.permute(0, 2, 3, 1)
    return images.flip(3) if recipe.channel_order == "bgr" else images


def make_plan(params: WeakParams | StrongParams | None, n: int, height: int, width: int, recipe: ViewRecipe) -> Tensor:
    """The packed rows of `params` for n images of height x width pixels, on the host."""
    if isinstance(params, StrongParams):
        operations, amounts = params.operations, params.magnitudes
        maps = operation_maps(operations, amounts, height, width)
        box = cutout_boxes(params.side, params.centre, height, width)
    else:
        operations, amounts, maps = torch.zeros(n, 0), torch.zeros(n, 0), torch.zeros(n, 0, 6)
        box = torch.full((n, 4), -1)
    weak = params.weak if isinstance(params, StrongParams) else params
    if weak is None:
        corner, mirrored = torch.full((n, 2), recipe.padding), torch.zeros(n, dtype=torch.bool)
    else:
        corner, mirrored = torch.stack((weak.top, weak.left), 1), weak.flip
    return pack(Plan(operations, amounts, maps, box, corner, mirrored))


def apply(images: Tensor, params: Params, recipe: ViewRecipe, impl: Impl = "auto") -> Tensor:
    """The view that `params` (from `draw`) belong to: uint8 [B, H, W, C] -> float32 [B, 3, size, size]."""
    images = channels_last(images, recipe)
    if isinstance(params, ComposedParams):
        return apply_composed(
            images, params, size=recipe.size, least_area=recipe.least_area, mean=recipe.mean, std=recipe.std,
            channels_last=recipe.channels_last,
        )  # fmt: skip
    batch, height, width = images.shape[:3]
    plan = make_plan(params, batch, height, width, recipe)
    return planned(images, plan.to(images.device, non_blocking=True), recipe, impl)


def planned(images: Tensor, plan: Tensor, recipe: ViewRecipe, impl: Impl = "auto") -> Tensor:
    """The view of `plan` (from `make_plan`) on the images' device; images as `channels_last` gives them."""
    return kernel(
        images,
        plan,
        size=recipe.size,
        padding=recipe.padding,
        mean=recipe.mean,
        std=recipe.std,
        channels_last=recipe.channels_last,
        impl=impl,
    )


def view_boxes(boxes: Tensor, shape: tuple[int, int], params: Params, recipe: ViewRecipe) -> Tensor:
    """Face boxes [B, 4] (x1, y1, x2, y2) of images of `shape` (height, width), in pixels of the view of `params`.

    A box that is not known (NaN) becomes the constant one of `view_boxes.with_fallback`; all are inside the view.
    """
    if isinstance(params, ComposedParams):
        window = windows(params.windows, *shape, recipe.least_area)
        moved = in_window(boxes, window.to(boxes.device), params.windows.mirrored.to(boxes.device), recipe.size)
        return with_fallback(moved, recipe.size)
    weak = params.weak if isinstance(params, StrongParams) else params
    corner, mirrored = torch.full((len(boxes), 2), recipe.padding), torch.zeros(len(boxes), dtype=torch.bool)
    if weak is not None:
        corner, mirrored = torch.stack((weak.top, weak.left), 1), weak.flip
    here = boxes.device
    moved = in_padded_crop(boxes, shape, corner.to(here), mirrored.to(here), recipe.size, recipe.padding)
    return with_fallback(moved, recipe.size)


def apply_weak(images: Tensor, params: WeakParams, recipe: ViewRecipe) -> Tensor:
    """The weak view, float32 [B, 3, size, size], of uint8 images [B, H, W, C] (or [B, C, H, W]), C = 1 or 3."""
    return apply(images, params, recipe)


def apply_strong(images: Tensor, params: StrongParams, recipe: ViewRecipe) -> Tensor:
    """The strong view, float32 [B, 3, size, size], of uint8 images [B, H, W, C] (or [B, C, H, W]), C = 1 or 3."""
    return apply(images, params, recipe)


def apply_plain(images: Tensor, recipe: ViewRecipe) -> Tensor:
    """The plain view, float32 [B, 3, size, size], of uint8 images [B, H, W, C] (or [B, C, H, W]), C = 1 or 3."""
    return apply(images, None, recipe)


def augment(images: Tensor, view: View, recipe: ViewRecipe, generator: torch.Generator) -> Tensor:
    """Draw and apply the named view: uint8 images [B, H, W, C] -> float32 [B, 3, size, size]."""
    return apply(images, draw(view, len(images), recipe, generator), recipe)
