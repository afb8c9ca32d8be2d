"""The public pseudo-label op, and the counts that are logged of its labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ferbench.kernels.dispatch import Impl, accumulate_dtype, has_shape, one_of, opaque_op, use_triton
from ferbench.kernels.pseudo import reference

MAX_CLASSES = 8192  # that a kernel holds in registers


def pseudo_label(
    logits: Tensor,
    *,
    feature_scores: Tensor | None = None,
    beta: float = 1.0,
    thresholds: Tensor | float,
    mix: Literal["paper", "released"] = "paper",
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Label, gate and confidence of unlabelled rows; nothing here carries a gradient.

    Args:
        logits: [B, K] of the linear classifier, 1 <= K (<= 8192 in Triton).
        feature_scores: [B, K] of the feature classifier (ReMoP Eq. 5: cosines; released code: dot products).
        beta: weight of the linear classifier, in [0, 1]; other than 1 only together with `feature_scores`.
        thresholds: one number, or a tensor of one per class [K] (or of none, []), to which the chosen label's
            confidence is held.
        mix: "paper": label = argmax of beta * softmax(logits) + (1 - beta) * feature_scores (Eqs. 6, 7), confidence =
            max of softmax(logits) (Eq. 3); "released": both from softmax(beta * logits + (1 - beta) * feature_scores).
        impl: "auto", "triton" or "reference".

    Returns:
        label [B] int64 (ties go to the lower index), keep [B] bool = confidence >= threshold of the label, and
        confidence [B] float32 (float64 for float64 logits). A row with a NaN is never kept.

    Raises:
        ValueError: shapes or options that do not fit.
    """
    op = "pseudo_label"
    has_shape(op, "logits", logits, (None, None))
    if logits.shape[1] == 0:
        raise ValueError(f"{op}: logits must have at least one class")
    tensors = [logits]
    if feature_scores is not None:
        has_shape(op, "feature_scores", feature_scores, tuple(logits.shape))
        tensors.append(feature_scores)
    elif beta != 1.0:
        raise ValueError(f"{op}: beta={beta} weighs logits against feature_scores, which are missing")
    if isinstance(thresholds, Tensor):
        if thresholds.dim() > 0:
            has_shape(op, "thresholds", thresholds, (logits.shape[1],))
        tensors.append(thresholds)
    one_of(op, "mix", mix, ("paper", "released"))
    unfit = f"at most {MAX_CLASSES} classes in Triton, got {logits.shape[1]}" if logits.shape[1] > MAX_CLASSES else None
    if use_triton(op, impl, tensors, unfit):
        each, one = (thresholds, 0.0) if isinstance(thresholds, Tensor) else (None, float(thresholds))
        label, keep, confidence = _op(logits, feature_scores, each, beta, one, mix == "released")
        return label, keep, confidence
    return reference.pseudo_label(logits, feature_scores=feature_scores, beta=beta, thresholds=thresholds, mix=mix)


def pseudo_counts(
    label: Tensor, keep: Tensor, truth: Tensor, changed: Tensor | None = None, *, impl: Impl = "auto"
) -> Tensor:
    """How many rows are kept, known, kept and known, right, and right and kept; also kept and changed where asked for.

    Args:
        label: [B] integers.
        keep: [B] bool.
        truth: [B] integers, -1 where no class is known: such a row is neither known nor right.
        changed: [B] bool or None: labelled otherwise than by somebody else.
        impl: "auto", "triton" or "reference".

    Returns:
        [5] float32 in that order, [6] with `changed`.

    Raises:
        ValueError: shapes that do not fit.
    """
    op = "pseudo_counts"
    has_shape(op, "label", label, (None,))
    tensors = [label, keep, truth, *([] if changed is None else [changed])]
    for name, tensor in zip(("keep", "truth", "changed"), tensors[1:]):  # noqa: B905
        has_shape(op, name, tensor, (label.shape[0],))
    if not use_triton(op, impl, tensors):
        return reference.pseudo_counts(label, keep, truth, changed)
    return _counts(label, keep, truth, changed)  # type: ignore[no-any-return]


def _run(
    logits: Tensor, features: Tensor | None, thresholds: Tensor | None, beta: float, threshold: float, released: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from ferbench.kernels.pseudo.kernel import pseudo_label_forward

    return pseudo_label_forward(logits, features, thresholds, beta, threshold, released)


def _fake(logits: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.bool),
        logits.new_empty(rows, dtype=accumulate_dtype(logits)),
    )


_op = opaque_op(
    "pseudo_label(Tensor logits, Tensor? features, Tensor? thresholds, float beta, float threshold, bool released)"
    " -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
)


def _run_counts(label: Tensor, keep: Tensor, truth: Tensor, changed: Tensor | None) -> Tensor:
    from ferbench.kernels.pseudo.kernel import pseudo_counts_forward

    return pseudo_counts_forward(label, keep, truth, changed)


_counts = opaque_op(
    "pseudo_counts(Tensor label, Tensor keep, Tensor truth, Tensor? changed) -> Tensor",
    _run_counts,
    lambda label, keep, truth, changed: label.new_empty(5 if changed is None else 6, dtype=torch.float32),
)
