"""Pseudo-label kernel: a block of rows per program, everything about a row in registers.

Legend: B rows, K classes; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import accumulate_dtype, launch, triton_type

MAX_CLASSES = 8192


@triton.jit(do_not_specialize=["B", "K"])
def _pseudo_label_kernel(
    p_logits,  # [B, K]
    p_features,  # [B, K], read only when mixing
    p_thresholds,  # [K] or [], read only with HAS_THRESHOLDS
    p_label,  # [B] int64
    p_keep,  # [B] uint8
    p_confidence,  # [B]
    B,
    K,
    logits_row,
    logits_column,
    features_row,
    features_column,
    thresholds_step,
    beta: tl.float64,
    threshold: tl.float64,
    MIXED: tl.constexpr,
    RELEASED: tl.constexpr,
    HAS_THRESHOLDS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_class = tl.arange(0, COLUMNS).to(tl.int64)
    m_row = o_row < B
    m_class = o_class < K
    m = m_row[:, None] & m_class[None, :]
    p_row = p_logits + o_row[:, None] * logits_row + o_class[None, :] * logits_column
    # rows past the end hold zeros, not -inf, so that no NaN is ever computed for them
    b_score = tl.where(m_class[None, :], tl.load(p_row, mask=m, other=0.0).to(ACC), float("-inf"))
    linear = tl.full((), beta, ACC)
    other = tl.full((), 1.0 - beta, ACC)
    if MIXED:
        p_row = p_features + o_row[:, None] * features_row + o_class[None, :] * features_column
        b_feature = tl.load(p_row, mask=m, other=0.0).to(ACC)
        if RELEASED:
            b_score = tl.where(m_class[None, :], linear * b_score + other * b_feature, float("-inf"))

    b_exp = tl.exp(b_score - tl.max(b_score, axis=1)[:, None])
    # the largest probability is exp(0) / sum; a NaN anywhere in the row makes it NaN
    b_confidence = 1.0 / tl.sum(b_exp, axis=1)
    if MIXED and not RELEASED:
        b_mixed = linear * (b_exp * b_confidence[:, None]) + other * b_feature
        b_score = tl.where(m_class[None, :], b_mixed, float("-inf"))
    b_score = tl.where(b_score == b_score, b_score, float("inf"))
    b_label = tl.argmax(b_score, axis=1, tie_break_left=True).to(tl.int64)

    if HAS_THRESHOLDS:
        b_threshold = tl.load(p_thresholds + b_label * thresholds_step, mask=m_row, other=0.0).to(ACC)
        b_keep = b_confidence >= b_threshold
    else:
        b_keep = b_confidence >= tl.full((), threshold, ACC)
    tl.store(p_label + o_row, b_label, mask=m_row)
    tl.store(p_keep + o_row, b_keep.to(tl.uint8), mask=m_row)
    tl.store(p_confidence + o_row, b_confidence, mask=m_row)


def pseudo_label_forward(
    logits: Tensor, features: Tensor | None, thresholds: Tensor | None, beta: float, threshold: float, released: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel; `threshold` counts where `thresholds` is None. Shapes: logits and features [B, K]."""
    rows, classes = logits.shape
    if classes > MAX_CLASSES:
        raise ValueError(f'pseudo_label: at most {MAX_CLASSES} classes in Triton, got {classes}; use impl="reference"')
    dtype = accumulate_dtype(logits)
    label = torch.empty(rows, dtype=torch.int64, device=logits.device)
    keep = torch.empty(rows, dtype=torch.bool, device=logits.device)
    confidence = torch.empty(rows, dtype=dtype, device=logits.device)
    columns = triton.next_power_of_2(classes)
    block = max(1, 1024 // columns)
    other = logits if features is None else features
    limits = logits if thresholds is None else thresholds
    launch(
        _pseudo_label_kernel, (triton.cdiv(rows, block),),
        logits, other, limits, label, keep.view(torch.uint8), confidence, rows, classes,
        *logits.stride(), *other.stride(), limits.stride(0) if limits.dim() == 1 else 0, beta, threshold,
        MIXED=features is not None, RELEASED=released, HAS_THRESHOLDS=thresholds is not None,
        ACC=triton_type(dtype), ROWS=block, COLUMNS=columns,
        num_warps=4 if columns <= 2048 else 8,
    )  # fmt: skip
    return label, keep, confidence
