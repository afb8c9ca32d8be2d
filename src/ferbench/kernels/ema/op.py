"""The public moving average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ferbench.kernels.dispatch import Impl, traced, use_triton
from ferbench.kernels.ema import reference

if TYPE_CHECKING:
    from ferbench.kernels.ema.kernel import Table


class MovingAverage:
    """Averages that follow values, all in one launch: average <- decay * average + (1 - decay) * value, in place.

    The lists are checked, and their addresses tabled, once: an update costs no time per tensor. So the memory of the
    tensors must stay where it is: move a model to its device first. To capture updates in a CUDA graph, update once
    before; the graph needs this object alive. Integer buffers (BatchNorm's step count) have no average: the caller
    copies them. While something traces (torch.compile), torch's own multi-tensor operations are recorded.

    Args:
        averages: floating-point tensors of any shapes, one device.
        values: as many, each of its average's shape and type.
        impl: "auto", "triton" or "reference".

    Raises:
        ValueError: lists of different lengths, a pair that differs in shape or type, or tensors on several devices.
    """

    def __init__(self, averages: Sequence[Tensor], values: Sequence[Tensor], *, impl: Impl = "auto") -> None:
        op = "ema_update"
        self.averages, self.values = list(averages), list(values)
        if len(averages) != len(values):
            raise ValueError(f"{op}: {len(averages)} averages but {len(values)} values")
        for i, (average, value) in enumerate(zip(averages, values)):  # noqa: B905
            if average.shape != value.shape or average.dtype != value.dtype or not average.is_floating_point():
                raise ValueError(
                    f"{op}: pair {i} must be two floating-point tensors of one shape and type, not "
                    f"{average.dtype} {list(average.shape)} and {value.dtype} {list(value.shape)}"
                )
        everything = [*self.averages, *self.values]
        self._device = everything[0].device if everything else None
        self._uses_triton = bool(everything) and use_triton(op, impl, everything)  # also checks the devices
        self._tables: list[Table] | None = None
        self._odd: list[tuple[Tensor, Tensor]] = []

    def update(self, decay: float | Tensor, *, shrink: float | Tensor = 1.0) -> None:
        """Move every average towards its value.

        Args:
            decay: in [0, 1]; a tensor [] on the same device lets a captured CUDA graph follow a schedule.
            shrink: after the average, value <- shrink * value, a number or a tensor as `decay`; 1 leaves the values
                alone. The released codes of ReMoP and MixMatch decay the weights in this place, by 1 - 0.02 * learning
                rate.
        """
        for name, number in (("decay", decay), ("shrink", shrink)):
            if isinstance(number, Tensor) and self._device not in (None, number.device):
                raise ValueError(
                    f"ema_update: tensors on different devices: {self._device} and {name} on {number.device}"
                )
        if not self._uses_triton or torch.compiler.is_compiling() or traced(self.averages[0]):
            reference.ema_update(self.averages, self.values, decay, shrink=shrink)
            return
        from ferbench.kernels.ema.kernel import make_tables, move

        if self._tables is None:
            self._tables, self._odd = make_tables(self.averages, self.values)
        for table in self._tables:
            move(table, decay, shrink)
        # autograd must see that what a graph may have saved has changed
        increment_version(self.averages)
        if isinstance(shrink, Tensor) or shrink != 1.0:
            increment_version(self.values)
        if self._odd:
            averages, values = zip(*self._odd)  # noqa: B905
            reference.ema_update(averages, values, decay, shrink=shrink)


def ema_update(
    averages: Sequence[Tensor],
    values: Sequence[Tensor],
    decay: float | Tensor,
    *,
    shrink: float | Tensor = 1.0,
    impl: Impl = "auto",
) -> None:
    """One update of a `MovingAverage` made for it: for a single use, as checks and tables are made anew each time."""
    MovingAverage(averages, values, impl=impl).update(decay, shrink=shrink)
