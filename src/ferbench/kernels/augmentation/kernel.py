"""Launches of the augmentation kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.kernels.augmentation.operations import operations_kernel
from ferbench.kernels.augmentation.plan import TAIL
from ferbench.kernels.augmentation.resize import taps
from ferbench.kernels.augmentation.view import view_kernel
from ferbench.kernels.dispatch import Plan, ceil_div, launch, layout, target

BLOCK = 1024


def augment_forward(
    images: Tensor,
    plan: Tensor,
    out: Tensor,
    padding: int,
    scale: Sequence[float],
    shift: Sequence[float],
) -> None:
    """Fill out [B, 3, S, S] from images [B, H, W, C]: two launches, one where the plan holds no operation."""
    batch, size = out.shape[0], out.shape[3]
    _, height, width, channels = images.shape
    operations = (plan.shape[1] - TAIL) // 8
    pixels = images
    key = layout(images), layout(plan), layout(out)
    if operations:
        scratch = torch.empty(2, batch, channels, height, width, dtype=torch.uint8, device=images.device)
        tables = torch.empty(batch, channels, 256, dtype=torch.uint8, device=images.device)

        def plan_operations() -> Plan:
            constants = {
                "N_OPERATIONS": operations, "AMD": target(images.device).startswith("gfx"), "C": channels,
                "BLOCK": BLOCK, "num_warps": 8,
            }  # fmt: skip
            return Plan((batch,), (batch, height, width), constants)

        launch(operations_kernel, key, (images, plan, scratch, tables), plan_operations)
        pixels = scratch[operations % 2]
    resized = (height, width) != (size, size)
    x = taps(width, size, images.device) if resized else (None, None, 1)
    y = taps(height, size, images.device) if resized else (None, None, 1)

    def plan_view() -> Plan:
        constants = {
            "PLANAR": operations > 0, "RESIZE": resized, "C": channels,
            "TAPS_X": 1 if x[1] is None else x[1].shape[1], "TAPS_Y": 1 if y[1] is None else y[1].shape[1],
            "BITS_X": x[2], "BITS_Y": y[2], "BLOCK": BLOCK, "num_warps": 4,
        }  # fmt: skip
        scalars = height, width, size, padding, 8 * operations, out.stride(0), out.stride(1), out.stride(3)
        return Plan((batch, ceil_div(size * size, BLOCK)), (*scalars, *scale, *shift), constants)

    launch(
        view_kernel,
        (*key, padding, *scale, *shift),
        (pixels, plan, out, x[0], x[1], y[0], y[1]),
        plan_view,
    )
