"""The public ambiguous consistency loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferbench.kernels.ambiguous import reference
from ferbench.kernels.dispatch import (
    Impl,
    accumulate_dtype,
    has_shape,
    once_differentiable,
    one_of,
    opaque_op,
    scaled_rows,
    use_triton,
)

MAX_CLASSES = 8192


def ambiguous_loss(
    scores: Tensor,
    partition: Tensor,
    *,
    threshold: float = 0.9,
    boundary: reference.Boundary = "inclusive",
    max_positives: int | None = None,
    sample_weight: reference.SampleWeight = "none",
    impl: Impl = "auto",
) -> Tensor:
    """log(1 + sum over P of exp(-y) * sum over N of exp(y)) for each sample (LEAF Eq. 14), in nats.

    P is the set of classes, by descending softmax(partition), whose mass first reaches `threshold` (Eqs. 6-8; ties to
    the lower index; a mass within 1e-6 below the threshold has reached it), N the rest. Where N is empty the loss is 0.

    Args:
        scores: [B, K] the values y, any float type; K <= 8192 in Triton.
        partition: [B, K] logits that define P; no gradient flows to them. Triton decides membership in float32.
        threshold: mass in (0, 1].
        boundary: "inclusive" puts the class that reaches the threshold in P (Eq. 8); "exclusive" only those before it,
            at least one (the released code, which also sets `max_positives=3`).
        max_positives: at most so many classes in P; None for no limit.
        sample_weight: "concave" multiplies each sample's loss by a weight in [0, 1] that grows with the distance of
            P's mean probability from the next class's (the released code).
        impl: "auto", "triton" or "reference".

    Returns:
        [B] in float32 (float64 for float64 scores). A partition row with a NaN or +inf gives NaN.

    Raises:
        ValueError: shapes or options that do not fit.
    """
    op = "ambiguous_loss"
    has_shape(op, "scores", scores, (None, None))
    has_shape(op, "partition", partition, tuple(scores.shape))
    classes = scores.shape[1]
    if classes == 0:
        raise ValueError(f"{op}: scores must have at least one class")
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"{op}: threshold must lie in (0, 1], not {threshold}")
    if max_positives is not None and max_positives < 1:
        raise ValueError(f"{op}: max_positives must be at least 1, not {max_positives}")
    one_of(op, "boundary", boundary, ("inclusive", "exclusive"))
    one_of(op, "sample_weight", sample_weight, ("none", "concave"))
    unfit = f"at most {MAX_CLASSES} classes in Triton, got {classes}" if classes > MAX_CLASSES else None
    if not use_triton(op, impl, [scores, partition], unfit):
        return reference.ambiguous_loss(
            scores, partition, threshold=threshold, boundary=boundary, max_positives=max_positives,
            sample_weight=sample_weight,
        )  # fmt: skip
    limit = classes if max_positives is None else min(max_positives, classes)
    options = threshold, boundary == "inclusive", limit, sample_weight == "concave"
    if torch.is_grad_enabled() and scores.requires_grad:
        if partition.requires_grad:
            partition = partition.detach()
        return _AmbiguousLoss.apply(scores, partition, *options)  # type: ignore[no-any-return]
    loss: Tensor = _forward(scores, partition, *options)
    return loss


def _run_forward(
    scores: Tensor, partition: Tensor, threshold: float, inclusive: bool, limit: int, concave: bool
) -> Tensor:
    from ferbench.kernels.ambiguous.kernel import ambiguous_forward

    return ambiguous_forward(scores, partition, threshold, inclusive, limit, concave, with_grad=False)[0]


def _run_forward_grad(
    scores: Tensor, partition: Tensor, threshold: float, inclusive: bool, limit: int, concave: bool
) -> tuple[Tensor, Tensor]:
    from ferbench.kernels.ambiguous.kernel import ambiguous_forward

    return ambiguous_forward(scores, partition, threshold, inclusive, limit, concave, with_grad=True)


def _fake_loss(scores: Tensor) -> Tensor:
    return scores.new_empty(scores.shape[0], dtype=accumulate_dtype(scores))


_ARGUMENTS = "(Tensor scores, Tensor partition, float threshold, bool inclusive, int limit, bool concave)"
_forward = opaque_op(f"ambiguous_loss{_ARGUMENTS} -> Tensor", _run_forward, lambda scores, *_: _fake_loss(scores))
_forward_grad = opaque_op(
    f"ambiguous_loss_grad{_ARGUMENTS} -> (Tensor, Tensor)",
    _run_forward_grad,
    lambda scores, *_: (_fake_loss(scores), scores.new_empty(scores.shape)),
)


class _AmbiguousLoss(torch.autograd.Function):
    """The gradient is taken while the row is in registers; backward only scales it."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, partition: Tensor, *options: Any) -> Tensor:
        loss, grad = _forward_grad(scores, partition, *options)
        ctx.grad = grad  # a buffer of this op's own: nobody else can write to it
        return loss  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        return scaled_rows(ctx.grad, grad_loss), None, None, None, None, None
