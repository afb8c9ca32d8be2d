"""The public two-view contrast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferbench.kernels.contrast import reference
from ferbench.kernels.contrast.tiles import MAX_FEATURES, operand_dtype, padded_features
from ferbench.kernels.dispatch import Impl, accumulate_dtype, has_shape, once_differentiable, opaque_op, use_triton

SMALL_BATCH = 128  # rows per view up to which loss and gradient come from one launch


def info_nce(
    a: Tensor,
    b: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 0.07,
    symmetric: bool = True,
    impl: Impl = "auto",
) -> Tensor:
    """Contrast of two views of the same samples by cosine similarity (Ada-CM Eqs. 8-9), mean over anchors, in nats.

    For one anchor the denominator holds every kept row of both views except the anchor itself. Rows are normalised
    here (Eq. 8 is a cosine); a zero row has cosine 0 with everything and gets no gradient. Fewer than two kept rows
    give 0 and no gradient: a lone sample's denominator is its numerator. Memory grows as B * D; the result is
    bit-stable (no atomics).

    Args:
        a: [B, D] first view, any strides; the anchors of Eq. 9.
        b: [B, D] second view, of the same type.
        mask: [B] bool, the rows that take part; None for all.
        temperature: divisor of the cosine, > 0; neither paper gives it, Ada-CM's code has 0.07.
        symmetric: False is Eq. 9; True the mean of Eq. 9 with `a` and with `b` as anchors (NT-Xent).
        impl: "auto", "triton" or "reference".

    Returns:
        scalar in float32 (float64 for float64 features). Triton multiplies bfloat16 features in bfloat16 and the
        others as three bfloat16 products, a relative error of about 1e-5 in a cosine.

    Raises:
        ValueError: shapes, types or options that do not fit.
    """
    op = "info_nce"
    has_shape(op, "a", a, (None, None))
    has_shape(op, "b", b, tuple(a.shape))
    if a.dtype != b.dtype:
        raise ValueError(f"{op}: a and b must be of one type, not {a.dtype} and {b.dtype}")
    if not temperature > 0.0:
        raise ValueError(f"{op}: temperature must be positive, not {temperature}")
    if mask is not None:
        has_shape(op, "mask", mask, (a.shape[0],))
        if mask.dtype != torch.bool:
            raise ValueError(f"{op}: mask must be bool, not {mask.dtype}")
    unfit = f"at most {MAX_FEATURES} features in Triton, got {a.shape[1]}" if a.shape[1] > MAX_FEATURES else None
    if not use_triton(op, impl, [a, b] if mask is None else [a, b, mask], unfit):
        return reference.info_nce(a, b, mask=mask, temperature=temperature, symmetric=symmetric)
    wants_grad = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if a.shape[0] > SMALL_BATCH:
        return _LargeInfoNCE.apply(a, b, mask, temperature, symmetric)  # type: ignore[no-any-return]
    if wants_grad:
        return _SmallInfoNCE.apply(a, b, mask, temperature, symmetric)  # type: ignore[no-any-return]
    loss: Tensor = _small(a, b, mask, temperature, symmetric)
    return loss


def _run_small(a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool) -> Tensor:
    from ferbench.kernels.contrast.small import small_forward

    return small_forward(a, b, mask, temperature, symmetric, with_grad=False)[0]


def _run_small_grad(
    a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    from ferbench.kernels.contrast.small import small_forward

    return small_forward(a, b, mask, temperature, symmetric, with_grad=True)


def _run_large(
    a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from ferbench.kernels.contrast.kernel import large_forward

    return large_forward(a, b, mask, temperature, symmetric)


def _run_large_backward(
    grad: Tensor, unit: Tensor, inverse: Tensor, lse: Tensor, share: Tensor, mask: Tensor | None,
    features: int, dtype: torch.dtype, temperature: float, symmetric: bool,
) -> Tensor:  # fmt: skip
    from ferbench.kernels.contrast.kernel import large_backward

    return large_backward(grad, unit, inverse, lse, share, mask, features, dtype, temperature, symmetric)


def _fake_loss(a: Tensor) -> Tensor:
    return a.new_empty((), dtype=accumulate_dtype(a))


def _fake_large(
    a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, columns = a.shape
    dtype = accumulate_dtype(a)
    return (
        _fake_loss(a),
        a.new_empty((2, rows, padded_features(a.shape[1])), dtype=operand_dtype(a)),
        a.new_empty((2, rows), dtype=dtype),
        a.new_empty((2, rows), dtype=dtype),
        _fake_loss(a),
    )


_ARGUMENTS = "(Tensor a, Tensor b, Tensor? mask, float temperature, bool symmetric)"
_small = opaque_op(
    f"info_nce_small{_ARGUMENTS} -> Tensor", _run_small, lambda a, b, mask, temperature, symmetric: _fake_loss(a)
)
_small_grad = opaque_op(
    f"info_nce_small_grad{_ARGUMENTS} -> (Tensor, Tensor)",
    _run_small_grad,
    lambda a, b, mask, temperature, symmetric: (
        _fake_loss(a),
        a.new_empty((2, *a.shape), dtype=accumulate_dtype(a)),
    ),
)
_large = opaque_op(f"info_nce_large{_ARGUMENTS} -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _run_large, _fake_large)
_large_backward = opaque_op(
    "info_nce_large_backward(Tensor grad, Tensor unit, Tensor inverse, Tensor lse, Tensor share, Tensor? mask,"
    " int features, ScalarType dtype, float temperature, bool symmetric) -> Tensor",
    _run_large_backward,
    lambda grad, unit, inverse, lse, share, mask, features, dtype, temperature, symmetric: unit.new_empty(
        (2, unit.shape[1], features), dtype=dtype
    ),
)


class _SmallInfoNCE(torch.autograd.Function):
    """The gradient is computed with the loss, kept in float32, and scaled by the incoming one."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool) -> Tensor:
        loss, grad = _small_grad(a, b, mask, temperature, symmetric)
        ctx.grad = grad  # a buffer of this op's own: nobody else can write to it
        ctx.dtype = a.dtype
        return loss  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad = (ctx.grad * grad_loss).to(ctx.dtype)
        return grad[0], grad[1], None, None, None


class _LargeInfoNCE(torch.autograd.Function):
    """Saves normalised rows and log-sum-exps; backward forms the tiles of the softmax again."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, mask: Tensor | None, temperature: float, symmetric: bool) -> Tensor:
        loss, *saved = _large(a, b, mask, temperature, symmetric)
        ctx.save_for_backward(*saved, mask)
        ctx.options = a.shape[1], a.dtype, temperature, symmetric
        return loss  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad = _large_backward(grad_loss, *ctx.saved_tensors, *ctx.options)
        return grad[0], grad[1], None, None, None
