"""The public augmentation op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.kernels.augmentation import reference
from ferbench.kernels.augmentation.plan import TAIL
from ferbench.kernels.dispatch import Impl, has_shape, opaque_op, use_triton


def augment(
    images: Tensor,
    plan: Tensor,
    *,
    size: int,
    padding: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels_last: bool = False,
    impl: Impl = "auto",
) -> Tensor:
    """One view of each image: n RandAugment operations, Cutout, resize, padded crop, flip, normalise.

    Args:
        images: [B, H, W, C] uint8, C = 1 or 3.
        plan: [B, 8 n + 7] int32, `plan.pack` of what happens to each image; n = 0 leaves out operations and Cutout.
        size: side of the result in pixels, by antialiased bilinear weights; a non-square image is stretched.
        padding: zeros around the resized image before the crop, in pixels.
        mean, std: per channel of the result, for values in [0, 1].
        channels_last: memory format of the result.
        impl: "auto", "triton" or "reference".

    Returns:
        [B, 3, size, size] float32; a grey image's channel three times, each with its own mean and std.

    Raises:
        ValueError: shapes, types or options that do not fit.
    """
    op = "augment"
    has_shape(op, "images", images, (None, None, None, None))
    if images.dtype != torch.uint8 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"{op}: images must be uint8 with 1 or 3 channels last, not {images.dtype} {list(images.shape)}"
        )
    if plan.dim() != 2 or plan.dtype != torch.int32 or plan.shape[1] % 8 != TAIL:
        raise ValueError(f"{op}: plan must be packed rows [B, 8 n + 7] int32, not {plan.dtype} {list(plan.shape)}")
    has_shape(op, "images", images, (plan.shape[0], None, None, None))
    if use_triton(op, impl, [images, plan]):
        scale, shift = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std)]  # noqa: B905
        return _op(images.contiguous(), plan, size, padding, scale, shift, channels_last)  # type: ignore[no-any-return]
    return reference.augment(images, plan, size=size, padding=padding, mean=mean, std=std, channels_last=channels_last)


def _allocate(images: Tensor, plan: Tensor, size: int, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(plan.shape[0], 3, size, size, device=images.device, memory_format=layout)


def _run(
    images: Tensor,
    plan: Tensor,
    size: int,
    padding: int,
    scale: Sequence[float],
    shift: Sequence[float],
    channels_last: bool,
) -> Tensor:
    from ferbench.kernels.augmentation.kernel import augment_forward

    out = _allocate(images, plan, size, channels_last)
    augment_forward(images, plan.contiguous(), out, padding, scale, shift)
    return out


def _fake(
    images: Tensor,
    plan: Tensor,
    size: int,
    padding: int,
    scale: Sequence[float],
    shift: Sequence[float],
    channels_last: bool,
) -> Tensor:
    return _allocate(images, plan, size, channels_last)


_op = opaque_op(
    "augment(Tensor images, Tensor plan, int size, int padding, float[] scale, float[] shift, "
    "bool channels_last) -> Tensor",
    _run,
    _fake,
)
