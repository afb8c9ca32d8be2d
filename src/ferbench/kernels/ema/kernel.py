"""Moving average over hundreds of tensors in one launch: program i takes the i-th chunk of a table of addresses.

Legend: N chunks; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import Plan, launch, triton_type

BLOCK = 4096


@triton.jit
def _move(p_average, p_value, m, keep, shrink, TYPE: tl.constexpr, SHRINK: tl.constexpr, ACC: tl.constexpr):
    weight = (1.0 - keep).to(ACC)
    b_average = tl.load(p_average, mask=m).to(ACC)
    b_value = tl.load(p_value, mask=m).to(ACC)
    # two forms, as in torch.lerp, so that decay 0 and decay 1 are exact
    b_step = b_value - b_average
    b_new = tl.where(weight < 0.5, b_average + weight * b_step, b_value - keep.to(ACC) * b_step)
    tl.store(p_average, b_new.to(TYPE), mask=m)
    if SHRINK:
        tl.store(p_value, (b_value * shrink).to(TYPE), mask=m)


@triton.jit
def _ema_kernel(
    p_table,  # [N, 3] int64: address of the chunk in its average, in its value, and its number of elements
    p_decay,  # [], read only with TENSOR_DECAY
    p_shrink,  # [], read only with TENSOR_SHRINK
    decay: tl.float64,
    shrink: tl.float64,
    TYPE: tl.constexpr,
    TENSOR_DECAY: tl.constexpr,
    TENSOR_SHRINK: tl.constexpr,
    SHRINK: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p_row = p_table + tl.program_id(0).to(tl.int64) * 3
    p_average = tl.load(p_row).to(tl.pointer_type(TYPE))
    p_value = tl.load(p_row + 1).to(tl.pointer_type(TYPE))
    count = tl.load(p_row + 2)
    if ALIGNED:
        # addresses read from memory carry no alignment: without this every load is one element wide
        p_average = tl.multiple_of(p_average, 16)
        p_value = tl.multiple_of(p_value, 16)
    ACC: tl.constexpr = tl.float64 if TYPE == tl.float64 else tl.float32
    if TENSOR_DECAY:
        keep = tl.load(p_decay).to(tl.float64)
    else:
        keep = tl.full((), decay, tl.float64)
    if TENSOR_SHRINK:
        less = tl.load(p_shrink).to(ACC)
    else:
        less = tl.full((), shrink, ACC)
    o = tl.arange(0, BLOCK)
    # a mask that ends anywhere makes every load one element wide, so that whole chunks have none
    if count == BLOCK:
        _move(p_average + o, p_value + o, None, keep, less, TYPE, SHRINK, ACC)
    else:
        _move(p_average + o, p_value + o, o < count, keep, less, TYPE, SHRINK, ACC)


class Table(NamedTuple):
    """All the pairs of one type, cut into chunks: rows [N, 3] as the kernel reads them; whether all are 16-byte."""

    rows: Tensor
    dtype: torch.dtype
    aligned: bool


Pair = tuple[Tensor, Tensor]


def make_tables(averages: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[list[Table], list[Pair]]:
    """A table per type, copied to the device, and the pairs that are not laid out densely and alike."""
    groups: dict[torch.dtype, list[Pair]] = {}
    odd = []
    for average, value in zip(averages, values):  # noqa: B905
        if average.stride() == value.stride() and dense(average):
            groups.setdefault(average.dtype, []).append((average, value))
        else:
            odd.append((average, value))
    return [_table(dtype, pairs) for dtype, pairs in groups.items()], odd


def _table(dtype: torch.dtype, pairs: list[Pair]) -> Table:
    step = BLOCK * dtype.itemsize
    rows = [
        (average.data_ptr() + i * step, value.data_ptr() + i * step, min(BLOCK, average.numel() - i * BLOCK))
        for average, value in pairs
        for i in range(-(-average.numel() // BLOCK))
    ]
    aligned = all(tensor.data_ptr() % 16 == 0 for pair in pairs for tensor in pair)
    return Table(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).to(pairs[0][0].device), dtype, aligned)


def move(table: Table, decay: float | Tensor, shrink: float | Tensor) -> None:
    """One launch over a table."""
    rows, dtype, aligned = table
    decays, shrinks = isinstance(decay, Tensor), isinstance(shrink, Tensor)
    shrinking = shrinks or shrink != 1.0
    types = decay.dtype if isinstance(decay, Tensor) else None, shrink.dtype if isinstance(shrink, Tensor) else None
    launch(
        _ema_kernel,
        (rows.shape[0], rows.get_device(), dtype, aligned, shrinking, *types),
        (
            rows, decay if decays else rows, shrink if shrinks else rows, 0.0 if decays else decay,
            1.0 if shrinks else shrink,
        ),
        lambda: Plan(
            (rows.shape[0],), (),
            {"TYPE": triton_type(dtype), "TENSOR_DECAY": decays, "TENSOR_SHRINK": shrinks, "SHRINK": shrinking,
             "ALIGNED": aligned, "BLOCK": BLOCK, "num_warps": 8},
        ),
    )  # fmt: skip


def dense(tensor: Tensor) -> bool:
    """Whether the elements fill one span of memory, in whatever order (channels-last weights do)."""
    if tensor.is_contiguous():
        return True
    size = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape)):  # noqa: B905
        if length != 1 and stride != size:
            return False
        size *= length
    return True
