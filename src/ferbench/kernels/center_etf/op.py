"""The public centre + ETF loss."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ferbench.kernels.center_etf import reference
from ferbench.kernels.center_etf.reference import Rows, kept_rows
from ferbench.kernels.dispatch import (
    Impl,
    accumulate_dtype,
    has_shape,
    once_differentiable,
    one_of,
    opaque_op,
    use_triton,
)


def center_etf_loss(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    mask: Tensor | None = None,
    divisor: float | Tensor | None = None,
    more: Rows | None = None,
    etf: Literal["paper", "released"] = "paper",
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Centre loss and simplex-ETF regulariser of ReMoP (Sec. 4.2 and Eq. 8).

    Args:
        features: [B, D], any float type.
        labels: [B] integers in [0, K); those of rows left out by `mask` are not looked at.
        centers: [K, D] class centres, K >= 2.
        mask: [B] bool, the rows that count; None keeps all.
        divisor: what the rows' sum is divided by, a number or a tensor [] without gradient; None for the number of kept
            rows.
        more: a second set of rows with a mask and a divisor of its own, in the same launch: labelled ones and confident
            ones, say.
        etf: "paper": sum over ordered pairs k != t of (cos(k, t) + 1/(K-1))^2 of the centred centres; "released":
            sqrt(sum over k != t of cos(k, t)^2 + K/(K-1)^2), the Frobenius norm that the authors' code computes.
        impl: "auto", "triton" or "reference".

    Returns:
        (center, etf), scalars in float32 (float64 where an input is): center = 1/2 sum |x - h_y|^2 / divisor over kept
        rows, 0 when none is kept; gradients go to features and centres from the first, to centres only from the second.
        A centre equal to the mean of all centres counts as the zero vector, with gradient zero from `etf`.

    Raises:
        ValueError: shapes, types or options that do not fit.
    """
    one = Rows(features, labels, mask, kept_rows(features, mask, divisor))
    tensors = [centers]
    for name, rows in (("", one), ("more.", more)):
        if rows is not None:
            _check(name, rows, centers)
            tensors += [part for part in rows if isinstance(part, Tensor)]
    one_of("center_etf_loss", "etf", etf, ("paper", "released"))
    if not use_triton("center_etf_loss", impl, tensors):
        return reference.center_etf_loss(features, labels, centers, mask=mask, divisor=divisor, more=more, etf=etf)
    others = (None,) * 4 if more is None else more
    center, regulariser = _CenterEtf.apply(centers, *one, *others, etf == "paper")
    return center, regulariser


def _check(name: str, rows: Rows, centers: Tensor) -> None:
    op = "center_etf_loss"
    has_shape(op, f"{name}features", rows.features, (None, None))
    has_shape(op, f"{name}labels", rows.labels, (rows.features.shape[0],))
    has_shape(op, "centers", centers, (None, rows.features.shape[1]))
    if centers.shape[0] < 2 or centers.shape[1] < 1:
        raise ValueError(f"{op}: needs at least 2 centres of at least 1 feature, got {list(centers.shape)}")
    if rows.labels.is_floating_point() or rows.labels.dtype == torch.bool:
        raise ValueError(f"{op}: {name}labels must be integers, not {rows.labels.dtype}")
    if rows.mask is not None:
        has_shape(op, f"{name}mask", rows.mask, (rows.features.shape[0],))
        if rows.mask.dtype != torch.bool:
            raise ValueError(f"{op}: {name}mask must be bool, not {rows.mask.dtype}")
    if isinstance(rows.divisor, Tensor):
        has_shape(op, f"{name}divisor", rows.divisor, ())


class _CenterEtf(torch.autograd.Function):
    """Ties the opaque forward and backward together; gradients of gradients are the reference's affair."""

    @staticmethod
    def forward(
        ctx: Any, centers: Tensor,
        features: Tensor, labels: Tensor, mask: Tensor | None, divisor: float | Tensor,
        more_features: Tensor | None, more_labels: Tensor | None, more_mask: Tensor | None,
        more_divisor: float | Tensor | None, paper: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        one = features, labels, mask, *_by_type(divisor)
        other = more_features, more_labels, more_mask, *_by_type(more_divisor)
        center, etf, *state = _forward_op(centers, *one, *other, paper)
        # numbers among the arguments stay numbers; only tensors can be saved
        arguments = centers, *one, *other
        ctx.numbers = [None if isinstance(x, Tensor) else x for x in arguments]
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in arguments), etf, *state)
        ctx.paper = paper
        return center, etf

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_center: Tensor, grad_etf: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        count = len(ctx.numbers)
        arguments = [x if n is None else n for x, n in zip(saved[:count], ctx.numbers, strict=True)]
        d_centers, d_one, *d_other = _backward_op(*arguments, *saved[count:], grad_center, grad_etf, ctx.paper)
        nothing = (None,) * 3
        return d_centers, d_one, *nothing, d_other[0] if arguments[6] is not None else None, *nothing, None


def _by_type(divisor: float | Tensor | None) -> tuple[Tensor | None, float]:
    """A divisor as the ops take it: a tensor, or a number."""
    return (divisor, 1.0) if isinstance(divisor, Tensor) else (None, 1.0 if divisor is None else float(divisor))


def _sets(
    centers: Tensor, features: Tensor, labels: Tensor, mask: Tensor | None, divisor: Tensor | None, number: float,
    more_features: Tensor | None, more_labels: Tensor | None, more_mask: Tensor | None, more_divisor: Tensor | None,
    more_number: float,
) -> tuple[Tensor, Rows, Rows | None]:  # fmt: skip
    """Centres and both sets of rows; beside float64 all is of 64 bits.

    Triton lays out the operands of a product after the narrowest load that they depend on, and on NVIDIA it has no
    float64 product for the layouts that narrower ones give.
    """
    one = Rows(features, labels, mask, number if divisor is None else divisor)
    other = None
    if more_features is not None and more_labels is not None:
        other = Rows(more_features, more_labels, more_mask, more_number if more_divisor is None else more_divisor)
    if accumulate_dtype(centers, features) == torch.float64:
        centers = centers.double()
        one = one._replace(features=features.double(), labels=labels.long())
        if other is not None:
            other = other._replace(features=other.features.double(), labels=other.labels.long())
    return centers, one, other


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    """Centre loss, ETF term, and the state for backward: matrix, 1/length, mean centre, column sum."""
    from ferbench.kernels.center_etf import kernel, large

    *inputs, paper = arguments
    sets = _sets(*inputs)
    if kernel.fits(sets[0]):
        center, etf, matrix = kernel.center_etf_forward(*sets, paper)
        return center, etf, matrix, *(etf.new_empty(0) for _ in range(3))
    center, etf, state = large.center_etf_forward(*sets, paper)
    return center, etf, *state


def _forward_fake(centers: Tensor, features: Tensor, *_: Any) -> tuple[Tensor, ...]:
    from ferbench.kernels.center_etf import kernel

    (classes, width), dtype = centers.shape, accumulate_dtype(features, centers)
    small, pairs = kernel.fits(centers), classes <= 2 * width
    matrix = (classes, classes) if small or pairs else (width, width)
    shapes = [(), (), matrix, *([(0,)] * 3 if small else [(classes,), (width,), (0,) if pairs else (width,)])]
    return tuple(features.new_empty(shape, dtype=dtype) for shape in shapes)


def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of centers, features and the second features (an empty tensor where there are none)."""
    from ferbench.kernels.center_etf import kernel, large

    *inputs, etf, matrix, r, mean, total, grad_center, grad_etf, paper = arguments
    sets = _sets(*inputs)
    if kernel.fits(sets[0]):
        d_one, d_other, d_centers = kernel.center_etf_backward(*sets, etf, matrix, grad_center, grad_etf, paper)
    else:
        state = large.EtfState(matrix, r, mean, total)
        d_one, d_other, d_centers = large.center_etf_backward(*sets, etf, state, grad_center, grad_etf, paper)
    centers, features, more_features = inputs[0], inputs[1], inputs[6]
    d_more = centers.new_empty(0) if d_other is None else d_other.to(more_features.dtype)
    return d_centers.to(centers.dtype), d_one.to(features.dtype), d_more


def _backward_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    centers, features, more = arguments[0], arguments[1], arguments[6]
    like = (x.new_empty(x.shape) for x in (centers, features))
    return *like, centers.new_empty(0) if more is None else more.new_empty(more.shape)


_INPUTS = (
    "Tensor centers, Tensor features, Tensor labels, Tensor? mask, Tensor? divisor, float number,"
    " Tensor? more_features, Tensor? more_labels, Tensor? more_mask, Tensor? more_divisor, float more_number"
)
_forward_op = opaque_op(
    f"center_etf_forward({_INPUTS}, bool paper) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
_backward_op = opaque_op(
    f"center_etf_backward({_INPUTS}, Tensor etf, Tensor matrix, Tensor r, Tensor mean, Tensor total,"
    " Tensor grad_center, Tensor grad_etf, bool paper) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
