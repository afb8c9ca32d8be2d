"""Models small enough to compute by hand: one whose images are their own answers, and a small network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.methods import (
    LEARNERS,
    METHODS,
    PLUG_INS,
    Labelled,
    Method,
    Prediction,
    Progress,
    Unlabelled,
    Variant,
    build,
    option_values,
)
from ferbench.methods.remop import ReMoP


class Call(NamedTuple):
    """One forward pass: number of images, training mode, whether a graph was recorded."""

    images: int
    training: bool
    grad: bool


class Table(nn.Module):
    """An "image" is a row [2 D + K]: the encoder's feature, the feature after dropout, the logits."""

    def __init__(self, feature_width: int, num_classes: int) -> None:
        super().__init__()
        self.feature_width = feature_width
        self.num_classes = num_classes
        self.calls: list[Call] = []

    def forward(self, images: Tensor) -> Prediction:
        self.calls.append(Call(len(images), self.training, torch.is_grad_enabled()))
        width = self.feature_width
        return Prediction(images[:, :width], images[:, width : 2 * width], images[:, 2 * width :])


class Network(nn.Module):
    """Convolution, optional batch norm, global mean, dropout, linear head: images [B, 3, S, S]."""

    def __init__(
        self, *, norm: bool = True, dropout: float = 0.5, feature_width: int = 6, num_classes: int = 4
    ) -> None:
        super().__init__()
        self.feature_width = feature_width
        self.num_classes = num_classes
        self.conv = nn.Conv2d(3, feature_width, 3)
        self.norm = nn.BatchNorm2d(feature_width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(feature_width, num_classes)

    def forward(self, images: Tensor) -> Prediction:
        encoded = self.norm(self.conv(images)).square().mean(dim=(2, 3))
        features = self.dropout(encoded)
        return Prediction(encoded, features, self.head(features))


class Batch(NamedTuple):
    """What one step gets."""

    labelled: Labelled
    unlabelled: Unlabelled | None
    progress: Progress


def _rows(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


@pytest.fixture
def encode() -> Callable[..., Tensor]:
    """(features, logits, after_dropout=features) -> images of a Table model, leaves that take gradients."""

    def images(features: Any, logits: Any, after_dropout: Any = None) -> Tensor:
        dropped = features if after_dropout is None else after_dropout
        return torch.cat([_rows(features), _rows(dropped), _rows(logits)], dim=1).requires_grad_()

    return images


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """(labelled images, labels, weak, strong) -> a step's arguments; without weak there are no unlabelled images."""

    def make(images: Tensor, labels: Any, weak: Tensor | None = None, strong: Tensor | None = None) -> Batch:
        unlabelled = None
        if weak is not None and strong is not None:
            unlabelled = Unlabelled({"weak": weak, "strong": strong}, torch.arange(len(weak)))
        targets = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
        labelled = Labelled({"weak": images}, targets, torch.arange(len(images)))
        return Batch(labelled, unlabelled, Progress(torch.zeros(()), 0))

    return make


@pytest.fixture
def table_method() -> Callable[..., Any]:
    """(name, centers, variant, **options) -> a method around a Table; `shape` (D, K) for one without centres."""

    def make(
        name: str,
        *,
        centers: Any = None,
        shape: tuple[int, int] | None = None,
        variant: Variant = "paper",
        **options: object,
    ) -> Method:
        rows = None if centers is None else _rows(centers)
        width, classes = shape if rows is None else (rows.shape[1], rows.shape[0])  # type: ignore[misc]
        method = build(name, Table(width, classes), option_values(name, variant, options))
        if rows is not None:
            assert isinstance(method, ReMoP)
            method.centers.data.copy_(rows)
        return method

    return make


@pytest.fixture
def network() -> Callable[..., Network]:
    """The Network class: options norm, dropout, feature_width, num_classes."""
    return Network


COMBINATIONS = [
    *((name, None) for name in METHODS if name not in PLUG_INS),
    *((name, learner) for name in PLUG_INS for learner in LEARNERS),
]


@pytest.fixture(
    params=[(*combination, variant) for combination in COMBINATIONS for variant in ("paper", "released")],
    ids=lambda param: "-".join(part for part in param if part),
)
def any_method(request: pytest.FixtureRequest) -> Callable[..., Method]:
    """Every registered method, every plug-in on every learner, in both variants: called with a seed or a model."""
    name, learner, variant = request.param

    def make(seed: int = 0, model: Network | None = None) -> Method:
        torch.manual_seed(seed)
        values = option_values(name, variant, {} if learner is None else {"learner": learner})
        return build(name, Network() if model is None else model, values)

    return make


@pytest.fixture
def random_batch() -> Callable[..., Batch]:
    """(method, B, U, seed) -> random images 3 x 7 x 7 in every view that `method` takes, labels of 4 classes."""

    def make(method: Method, b: int = 5, u: int = 7, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)

        def images(names: tuple[str, ...], count: int) -> dict[str, Tensor]:
            return {name: torch.randn(count, 3, 7, 7, generator=generator) for name in names}

        labels = torch.randint(4, (b,), generator=generator)
        labelled = Labelled(images(method.views.labelled, b), labels, torch.arange(b))
        names = method.views.unlabelled
        unlabelled = Unlabelled(images(names, u), torch.arange(u)) if names else None
        return Batch(labelled, unlabelled, Progress(torch.tensor(0.25), 1))

    return make
