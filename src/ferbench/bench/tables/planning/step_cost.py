"""How many images a method sends through the network in one step, counted by doing one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ferbench.methods import (
    PLUG_INS,
    Facts,
    Labelled,
    Method,
    Prediction,
    Progress,
    StepResult,
    Unlabelled,
    Variant,
    build,
    option_values,
)

B, U, CLASSES, SIDE = 8, 200, 7, 2


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


class Trivial(nn.Module):
    """The smallest model a method can train, which counts its images."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.feature_width, self.num_classes = width, CLASSES
        self.tally = _Tally()
        self.encoder = nn.Linear(3, width)
        self.dropout: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Linear(width, CLASSES)

    def tokens(self, images: Tensor) -> Tensor:
        self.tally.images[torch.is_grad_enabled()] += len(images)
        tokens: Tensor = self.encoder(images.flatten(2).transpose(1, 2))
        return tokens

    def forward(self, images: Tensor) -> Prediction:
        encoded = self.tokens(images).mean(dim=1)
        features = self.dropout(encoded)
        return Prediction(encoded, features, self.head(features))


class Example(NamedTuple):
    """A method around a trivial model, begun, with one batch."""

    method: Method
    labelled: Labelled
    unlabelled: Unlabelled | None

    def step(self) -> StepResult:
        """One step, with what follows it."""
        result = self.method.step(self.labelled, self.unlabelled, Progress(torch.tensor(0.5), 1))
        self.method.after_step(self.labelled, self.unlabelled)
        return result


def example(model: Trivial, name: str, variant: Variant, b: int, u: int, images: int, known: int) -> Example:
    """Random batches of b and u out of `images`, of which the first `known` are labelled."""
    learner = {"learner": "fixmatch"} if name in PLUG_INS else {}
    method = build(name, model, option_values(name, variant, learner)).train()
    labels = torch.arange(known) % CLASSES
    candidates = torch.ones(images, CLASSES, dtype=torch.bool)
    method.begin(Facts(images, torch.arange(known), labels, torch.arange(images), 1, 1, candidates))

    def views(names: Iterable[str], count: int) -> dict[str, Tensor]:
        return {view: torch.rand(count, 3, SIDE, SIDE) for view in names}

    chosen = torch.randperm(known)[:b]
    labelled = Labelled(views(method.views.labelled, b), labels[chosen], chosen)
    wanted = method.views.unlabelled
    return Example(method, labelled, Unlabelled(views(wanted, u), torch.randperm(images)[:u]) if wanted else None)


@cache
def step_cost(name: str, variant: Variant = "paper") -> StepCost:
    """Of one step of a method, or of a plug-in on FixMatch, second passes after the step included."""
    model = Trivial()
    with torch.random.fork_rng(devices=()):
        example(model, name, variant, B, U, images=U, known=B).step()
    gradient, plain = (divmod(model.tally.images[mode], U) for mode in (True, False))
    return StepCost((gradient[1] // B, gradient[0]), (plain[1] // B, plain[0]))
