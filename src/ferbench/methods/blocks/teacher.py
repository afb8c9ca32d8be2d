"""The averaged copy of a model that teaches it."""

from __future__ import annotations

import copy
from itertools import compress
from typing import Literal

import torch
from torch import Tensor, nn

from ferbench.kernels import ema_update
from ferbench.methods.base import Prediction
from ferbench.methods.blocks.modes import kept_statistics


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
        statistics: Literal["student's", "averaged"] = "student's",
        warm_up: bool = False,
    ) -> None:
        super().__init__()
        averaged = statistics == "averaged"
        running = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if running and not training and not averaged:
            raise ValueError(
                "a teacher in evaluation mode needs statistics='averaged': the student's fit other weights"
            )
        self.statistics = statistics
        self.model = frozen_copy(model)
        self.decay = decay
        self.as_in_training = training
        self.warm_up = warm_up
        self.register_buffer("updates", torch.zeros(()))
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
        ours, theirs = list(self.model.buffers()), list(student.buffers())
        averaged = [b.is_floating_point() and self.statistics == "averaged" for b in ours]
        ema_update(
            [*(p.data for p in self.model.parameters()), *compress(ours, averaged)],
            [*(p.data for p in student.parameters()), *compress(theirs, averaged)],
            decay,
        )
        copied = [not moved for moved in averaged]
        if any(copied):
            torch._foreach_copy_(list(compress(ours, copied)), list(compress(theirs, copied)))


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy with tensors of its own and no gradient."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in model.parameters()}
    memo |= {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
    return copy.deepcopy(model, memo)
