"""Moving average over hundreds of tensors in one launch: program i takes the i-th chunk of a table of addresses.

Legend: N chunks; p_ pointer, i_ program index, o_ offsets, m_ mask, b_ block in registers.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferbench.kernels.dispatch import launch, triton_type

BLOCK = 4096

CAPTURED: dict[tuple[tuple[int, int, int], ...], Tensor] = {}
"""Tables that a CUDA graph reads at every replay: never given up, unlike those in the cache."""


@triton.jit
def _ema_kernel(
    p_table,  # [N, 3] int64: address of the chunk in its average, in its value, and its number of elements
    p_decay,  # [], read only with TENSOR_DECAY
    decay: tl.float64,
    shrink: tl.float64,
    TYPE: tl.constexpr,
    TENSOR_DECAY: tl.constexpr,
    SHRINK: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p_row = p_table + tl.program_id(0).to(tl.int64) * 3
    p_average = tl.load(p_row).to(tl.pointer_type(TYPE))
    p_value = tl.load(p_row + 1).to(tl.pointer_type(TYPE))
    if ALIGNED:
        # addresses read from memory carry no alignment: without this every load is one element wide
        p_average = tl.multiple_of(p_average, 16)
        p_value = tl.multiple_of(p_value, 16)
    ACC: tl.constexpr = tl.float64 if TYPE == tl.float64 else tl.float32
    if TENSOR_DECAY:
        keep = tl.load(p_decay).to(tl.float64)
    else:
        keep = tl.full((), decay, tl.float64)
    weight = (1.0 - keep).to(ACC)
    o = tl.arange(0, BLOCK)
    m = o < tl.load(p_row + 2)
    b_average = tl.load(p_average + o, mask=m, other=0.0).to(ACC)
    b_value = tl.load(p_value + o, mask=m, other=0.0).to(ACC)
    # two forms, as in torch.lerp, so that decay 0 and decay 1 are exact
    b_step = b_value - b_average
    b_new = tl.where(weight < 0.5, b_average + weight * b_step, b_value - keep.to(ACC) * b_step)
    tl.store(p_average + o, b_new.to(TYPE), mask=m)
    if SHRINK:
        tl.store(p_value + o, (b_value * tl.full((), shrink, ACC)).to(TYPE), mask=m)


def ema_forward(averages: Sequence[Tensor], values: Sequence[Tensor], decay: float | Tensor, shrink: float) -> None:
    """One launch per dtype in the lists. A pair that is not laid out densely and alike gets torch's own update.

    The table is built, and copied to the device, when a set of addresses is first seen: capture a CUDA graph later.
    """
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for average, value in zip(averages, values):  # noqa: B905
        if average.stride() == value.stride() and dense(average):
            group = groups.setdefault(average.dtype, ([], []))
            group[0].append(average)
            group[1].append(value)
        else:
            average.lerp_(value, 1.0 - decay)
            if shrink != 1.0:
                value.mul_(shrink)
    for dtype, (old, new) in groups.items():
        key = tuple((a.data_ptr(), v.data_ptr(), a.numel()) for a, v in zip(old, new))  # noqa: B905
        rows, aligned = address_table(key, dtype.itemsize, old[0].device)
        if rows.is_cuda and torch.cuda.is_current_stream_capturing():
            CAPTURED[key] = rows
        launch(
            _ema_kernel, (rows.shape[0],),
            rows, decay if isinstance(decay, Tensor) else rows, 0.0 if isinstance(decay, Tensor) else decay, shrink,
            TYPE=triton_type(dtype), TENSOR_DECAY=isinstance(decay, Tensor),
            SHRINK=shrink != 1.0, ALIGNED=aligned, BLOCK=BLOCK, num_warps=8,
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


@lru_cache(maxsize=16)
def address_table(
    tensors: tuple[tuple[int, int, int], ...], itemsize: int, device: torch.device
) -> tuple[Tensor, bool]:
    """The kernel's table [N, 3] for (average address, value address, elements) per tensor, and whether all are 16-byte.

    It depends on the addresses alone, so an entry stays true even if its memory has been freed and handed out again.
    """
    rows = [
        (average + start * itemsize, value + start * itemsize, min(BLOCK, count - start))
        for average, value, count in tensors
        for start in range(0, count, BLOCK)
    ]
    aligned = all(average % 16 == 0 and value % 16 == 0 for average, value, _ in tensors)
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).to(device), aligned
