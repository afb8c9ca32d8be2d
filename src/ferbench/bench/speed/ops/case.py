"""What a speed case of an op is: its sizes, its inputs, and the ways to compute the same step.

An op adds one `Case` in `speed/ops/` and one line in `device.py`; `bench_kernels.py` and the device script do the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Inputs = list[Any]
Forward = Callable[..., Sequence[Tensor]]


class Case(ABC):
    """One op at several sizes. `sizes` needs "quick" (milliseconds on a CPU); the others are for a GPU."""

    op: str
    sizes: dict[str, dict[str, int]]
    inexact = 1e-5
    """Error allowed over plain torch's, relative to the truth's largest entry."""
    waits: frozenset[str] = frozenset()
    """Forms that wait for the device within a step, which no CUDA graph can hold."""

    @abstractmethod
    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        """Fresh inputs: tensors (those that require gradients are differentiated), lists of tensors, numbers."""

    @abstractmethod
    def ours(self, *inputs: Any) -> Sequence[Tensor]:
        """The op itself, forward only, with impl="auto"."""

    @abstractmethod
    def eager(self, *inputs: Any) -> Sequence[Tensor]:
        """The best plain-torch form, our algebra included, so that a kernel is not credited with the algebra."""

    def others(self) -> dict[str, Forward]:
        """Further forms to time, by name: the released code's computation, another library's. They are not checked."""
        return {}

    def incoming(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Incoming gradients, none of them 1."""
        return [torch.full_like(output, 0.5 + 0.25 * i) for i, output in enumerate(outputs)]

    def step(self, forward: Forward, inputs: Inputs) -> list[Tensor]:
        """Outputs and gradients of one training step."""
        wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        outputs = list(forward(*inputs))
        gradients = torch.autograd.grad(outputs, wanted, self.incoming(outputs)) if wanted else ()
        return [output.detach() for output in outputs] + list(gradients)

    def label(self, size: dict[str, int]) -> str:
        """A size as in the tests' ids: `B64-K7-D512`."""
        return "-".join(f"{name}{value}" for name, value in size.items())


def copied(value: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of an input with memory of its own, its floating-point tensors in `dtype` if given."""
    if isinstance(value, (list, tuple)):
        return [copied(item, dtype) for item in value]
    if not isinstance(value, Tensor):
        return value
    wide = dtype if value.is_floating_point() else None
    return value.detach().clone().to(wide or value.dtype).requires_grad_(value.requires_grad)
