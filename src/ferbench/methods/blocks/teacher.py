"""The averaged copy of a model that teaches it."""

from __future__ import annotations

import copy
from itertools import chain, compress
from typing import Literal

import torch
from torch import Tensor, nn

from ferbench.kernels import MovingAverage
from ferbench.methods.base import Prediction
from ferbench.methods.blocks.modes import kept_statistics

Statistics = Literal["student's", "averaged"]


class EmaTeacher(nn.Module):
    """weights <- decay * weights + (1 - decay) * student's, after each step.

    Its passes carry no gradient, but to images that ask for one (an attack's).

    Starts as a copy of the student. training: its passes use dropout and the batch's own statistics, which leave no
    trace; else it is in evaluation mode throughout. statistics: whether running batch statistics are averaged with the
    weights they belong to, or are the student's. In evaluation mode only the first makes sense: averaged weights under
    the statistics of other weights are no network that was ever trained. warm_up: the decay is at most (1 + t) / (10 +
    t) after t updates, for runs too short for the full one.

    Raises ValueError for a model with running statistics that would be the student's in evaluation mode.
    """

    updates: Tensor

    def __init__(
        self,
        model: nn.Module,
        decay: float,
        *,
        training: bool = False,
        statistics: Statistics = "student's",
        warm_up: bool = False,
    ) -> None:
        super().__init__()
        averaged = statistics == "averaged"
        running = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if running and not training and not averaged:
            raise ValueError(
                "a teacher in evaluation mode needs statistics='averaged': the student's fit other weights"
            )
        self.model = frozen_copy(model)
        self.decay = decay
        self.as_in_training = training
        self.warm_up = warm_up
        self.register_buffer("updates", torch.zeros(()))
        self.following = Following(statistics)
        self.train(self.training)

    def train(self, mode: bool = True) -> EmaTeacher:
        """The mode of the copy is `as_in_training`'s, whatever the student's."""
        super().train(mode)
        self.model.train(mode and self.as_in_training)
        return self

    def forward(self, images: Tensor) -> Prediction:
        with torch.set_grad_enabled(images.requires_grad), kept_statistics(self.model):
            prediction: Prediction = self.model(images)
        return prediction

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step towards `student`, a model of the same shape."""
        decay: float | Tensor = self.decay
        if self.warm_up:
            decay = ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        self.updates.add_(1)
        self.following.step(self.model, student, decay)


class Following:
    """How one model follows another of the same shape: parameters by a moving average, buffers as they are.

    statistics: "averaged" takes floating-point buffers into the average. The tensors are listed once, at the first
    step: by then both models lie on their device. They are listed anew for another student, or after a move. A copy of
    the owner has tensors of its own, and lists those.
    """

    def __init__(self, statistics: Statistics = "student's") -> None:
        self.statistics = statistics
        self._first: tuple[int, ...] = ()
        self._average = MovingAverage([], [])
        self._copied: tuple[list[Tensor], list[Tensor]] = [], []

    def __deepcopy__(self, memo: object) -> Following:
        return Following(self.statistics)

    def __reduce__(self) -> tuple[type[Following], tuple[Statistics]]:
        return Following, (self.statistics,)

    @torch.no_grad()
    def step(self, model: nn.Module, student: nn.Module, decay: float | Tensor) -> None:
        """One step of `model` towards `student`."""
        tensors = (next(chain(module.parameters(), module.buffers()), None) for module in (model, student))
        first = tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
        if first != self._first:
            self._first = first
            self._list(model, student)
        self._average.update(decay)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)

    def _list(self, model: nn.Module, student: nn.Module) -> None:
        ours, theirs = list(model.buffers()), list(student.buffers())
        averaged = [b.is_floating_point() and self.statistics == "averaged" for b in ours]
        copied = [not moved for moved in averaged]
        self._average = MovingAverage(
            [*(p.data for p in model.parameters()), *compress(ours, averaged)],
            [*(p.data for p in student.parameters()), *compress(theirs, averaged)],
        )
        self._copied = list(compress(ours, copied)), list(compress(theirs, copied))


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy with tensors of its own and no gradient."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in model.parameters()}
    memo |= {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
    return copy.deepcopy(model, memo)
