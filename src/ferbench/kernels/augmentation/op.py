"""The public augmentation op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.kernels.augmentation import reference
from ferbench.kernels.augmentation.plan import TAIL
from ferbench.kernels.augmentation.resize import Interpolation
from ferbench.kernels.dispatch import Impl, has_shape, one_of, opaque_op, use_triton


def augment(
    images: Tensor,
    plan: Tensor,
    indices: Tensor | None = None,
    *,
    size: int,
    padding: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: Interpolation = "bilinear",
    channels_last: bool = False,
    impl: Impl = "auto",
) -> Tensor:
    """One view of each chosen image: n RandAugment operations, Cutout, resize, padded crop, flip, normalise.

    Args:
        images: [N, H, W, C] uint8, contiguous, C = 1 or 3: a batch, or a whole data set.
        plan: [B, 8 n + 7] int32, `plan.pack` of what happens to each image; n = 0 leaves out operations and Cutout.
        indices: [B] int64 into images; None takes all of them in order (B = N).
        size: side of the result in pixels; a non-square image is stretched.
        padding: zeros around the resized image before the crop, in pixels.
        mean, std: per channel of the result, for values in [0, 1].
        interpolation: "bilinear" or "bicubic", antialiased.
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
    has_shape(op, "images" if indices is None else "indices", images if indices is None else indices,
              (plan.shape[0],) + (None,) * (3 if indices is None else 0))  # fmt: skip
    one_of(op, "interpolation", interpolation, ("bilinear", "bicubic"))
    if use_triton(op, impl, [images, plan] if indices is None else [images, plan, indices]):
        scale, shift = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std)]  # noqa: B905
        return _op(images.contiguous(), plan, indices, size, padding, scale, shift, interpolation, channels_last)  # type: ignore[no-any-return]
    return reference.augment(
        images, plan, indices, size=size, padding=padding, mean=mean, std=std, interpolation=interpolation,
        channels_last=channels_last,
    )  # fmt: skip


def _allocate(images: Tensor, plan: Tensor, size: int, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(plan.shape[0], 3, size, size, device=images.device, memory_format=layout)


def _run(
    images: Tensor,
    plan: Tensor,
    indices: Tensor | None,
    size: int,
    padding: int,
    scale: Sequence[float],
    shift: Sequence[float],
    interpolation: Interpolation,
    channels_last: bool,
) -> Tensor:
    from ferbench.kernels.augmentation.kernel import augment_forward

    out = _allocate(images, plan, size, channels_last)
    augment_forward(images, plan.contiguous(), indices, out, padding, scale, shift, interpolation)
    return out


def _fake(
    images: Tensor,
    plan: Tensor,
    indices: Tensor | None,
    size: int,
    padding: int,
    scale: Sequence[float],
    shift: Sequence[float],
    interpolation: Interpolation,
    channels_last: bool,
) -> Tensor:
    return _allocate(images, plan, size, channels_last)


_op = opaque_op(
    "augment(Tensor images, Tensor plan, Tensor? indices, int size, int padding, float[] scale, float[] shift, "
    "str interpolation, bool channels_last) -> Tensor",
    _run,
    _fake,
)
