"""How many images a method sends through the network in one step, counted by doing one."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ferbench.methods import (
    LEARNERS,
    PLUG_INS,
    Facts,
    Labelled,
    Prediction,
    Progress,
    Unlabelled,
    Variant,
    build,
    option_values,
)

B, U, CLASSES, SIDE, WIDTH = 8, 200, 7, 8, 64


class StepCost(NamedTuple):
    """Images per step as multiples of B labelled and U unlabelled ones, by whether a gradient is taken.

    A pass with gradient costs about three without.
    """

    gradient: tuple[int, int]
    plain: tuple[int, int]

    def __str__(self) -> str:
        trained, rest = _text(self.gradient), _text(self.plain)
        return trained + (f", {rest} without gradient" if rest else "")


def _text(count: tuple[int, int]) -> str:
    parts = [f"{times if times > 1 else ''}{name}" for times, name in zip(count, "BU", strict=True) if times]
    return " + ".join(parts)


class _Tally:
    """Shared by all copies of a model: teachers count as well."""

    def __init__(self) -> None:
        self.images = {True: 0, False: 0}

    def __deepcopy__(self, memo: object) -> _Tally:
        return self


class _Counted(nn.Module):
    """The smallest model a method can train, which counts its images."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_width, self.num_classes = WIDTH, CLASSES
        self.tally = _Tally()
        self.encoder = nn.Linear(3, WIDTH)
        self.dropout: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Linear(WIDTH, CLASSES)

    def tokens(self, images: Tensor) -> Tensor:
        self.tally.images[torch.is_grad_enabled()] += len(images)
        tokens: Tensor = self.encoder(images.flatten(2).transpose(1, 2))
        return tokens

    def forward(self, images: Tensor) -> Prediction:
        encoded = self.tokens(images).mean(dim=1)
        features = self.dropout(encoded)
        return Prediction(encoded, features, self.head(features))


@cache
def step_cost(name: str, variant: Variant = "paper") -> StepCost:
    """Of one step of a method, or of a plug-in on its usual learner, second passes after the step included."""
    learner = {"learner": "fixmatch"} if name in PLUG_INS and "fixmatch" in LEARNERS else {}
    model = _Counted()
    labels = torch.arange(B) % CLASSES
    candidates = torch.ones(U, CLASSES, dtype=torch.bool)
    with torch.random.fork_rng(devices=()):
        method = build(name, model, option_values(name, variant, learner)).train()
        method.begin(Facts(U, torch.arange(B), labels, torch.arange(U), 1, 1, candidates))

        def views(names: Any, count: int) -> dict[str, Tensor]:
            return {view: torch.rand(count, 3, SIDE, SIDE) for view in names}

        labelled = Labelled(views(method.views.labelled, B), labels, torch.arange(B))
        unlabelled = None
        if method.views.unlabelled:
            unlabelled = Unlabelled(views(method.views.unlabelled, U), torch.arange(U))
        method.step(labelled, unlabelled, Progress(torch.tensor(0.5), 1))
        method.after_step(labelled, unlabelled)
    gradient, plain = (divmod(model.tally.images[mode], U) for mode in (True, False))
    return StepCost((gradient[1] // B, gradient[0]), (plain[1] // B, plain[0]))
