"""The public moving average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ferbench.kernels.dispatch import Impl, opaque_op, use_triton
from ferbench.kernels.ema import reference


def ema_update(
    averages: Sequence[Tensor],
    values: Sequence[Tensor],
    decay: float | Tensor,
    *,
    shrink: float = 1.0,
    impl: Impl = "auto",
) -> None:
    """Move every average towards its value, in place: average <- decay * average + (1 - decay) * value.

    Integer buffers (BatchNorm's step count) have no average: the caller copies them.

    Args:
        averages: floating-point tensors of any shapes, one device.
        values: as many, each of its average's shape and type.
        decay: in [0, 1]; a tensor [] on the same device lets a captured CUDA graph follow a schedule.
        shrink: after the average, value <- shrink * value; 1 leaves the values alone. The released codes of ReMoP and
            MixMatch decay the weights in this place, by 1 - 0.02 * learning rate.
        impl: "auto", "triton" or "reference".

    Raises:
        ValueError: lists of different lengths, or a pair that differs in shape or type.
    """
    op = "ema_update"
    if len(averages) != len(values):
        raise ValueError(f"{op}: {len(averages)} averages but {len(values)} values")
    for i, (average, value) in enumerate(zip(averages, values)):  # noqa: B905
        if average.shape != value.shape or average.dtype != value.dtype or not average.is_floating_point():
            raise ValueError(
                f"{op}: pair {i} must be two floating-point tensors of one shape and type, not "
                f"{average.dtype} {list(average.shape)} and {value.dtype} {list(value.shape)}"
            )
    if averages and use_triton(op, impl, [averages[0], values[0]]):
        number, tensor = (0.0, decay) if isinstance(decay, Tensor) else (decay, None)
        with torch.no_grad():
            _op(averages, values, number, tensor, shrink)
        return
    reference.ema_update(averages, values, decay, shrink=shrink)


def _run(
    averages: Sequence[Tensor], values: Sequence[Tensor], decay: float, decay_tensor: Tensor | None, shrink: float
) -> None:
    from ferbench.kernels.ema.kernel import ema_forward

    ema_forward(averages, values, decay if decay_tensor is None else decay_tensor, shrink)


def _fake(*_: object) -> None:
    return None


_op = opaque_op(
    "ema_update(Tensor(a!)[] averages, Tensor(b!)[] values, float decay, Tensor? decay_tensor, float shrink) -> ()",
    _run,
    _fake,
)
