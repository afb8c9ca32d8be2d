"""The public centre + ETF loss."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ferbench.kernels.center_etf import reference
from ferbench.kernels.dispatch import Impl, accumulate_dtype, has_shape, one_of, opaque_op, use_triton


def center_etf_loss(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    mask: Tensor | None = None,
    etf: Literal["paper", "released"] = "paper",
    reduction: Literal["mean", "sum"] = "mean",
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Centre loss and simplex-ETF regulariser of ReMoP (Sec. 4.2 and Eq. 8).

    Args:
        features: [B, D], any float type.
        labels: [B] integers in [0, K); those of rows left out by `mask` are not looked at.
        centers: [K, D] class centres, K >= 2.
        mask: [B] bool, the rows that count; None keeps all.
        etf: "paper": sum over ordered pairs k != t of (cos(k, t) + 1/(K-1))^2 of the centred centres; "released":
            sqrt(sum over k != t of cos(k, t)^2 + K/(K-1)^2), the Frobenius norm that the authors' code computes.
        reduction: of the centre loss; "mean" divides by the number of kept rows.
        impl: "auto", "triton" or "reference".

    Returns:
        (center, etf), scalars in float32 (float64 where an input is): center = 1/2 sum |x - h_y|^2 over kept rows, 0
        when none is kept; gradients go to features and centres from the first, to centres only from the second. A
        centre equal to the mean of all centres counts as the zero vector, with gradient zero from `etf`.

    Raises:
        ValueError: shapes, types or options that do not fit.
    """
    _check(features, labels, centers, mask, etf, reduction)
    tensors = [features, labels, centers] if mask is None else [features, labels, centers, mask]
    if use_triton("center_etf_loss", impl, tensors):
        center, regulariser = _CenterEtf.apply(features, labels, centers, mask, etf == "paper", reduction == "mean")
        return center, regulariser
    return reference.center_etf_loss(features, labels, centers, mask=mask, etf=etf, reduction=reduction)


def _check(features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, etf: str, reduction: str) -> None:
    op = "center_etf_loss"
    has_shape(op, "features", features, (None, None))
    has_shape(op, "labels", labels, (features.shape[0],))
    has_shape(op, "centers", centers, (None, features.shape[1]))
    if centers.shape[0] < 2 or centers.shape[1] < 1:
        raise ValueError(f"{op}: needs at least 2 centres of at least 1 feature, got {list(centers.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{op}: labels must be integers, not {labels.dtype}")
    if mask is not None:
        has_shape(op, "mask", mask, (features.shape[0],))
        if mask.dtype != torch.bool:
            raise ValueError(f"{op}: mask must be bool, not {mask.dtype}")
    one_of(op, "etf", etf, ("paper", "released"))
    one_of(op, "reduction", reduction, ("mean", "sum"))


class _CenterEtf(torch.autograd.Function):
    """Ties the opaque forward and backward together; gradients of gradients are the reference's affair."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, paper: bool, mean: bool
    ) -> tuple[Tensor, Tensor]:
        center, etf, scale, *state = _forward_op(features, labels, centers, mask, paper, mean)
        ctx.save_for_backward(features, labels, centers, mask, etf, scale, *state)
        ctx.paper = paper
        return center, etf

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_center: Tensor, grad_etf: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_centers = _backward_op(*ctx.saved_tensors, grad_center, grad_etf, ctx.paper)
        return d_features, None, d_centers, None, None, None


def _forward(
    features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, paper: bool, mean: bool
) -> tuple[Tensor, ...]:
    """Centre loss, ETF term, scale and the state for backward: matrix, 1/length, mean centre, column sum."""
    from ferbench.kernels.center_etf import kernel, large

    if kernel.fits(features, centers):
        center, etf, scale, matrix = kernel.center_etf_forward(features, labels, centers, mask, paper, mean)
        return center, etf, scale, matrix, *(etf.new_empty(0) for _ in range(3))
    center, etf, scale, state = large.center_etf_forward(features, labels, centers, mask, paper, mean)
    return center, etf, scale, *state


def _forward_fake(
    features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, paper: bool, mean: bool
) -> tuple[Tensor, ...]:
    from ferbench.kernels.center_etf import kernel

    (classes, width), dtype = centers.shape, accumulate_dtype(features, centers)
    small, pairs = kernel.fits(features, centers), classes <= 2 * width
    matrix = (classes, classes) if small or pairs else (width, width)
    shapes = [(), (), (), matrix, *([(0,)] * 3 if small else [(classes,), (width,), (0,) if pairs else (width,)])]
    return tuple(features.new_empty(shape, dtype=dtype) for shape in shapes)


def _backward(
    features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor | None, etf: Tensor, scale: Tensor,
    matrix: Tensor, r: Tensor, mean: Tensor, total: Tensor, grad_center: Tensor, grad_etf: Tensor, paper: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of features and centers."""
    from ferbench.kernels.center_etf import kernel, large

    shared = (features, labels, centers, mask, etf, scale)
    if kernel.fits(features, centers):
        return kernel.center_etf_backward(*shared, matrix, grad_center, grad_etf, paper)
    state = large.EtfState(matrix, r, mean, total)
    return large.center_etf_backward(*shared, state, grad_center, grad_etf, paper)


def _backward_fake(features: Tensor, labels: Tensor, centers: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), centers.new_empty(centers.shape)


_forward_op = opaque_op(
    "center_etf_forward(Tensor features, Tensor labels, Tensor centers, Tensor? mask, bool paper, bool mean)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
_backward_op = opaque_op(
    "center_etf_backward(Tensor features, Tensor labels, Tensor centers, Tensor? mask, Tensor etf, Tensor scale,"
    " Tensor matrix, Tensor r, Tensor mean, Tensor total, Tensor grad_center, Tensor grad_etf, bool paper)"
    " -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)
