"""What a speed case of an op is: its sizes, its inputs, and the ways to compute the same step.

An op adds one `Case` in `speed/ops/` and one line in `device.py`; `bench_kernels.py` and the device script do the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Inputs = list[Any]
Forward = Callable[..., Sequence[Tensor]]
Step = Callable[[], list[Tensor]]


class Work(NamedTuple):
    """The least that any implementation of a step must do: bytes to and from memory, FLOP in bfloat16, launches."""

    bytes: float
    flop: float = 0.0
    launches: int = 1


class Unfit(Exception):
    """Raised by a form of a step that does not take this size, or not on this device: it is left out."""


class Case(ABC):
    """One op at several sizes. `sizes` needs "quick" (milliseconds on a CPU); the others are for a GPU."""

    op: str
    sizes: dict[str, dict[str, int]]
    inexact = 1e-5
    """Error allowed over plain torch's, relative to the truth's largest entry."""
    waits: frozenset[str] = frozenset()
    """Forms that wait for the device within a step, which no CUDA graph can hold."""
    forward_only: frozenset[str] = frozenset()
    """Forms without a backward: they are timed without one."""
    compiles = True
    """Whether torch.compile makes one graph of the plain form."""

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

    @abstractmethod
    def floor(self, size: dict[str, int]) -> Work:
        """The least work of one step."""

    def bound(self, forward: Forward, inputs: Inputs, backward: bool = True) -> Step:
        """One training step on these inputs, giving outputs and gradients; incoming ones are made at the first call."""
        wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad] if backward else []
        incoming: list[Tensor] = []

        def step() -> list[Tensor]:
            outputs = list(forward(*inputs))
            if wanted and not incoming:
                incoming.extend(self.incoming(outputs))
            gradients = torch.autograd.grad(outputs, wanted, incoming) if wanted else ()
            return [output.detach() for output in outputs] + list(gradients)

        return step

    def step(self, forward: Forward, inputs: Inputs) -> list[Tensor]:
        """Outputs and gradients of one training step."""
        return self.bound(forward, inputs)()

    def check(self, inputs: Inputs) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The same values of ours, of plain torch, and in float64; of sampled rows where the whole is too large."""
        return (
            self.step(self.ours, copied(inputs)),
            self.step(self.eager, copied(inputs)),
            self.step(self.eager, copied(inputs, torch.float64)),
        )

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
