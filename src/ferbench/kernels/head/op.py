"""The public head of FixMatch's step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferbench.kernels.dispatch import (
    Impl,
    accumulate_dtype,
    has_shape,
    once_differentiable,
    one_of,
    opaque_op,
    use_triton,
)
from ferbench.kernels.head import reference
from ferbench.kernels.head.reference import Head

MAX_CLASSES = 16


def consistency_head(
    labelled: Tensor,
    labels: Tensor,
    weak: Tensor,
    strong: Tensor,
    *,
    thresholds: Tensor | float,
    reduction: reference.Reduction = "mean",
    impl: Impl = "auto",
) -> Head:
    """Cross-entropy of labelled logits, and of strong ones to the confident labels of the weak ones, in one launch.

    The same as `pseudo_label(weak)` and two cross-entropies (FixMatch Eqs. 3 and 4), to the rounding of float32.

    Args:
        labelled: [B, K] logits, K <= 16 in Triton; gradients go to these.
        labels: [B] integers in [0, K).
        weak: [U, K] logits that the labels are made of, without gradient.
        strong: [U, K] logits that are taught; gradients go to these.
        thresholds: one number, or a tensor of one per class [K] (or of none, []), to which confidences are held.
        reduction: "mean" over all rows, those not kept included, or "sum".
        impl: "auto", "triton" or "reference".

    Returns:
        `Head`: both losses [] in float32 (float64 for float64 logits), and label [U], keep [U], confidence [U] as
        `pseudo_label` gives them.

    Raises:
        ValueError: shapes or options that do not fit.
    """
    op = "consistency_head"
    has_shape(op, "labelled", labelled, (None, None))
    has_shape(op, "labels", labels, (labelled.shape[0],))
    has_shape(op, "weak", weak, (None, labelled.shape[1]))
    has_shape(op, "strong", strong, tuple(weak.shape))
    one_of(op, "reduction", reduction, ("mean", "sum"))
    tensors = [labelled, labels, weak, strong]
    if isinstance(thresholds, Tensor):
        if thresholds.dim() > 0:
            has_shape(op, "thresholds", thresholds, (labelled.shape[1],))
        tensors.append(thresholds)
    classes = labelled.shape[1]
    unfit = f"at most {MAX_CLASSES} classes in Triton, got {classes}" if classes > MAX_CLASSES else None
    if not use_triton(op, impl, tensors, unfit):
        return reference.consistency_head(labelled, labels, weak, strong, thresholds=thresholds, reduction=reduction)
    each, one = (thresholds, 0.0) if isinstance(thresholds, Tensor) else (None, float(thresholds))
    return Head(*_ConsistencyHead.apply(labelled, labels, weak.detach(), strong, each, one, reduction == "mean"))


def _run(
    labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, thresholds: Tensor | None, threshold: float,
    mean: bool, with_grad: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    from ferbench.kernels.head.kernel import head_forward

    return head_forward(labelled, labels, weak, strong, thresholds, threshold, mean, with_grad)


def _fake(
    labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, thresholds: Tensor | None, threshold: float,
    mean: bool, with_grad: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    rows, classes, dtype = strong.shape[0], strong.shape[1], accumulate_dtype(labelled, weak, strong)
    return (
        labelled.new_empty((), dtype=dtype),
        labelled.new_empty((), dtype=dtype),
        labelled.new_empty(rows, dtype=torch.int64),
        labelled.new_empty(rows, dtype=torch.bool),
        labelled.new_empty(rows, dtype=dtype),
        labelled.new_empty((labelled.shape[0] if with_grad else 0, classes), dtype=dtype),
        labelled.new_empty((rows if with_grad else 0, classes), dtype=dtype),
    )


_op = opaque_op(
    "consistency_head(Tensor labelled, Tensor labels, Tensor weak, Tensor strong, Tensor? thresholds, float threshold,"
    " bool mean, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


class _ConsistencyHead(torch.autograd.Function):
    """Both gradients are taken while the rows are in registers; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, thresholds: Tensor | None,
        threshold: float, mean: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        wants = ctx.needs_input_grad[0] or ctx.needs_input_grad[3]
        *outputs, d_labelled, d_strong = _op(labelled, labels, weak, strong, thresholds, threshold, mean, wants)
        ctx.grads = d_labelled, d_strong  # buffers of this op's own: nobody else can write to them
        ctx.dtypes = labelled.dtype, strong.dtype
        ctx.mark_non_differentiable(*outputs[2:])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, supervised: Tensor, unsupervised: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        d_labelled, d_strong = (
            (grad * incoming).to(dtype)
            for grad, incoming, dtype in zip(ctx.grads, (supervised, unsupervised), ctx.dtypes, strict=True)
        )
        return d_labelled, None, None, d_strong, None, None, None
