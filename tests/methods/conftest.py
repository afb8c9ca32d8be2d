"""Models small enough to compute by hand: one whose images are their own answers, and a small network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.methods import (
    LEARNERS,
    METHODS,
    PLUG_INS,
    Facts,
    Labelled,
    Method,
    Passes,
    Prediction,
    Progress,
    StepResult,
    Unlabelled,
    Variant,
    build,
    option_values,
)
from ferbench.methods.papers.remop import ReMoP
from ferbench.methods.register import PAPERS


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

    def tokens(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.conv(images)).square().flatten(2).transpose(1, 2)
        return tokens


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


BASELINE_PLUG_INS = PLUG_INS.keys() - set(PAPERS)
PLAIN = ("vanilla", "fixmatch")  # the learners that the baselines' plug-ins are tried on
COMBINATIONS = [
    *((name, None) for name in METHODS if name not in PLUG_INS),
    *((name, learner) for name in PLUG_INS for learner in (PLAIN if name in BASELINE_PLUG_INS else LEARNERS)),
]


def variants(name: str, learner: str | None) -> list[Variant]:
    """The paper's, and the others where they set an option otherwise."""
    given = {} if learner is None else {"learner": learner}
    names: tuple[Variant, ...] = get_args(Variant)
    of_paper = option_values(name, "paper", given)
    return [variant for variant in names if variant == "paper" or option_values(name, variant, given) != of_paper]


def facts(images: int = 24, labelled: int = 8) -> Facts:
    """What `begin` is told about the batches of `random_batch`: 4 classes, all of them labelled, unequally often."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3, 0])[:labelled]
    index = torch.arange(labelled)
    candidates = torch.zeros(images, 4, dtype=torch.bool)
    candidates[index] = torch.nn.functional.one_hot(labels, 4).bool() | (index.unsqueeze(1) % 4 == torch.arange(4))
    return Facts(images, index, labels, torch.arange(images), steps=8, epochs=4, candidates=candidates)


@pytest.fixture(
    params=[(*combination, variant) for combination in COMBINATIONS for variant in variants(*combination)],
    ids=lambda param: "-".join(part for part in param if part),
)
def any_method(request: pytest.FixtureRequest) -> Callable[..., Method]:
    """Every registered method, every plug-in on every learner, in each variant: called with a seed or a model."""
    name, learner, variant = request.param

    def make(seed: int = 0, model: Network | None = None) -> Method:
        torch.manual_seed(seed)
        values = option_values(name, variant, {} if learner is None else {"learner": learner})
        method = build(name, Network() if model is None else model, values)
        method.begin(facts())
        return method

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


def _prediction(logits: Any, features: Any = None) -> Prediction:
    rows = _rows(logits) if not isinstance(logits, Tensor) else logits
    encoded = _rows(features) if features is not None else torch.zeros(len(rows), 2)
    return Prediction(encoded, encoded, rows)


@pytest.fixture
def passes_of() -> Callable[..., Passes]:
    """Logits by view, weak ones as probabilities -> what a learner's `passes` gives; tensors keep their gradient."""

    def make(labelled: Any, weak: Any = (), strong: Any = (), index: Any = None, labelled_strong: Any = None) -> Passes:
        def several(rows: Any, logits: Callable[[Any], Any]) -> tuple[Prediction, ...]:
            if len(rows) == 0:
                return ()
            views = rows if not isinstance(rows, Tensor) and np.ndim(rows[0]) == 2 else [rows]
            return tuple(_prediction(logits(view)) for view in views)

        return Passes(
            _prediction(labelled),
            several(weak, lambda view: torch.log(torch.as_tensor(np.asarray(view), dtype=torch.float32))),
            several(strong, lambda view: view),
            None if index is None else torch.as_tensor(np.asarray(index)),
            None if labelled_strong is None else _prediction(labelled_strong),
        )

    return make


@pytest.fixture
def begun() -> Callable[..., Any]:
    """(name, classes, facts=..., variant, **options) -> a method around a Table of that many classes, after `begin`."""

    def make(
        name: str, classes: int, *, given: Facts | None = None, variant: Variant = "paper", **options: Any
    ) -> Method:
        method = build(name, Table(2, classes), option_values(name, variant, options))
        usual = facts()
        method.begin(usual._replace(labelled_labels=usual.labelled_labels % classes) if given is None else given)
        return method

    return make


@pytest.fixture
def stepped(encode: Callable[..., Tensor]) -> Callable[..., Any]:
    """One step of a method around a Table: logits (or (features, logits)) by view -> its result and the leaf images."""

    def step(
        method: Method,
        labels: Any,
        labelled: dict[str, Any],
        unlabelled: dict[str, Any],
        *,
        fraction: float = 0.25,
        epoch: int = 1,
        index: Any = None,
        labelled_index: Any = None,
    ) -> tuple[StepResult, dict[str, Tensor]]:
        def image(content: Any) -> Tensor:
            features, logits = content if isinstance(content, tuple) else (None, content)
            rows = np.zeros((len(logits), 2)) if features is None else features
            return encode(rows, logits)

        known = {view: image(content) for view, content in labelled.items()}
        unknown = {view: image(content) for view, content in unlabelled.items()}
        count = len(next(iter(unknown.values())))
        places = np.arange(len(labels)) if labelled_index is None else labelled_index
        result = method.step(
            Labelled(known, torch.as_tensor(np.asarray(labels)), torch.as_tensor(np.asarray(places))),
            Unlabelled(unknown, torch.as_tensor(np.arange(count) if index is None else np.asarray(index))),
            Progress(torch.tensor(fraction), epoch),
        )
        leaves = {f"labelled {view}": rows for view, rows in known.items()}
        return result, leaves | {f"unlabelled {view}": rows for view, rows in unknown.items()}

    return step


@pytest.fixture
def slow() -> SimpleNamespace:
    """Softmax and cross-entropies in NumPy's float64, row by row."""

    def softmax(logits: Any) -> Any:
        shifted = np.exp(np.asarray(logits, float) - np.max(logits, axis=-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)

    def cross_entropy(logits: Any, target: Any) -> Any:
        log_p, target = np.log(softmax(logits)), np.asarray(target)
        if target.ndim == 1:
            return np.array([-row[label] for row, label in zip(log_p, target, strict=True)])
        return np.array([-sum(target[i, c] * log_p[i, c] for c in range(target.shape[1])) for i in range(len(target))])

    return SimpleNamespace(softmax=softmax, cross_entropy=cross_entropy, random=np.random.default_rng(0))


@pytest.fixture
def reached() -> Callable[..., set[str]]:
    """Names of the leaves that a loss term moves."""

    def names(term: Tensor, leaves: dict[str, Tensor]) -> set[str]:
        if not term.requires_grad:
            return set()
        gradients = torch.autograd.grad(term, list(leaves.values()), retain_graph=True, allow_unused=True)
        return {name for name, grad in zip(leaves, gradients, strict=True) if grad is not None and grad.any()}

    return names
