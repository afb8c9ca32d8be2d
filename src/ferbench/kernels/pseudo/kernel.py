"""Pseudo-label kernels: everything about a row in registers, of one thread where the classes are few; and counts.

Legend: B rows, K classes; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers. K and the strides
are constants of a run and of the compiled kernel: only then are the loads as wide as the hardware's.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import Plan, accumulate_dtype, ceil_div, launch, layout, power_of_two, triton_type
from ferbench.kernels.numerics import load_row, softmax_parts

NARROW = 16  # classes up to which a thread takes whole rows


@triton.jit
def _mixed(b_logit, b_feature, beta, ACC: tl.constexpr):
    return tl.full((), beta, ACC) * b_logit + tl.full((), 1.0 - beta, ACC) * b_feature


@triton.jit
def label_of_row(
    p_logits, p_features, m_row, beta,
    K: tl.constexpr, LOGITS_STEP: tl.constexpr, FEATURES_STEP: tl.constexpr, MIXED: tl.constexpr,
    RELEASED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Label and confidence, a thread to a row."""
    row = load_row(p_logits, m_row, LOGITS_STEP, K, ACC)
    if MIXED:
        features = load_row(p_features, m_row, FEATURES_STEP, K, ACC)
        if RELEASED:
            mixed = ()
            for k in tl.static_range(K):
                mixed = mixed + (_mixed(row[k], features[k], beta, ACC),)
            row = mixed
    parts, b_sum = softmax_parts(row, K)
    # the largest probability is exp(0) / sum; a NaN anywhere in the row makes it NaN
    b_confidence = 1.0 / b_sum
    b_best = tl.full(b_sum.shape, float("-inf"), ACC)
    b_label = tl.zeros(b_sum.shape, tl.int32)
    for k in tl.static_range(K):
        b_score = row[k]
        if MIXED and not RELEASED:
            b_score = _mixed(parts[k] * b_confidence, features[k], beta, ACC)
        b_score = tl.where(b_score == b_score, b_score, float("inf"))
        b_label = tl.where(b_score > b_best, k, b_label)
        b_best = tl.maximum(b_best, b_score)
    return b_label.to(tl.int64), b_confidence


@triton.jit
def _label_of_block(
    p_logits, p_features, m_row, beta,
    K: tl.constexpr, LOGITS_STEP: tl.constexpr, FEATURES_STEP: tl.constexpr, MIXED: tl.constexpr,
    RELEASED: tl.constexpr, ACC: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Label and confidence of rows that several threads share."""
    o_class = tl.arange(0, COLUMNS)
    m_class = (o_class < K)[None, :]
    m = m_row[:, None] & m_class
    # rows past the end hold zeros, not -inf, so that no NaN is ever computed for them
    p_row = p_logits[:, None] + o_class[None, :] * LOGITS_STEP
    b_score = tl.where(m_class, tl.load(p_row, mask=m, other=0.0).to(ACC), float("-inf"))
    if MIXED:
        p_row = p_features[:, None] + o_class[None, :] * FEATURES_STEP
        b_feature = tl.load(p_row, mask=m, other=0.0).to(ACC)
        if RELEASED:
            b_score = tl.where(m_class, _mixed(b_score, b_feature, beta, ACC), float("-inf"))
    b_exp = tl.exp(b_score - tl.max(b_score, axis=1)[:, None])
    b_confidence = 1.0 / tl.sum(b_exp, axis=1)
    if MIXED and not RELEASED:
        b_score = tl.where(m_class, _mixed(b_exp * b_confidence[:, None], b_feature, beta, ACC), float("-inf"))
    b_score = tl.where(b_score == b_score, b_score, float("inf"))
    return tl.argmax(b_score, axis=1, tie_break_left=True).to(tl.int64), b_confidence


@triton.jit(do_not_specialize=["B"])
def _pseudo_label_kernel(
    p_logits,  # [B, K]
    p_features,  # [B, K], read only when mixing
    p_thresholds,  # [K] or [], read only with HAS_THRESHOLDS
    p_label,  # [B] int64
    p_keep,  # [B] bool
    p_confidence,  # [B]
    beta: tl.float64,
    threshold: tl.float64,
    B,
    K: tl.constexpr,
    LOGITS_ROW: tl.constexpr,
    LOGITS_STEP: tl.constexpr,
    FEATURES_ROW: tl.constexpr,
    FEATURES_STEP: tl.constexpr,
    THRESHOLDS_STEP: tl.constexpr,
    MIXED: tl.constexpr,
    RELEASED: tl.constexpr,
    HAS_THRESHOLDS: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # 0: a thread takes whole rows
):
    o_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = o_row < B
    p_logits += o_row * LOGITS_ROW
    p_features += o_row * FEATURES_ROW
    if COLUMNS == 0:
        b_label, b_confidence = label_of_row(
            p_logits, p_features, m_row, beta, K, LOGITS_STEP, FEATURES_STEP, MIXED, RELEASED, ACC
        )
    else:
        b_label, b_confidence = _label_of_block(
            p_logits, p_features, m_row, beta, K, LOGITS_STEP, FEATURES_STEP, MIXED, RELEASED, ACC, COLUMNS
        )
    if HAS_THRESHOLDS:
        b_threshold = tl.load(p_thresholds + b_label * THRESHOLDS_STEP, mask=m_row, other=0.0).to(ACC)
        b_keep = b_confidence >= b_threshold
    else:
        b_keep = b_confidence >= tl.full((), threshold, ACC)
    tl.store(p_label + o_row, b_label, mask=m_row)
    tl.store(p_keep + o_row, b_keep, mask=m_row)
    tl.store(p_confidence + o_row, b_confidence, mask=m_row)


def row_blocks(rows: int, classes: int) -> dict[str, Any]:
    """ROWS and COLUMNS of a program and its warps: single warps while the rows are few, to spread them widely."""
    if classes <= NARROW:
        warps = 1 if rows <= 4096 else 4
        return {"ROWS": 32 * warps, "COLUMNS": 0, "num_warps": warps}
    columns = power_of_two(classes)
    return {"ROWS": max(1, 1024 // columns), "COLUMNS": columns, "num_warps": 4 if columns <= 2048 else 8}


def pseudo_label_forward(
    logits: Tensor, features: Tensor | None, thresholds: Tensor | None, beta: float, threshold: float, released: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel; `threshold` counts where `thresholds` is None. Shapes: logits and features [B, K]."""
    rows, device = logits.shape[0], logits.device
    dtype = accumulate_dtype(logits)
    label = torch.empty(rows, dtype=torch.int64, device=device)
    keep = torch.empty(rows, dtype=torch.bool, device=device)
    confidence = torch.empty(rows, dtype=dtype, device=device)
    other = logits if features is None else features
    limits = logits if thresholds is None else thresholds

    def plan() -> Plan:
        classes = logits.shape[1]
        blocks = row_blocks(rows, classes)
        constants = {
            "K": classes, "LOGITS_ROW": logits.stride(0), "LOGITS_STEP": logits.stride(1),
            "FEATURES_ROW": other.stride(0), "FEATURES_STEP": other.stride(1),
            "THRESHOLDS_STEP": limits.stride(0) if limits.dim() == 1 else 0, "MIXED": features is not None,
            "RELEASED": released, "HAS_THRESHOLDS": thresholds is not None, "ACC": triton_type(dtype),
        }  # fmt: skip
        return Plan((ceil_div(rows, blocks["ROWS"]),), (rows,), constants | blocks)

    launch(
        _pseudo_label_kernel,
        (layout(logits), layout(features), layout(thresholds), released),
        (logits, other, limits, label, keep, confidence, beta, threshold),
        plan,
    )
    return label, keep, confidence


@triton.jit(do_not_specialize=["B"])
def _counts_kernel(
    p_label,  # [B] integers
    p_keep,  # [B] bool
    p_truth,  # [B] integers
    p_changed,  # [B] bool, read only with CHANGED
    p_counts,  # [5], or [6] with CHANGED
    B,
    LABEL_STEP: tl.constexpr,
    KEEP_STEP: tl.constexpr,
    TRUTH_STEP: tl.constexpr,
    CHANGED_STEP: tl.constexpr,
    CHANGED: tl.constexpr,
    ROWS: tl.constexpr,
):
    # one program for all rows: their number is a batch's, and whole numbers add up in any order
    b_keep_all = tl.zeros((ROWS,), tl.int32)
    b_known_all, b_both, b_right_all, b_right_kept, b_changed_all = (
        b_keep_all, b_keep_all, b_keep_all, b_keep_all, b_keep_all,
    )  # fmt: skip
    for start in range(0, B, ROWS):
        o_row = start + tl.arange(0, ROWS).to(tl.int64)
        m_row = o_row < B
        m_keep = m_row & (tl.load(p_keep + o_row * KEEP_STEP, mask=m_row, other=0) != 0)
        b_truth = tl.load(p_truth + o_row * TRUTH_STEP, mask=m_row, other=-1)
        m_known = b_truth >= 0
        m_right = m_known & (tl.load(p_label + o_row * LABEL_STEP, mask=m_row, other=0) == b_truth)
        b_keep_all += m_keep.to(tl.int32)
        b_known_all += m_known.to(tl.int32)
        b_both += (m_keep & m_known).to(tl.int32)
        b_right_all += m_right.to(tl.int32)
        b_right_kept += (m_right & m_keep).to(tl.int32)
        if CHANGED:
            m_changed = tl.load(p_changed + o_row * CHANGED_STEP, mask=m_row, other=0) != 0
            b_changed_all += (m_changed & m_keep).to(tl.int32)
    tl.store(p_counts, tl.sum(b_keep_all).to(tl.float32))
    tl.store(p_counts + 1, tl.sum(b_known_all).to(tl.float32))
    tl.store(p_counts + 2, tl.sum(b_both).to(tl.float32))
    tl.store(p_counts + 3, tl.sum(b_right_all).to(tl.float32))
    tl.store(p_counts + 4, tl.sum(b_right_kept).to(tl.float32))
    if CHANGED:
        tl.store(p_counts + 5, tl.sum(b_changed_all).to(tl.float32))


def pseudo_counts_forward(label: Tensor, keep: Tensor, truth: Tensor, changed: Tensor | None) -> Tensor:
    """Counts [5], or [6] with `changed`, of inputs [B] in one launch."""
    counts = torch.empty(5 if changed is None else 6, device=label.device)
    other = keep if changed is None else changed

    def plan() -> Plan:
        steps = {
            f"{name}_STEP": tensor.stride(0)
            for name, tensor in (("LABEL", label), ("KEEP", keep), ("TRUTH", truth), ("CHANGED", other))
        }
        rows = min(max(power_of_two(len(label)), 32), 1024)
        constants = {**steps, "CHANGED": changed is not None, "ROWS": rows, "num_warps": rows // 256 or 1}
        return Plan((1,), (len(label),), constants)

    launch(_counts_kernel, tuple(map(layout, (label, keep, truth, changed))), (label, keep, truth, other, counts), plan)
    return counts
