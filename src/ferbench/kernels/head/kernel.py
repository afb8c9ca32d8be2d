"""FixMatch's head in one launch: both cross-entropies with their gradients, and the pseudo-labels; a thread to a row.

Legend: B labelled rows, U unlabelled rows, K classes, P programs; p_ pointer, i_ program index, o_ offsets, m_ mask, b_
block in registers. K and the strides are constants of a run and of the compiled kernel.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, triton_type
from ferbench.kernels.numerics import largest, load_row, softmax_parts
from ferbench.kernels.pseudo.kernel import label_of_row

MAX_CLASSES = 16
ROWS = 256  # of each kind in a program: up to there the losses need no further launch


@triton.jit
def _cross_entropy(
    p_row, p_grad, b_target, b_weight, m_row, STEP: tl.constexpr, K: tl.constexpr, GRAD: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Sum of weight * cross-entropy; the gradient of each row is written."""
    row = load_row(p_row, m_row, STEP, K, ACC)
    parts, b_sum = softmax_parts(row, K)
    b_own = tl.zeros_like(b_sum)
    for k in tl.static_range(K):
        b_own += tl.where(b_target == k, row[k], 0.0)
    # a label outside [0, K) makes the loss NaN
    b_loss = tl.where((b_target >= 0) & (b_target < K), tl.log(b_sum) + (largest(row, K) - b_own), float("nan"))
    if GRAD:
        for k in tl.static_range(K):
            b_grad = b_weight * (parts[k] / b_sum - (b_target == k).to(ACC))
            tl.store(p_grad + k, b_grad, mask=m_row)
    return tl.sum(tl.where(m_row, b_weight * b_loss, 0.0))


@triton.jit(do_not_specialize=["B", "U", "labels_step"])
def _head_kernel(
    p_labelled,  # [B, K]
    p_labels,  # [B] integers
    p_weak,  # [U, K]
    p_strong,  # [U, K]
    p_thresholds,  # [K] or [], read only with HAS_THRESHOLDS
    p_supervised,  # [P] share of each program
    p_unsupervised,  # [P]
    p_label,  # [U] int64
    p_keep,  # [U] bool
    p_confidence,  # [U]
    p_dlabelled,  # [B, K], contiguous, written only with GRAD
    p_dstrong,  # [U, K], contiguous, written only with GRAD
    threshold: tl.float64,
    known_weight: tl.float64,
    taught_weight: tl.float64,
    B,
    U,
    labels_step,
    K: tl.constexpr,
    LABELLED_ROW: tl.constexpr,
    LABELLED_STEP: tl.constexpr,
    WEAK_ROW: tl.constexpr,
    WEAK_STEP: tl.constexpr,
    STRONG_ROW: tl.constexpr,
    STRONG_STEP: tl.constexpr,
    THRESHOLDS_STEP: tl.constexpr,
    HAS_THRESHOLDS: tl.constexpr,
    GRAD: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
):
    i = tl.program_id(0)
    o_row = i.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = o_row < B
    b_target = tl.load(p_labels + o_row * labels_step, mask=m_row, other=0).to(tl.int64)
    loss = _cross_entropy(
        p_labelled + o_row * LABELLED_ROW, p_dlabelled + o_row * K, b_target,
        tl.full((ROWS,), known_weight, ACC), m_row, LABELLED_STEP, K, GRAD, ACC,
    )  # fmt: skip
    tl.store(p_supervised + i, loss)

    m_row = o_row < U
    p_row = p_weak + o_row * WEAK_ROW
    b_label, b_confidence = label_of_row(p_row, p_row, m_row, 1.0, K, WEAK_STEP, WEAK_STEP, False, False, ACC)
    if HAS_THRESHOLDS:
        b_keep = b_confidence >= tl.load(p_thresholds + b_label * THRESHOLDS_STEP, mask=m_row, other=0.0).to(ACC)
    else:
        b_keep = b_confidence >= tl.full((), threshold, ACC)
    tl.store(p_label + o_row, b_label, mask=m_row)
    tl.store(p_keep + o_row, b_keep, mask=m_row)
    tl.store(p_confidence + o_row, b_confidence, mask=m_row)
    b_weight = tl.full((ROWS,), taught_weight, ACC) * b_keep.to(ACC)
    loss = _cross_entropy(
        p_strong + o_row * STRONG_ROW, p_dstrong + o_row * K, b_label, b_weight, m_row, STRONG_STEP, K, GRAD, ACC
    )
    tl.store(p_unsupervised + i, loss)


def head_forward(
    labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, thresholds: Tensor | None, threshold: float,
    mean: bool, with_grad: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Both losses [], label, keep and confidence [U], and both gradients [B, K], [U, K] (of no rows unless asked for).

    `threshold` counts where `thresholds` is None. One launch, and two sums where there are more than 256 rows.
    """
    (known, classes), taught, device = labelled.shape, strong.shape[0], labelled.device
    dtype = accumulate_dtype(labelled, weak, strong)
    programs = max(1, ceil_div(max(known, taught), ROWS))
    supervised, unsupervised = (
        torch.empty(programs if programs > 1 else (), dtype=dtype, device=device) for _ in range(2)
    )
    label = torch.empty(taught, dtype=torch.int64, device=device)
    keep = torch.empty(taught, dtype=torch.bool, device=device)
    confidence = torch.empty(taught, dtype=dtype, device=device)
    # kept in float32: below a loss scale, half precision would lose small ones
    d_labelled = torch.empty((known if with_grad else 0, classes), dtype=dtype, device=device)
    d_strong = torch.empty((taught if with_grad else 0, classes), dtype=dtype, device=device)
    limits = weak if thresholds is None else thresholds

    def plan() -> Plan:
        constants = {
            "K": classes, "LABELLED_ROW": labelled.stride(0), "LABELLED_STEP": labelled.stride(1),
            "WEAK_ROW": weak.stride(0), "WEAK_STEP": weak.stride(1), "STRONG_ROW": strong.stride(0),
            "STRONG_STEP": strong.stride(1), "THRESHOLDS_STEP": limits.stride(0) if limits.dim() == 1 else 0,
            "HAS_THRESHOLDS": thresholds is not None, "GRAD": with_grad, "ACC": triton_type(dtype), "ROWS": ROWS,
            "num_warps": 8,
        }  # fmt: skip
        return Plan((programs,), (known, taught, labels.stride(0)), constants)

    launch(
        _head_kernel,
        (*map(layout, (labelled, labels, weak, strong, thresholds)), with_grad),
        (
            labelled, labels, weak, strong, limits, supervised, unsupervised, label, keep, confidence, d_labelled,
            d_strong, threshold, 1.0 / known if mean and known else 1.0, 1.0 / taught if mean and taught else 1.0,
        ),
        plan,
    )  # fmt: skip
    if programs > 1:
        supervised, unsupervised = supervised.sum(), unsupervised.sum()
    return supervised, unsupervised, label, keep, confidence, d_labelled, d_strong
