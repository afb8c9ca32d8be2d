"""What happens to each image of a batch, as one row of integers per image: drawn on the host, read by the kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# An operation's number is its place here. Those that are look-up tables first, those that move pixels last: the
# kernel and the reference rely on these runs.
OPERATIONS = (
    "identity",
    "brightness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "contrast",
    "color",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
TAIL = 7  # columns after those of the operations: box (4), top, left, mirrored


class Plan(NamedTuple):
    """B images, n operations on each, in order.

    operations: [B, n] int32 into OPERATIONS
    amounts: [B, n] float32: factor of brightness, contrast, color and sharpness in [0, 1], bits of posterize,
        threshold of solarize in [0, 256]; the other operations do not look at it
    maps: [B, n, 6] int32, `geometry.affine`'s fixed-point map; the operations from "rotate" on look at it
    box: [B, 4] int32 left, top, right, bottom (included) of Cutout in source pixels; right < left for none
    corner: [B, 2] int32 top, left of the crop in the padded image; equal to the padding for no crop
    mirrored: [B] bool, left to right
    """

    operations: Tensor
    amounts: Tensor
    maps: Tensor
    box: Tensor
    corner: Tensor
    mirrored: Tensor


def pack(plan: Plan) -> Tensor:
    """[B, 8 n + 7] int32: the fields' columns side by side, amounts by their bits."""
    return torch.cat(
        (
            plan.operations.int(),
            plan.amounts.float().view(torch.int32),
            plan.maps.int().flatten(1),
            plan.box.int(),
            plan.corner.int(),
            plan.mirrored.int().unsqueeze(1),
        ),
        1,
    )


def unpack(rows: Tensor) -> Plan:
    """The fields of packed rows [B, 8 n + 7]."""
    n = (rows.shape[1] - TAIL) // 8
    operations, amounts, maps, box, corner, mirrored = torch.split(rows, [n, n, 6 * n, 4, 2, 1], 1)
    return Plan(
        operations, amounts.view(torch.float32), maps.reshape(len(rows), n, 6), box, corner, mirrored.squeeze(1).bool()
    )
