"""Speed case of the strong view: the op beside the batched plain-torch path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.bench.data.views.augment import ViewRecipe, draw_strong, make_plan
from ferbench.bench.speed.ops.case import Case, Inputs, Work
from ferbench.kernels import augment, reference


class Augmentation(Case):
    """Three operations of RandAugment, Cutout, and the weak chain, on B uint8 images of `side` and C to `out` pixels.

    The plan lies on the images' device before the step begins. Plain torch groups the batch by operation and asks the
    device for the plan. `speed/augment.py` has the released codes' path, one image after the other.
    """

    op = "augment"
    sizes = {
        "quick": {"B": 64, "side": 48, "C": 1, "out": 48},
        "paper": {"B": 64, "side": 48, "C": 1, "out": 48},
        "enlarged": {"B": 64, "side": 48, "C": 1, "out": 224},
        "color": {"B": 64, "side": 112, "C": 3, "out": 112},
        "large": {"B": 4096, "side": 224, "C": 3, "out": 224},
    }
    waits = frozenset({"eager"})
    compiles = False

    def floor(self, size: dict[str, int]) -> Work:
        """Every byte read once, three float32 channels written."""
        return Work(size["B"] * (size["C"] * size["side"] ** 2 + 12 * size["out"] ** 2), launches=2)

    def check(self, inputs: Inputs) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Ours whole, of which up to 64 images are compared: plain torch needs fifty times their memory."""
        images, plan, size, padding = inputs
        some = torch.arange(len(images), device=images.device)[:: max(1, len(images) // 64)]
        ours = [output[some] for output in self.step(self.ours, inputs)]
        plain = self.step(self.eager, [images[some], plan[some], size, padding])
        return ours, plain, [output.double() for output in plain]

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        batch, side = size["B"], size["side"]
        recipe = ViewRecipe(size=size["out"], padding=size["out"] * 8 // 224)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (batch, side, side, size["C"]), device=device, dtype=torch.uint8)
        plan = make_plan(draw_strong(batch, recipe, generator), batch, side, side, recipe)
        return [images, plan.to(device), recipe.size, recipe.padding]

    def ours(self, images: Tensor, plan: Tensor, size: int, padding: int) -> Sequence[Tensor]:
        return [augment(images, plan, size=size, padding=padding, mean=ViewRecipe.mean, std=ViewRecipe.std)]

    def eager(self, images: Tensor, plan: Tensor, size: int, padding: int) -> Sequence[Tensor]:
        return [reference.augment(images, plan, size=size, padding=padding, mean=ViewRecipe.mean, std=ViewRecipe.std)]
