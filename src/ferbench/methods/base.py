"""The contract between a method and the training loop.

A method gets batches and a model; it never sees a path, a test label or a protocol. It names the views it wants, turns
one labelled and one unlabelled batch into weighted loss terms, and scores images at test time. Everything it must
remember lies in parameters and buffers, so its `state_dict` is its whole state. Nothing in `step` may wait for the
device: a subset of a batch is a boolean mask, never an index list.

Shapes: B labelled images, U unlabelled images, K classes, D feature width, S input side in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor, nn

View = Literal["weak", "weak2", "strong", "strong2", "plain"]


class Prediction(NamedTuple):
    """One forward pass: the encoder's feature, the feature the linear head saw (after dropout), and its logits."""

    encoded: Tensor  # [B, D]
    features: Tensor  # [B, D]
    logits: Tensor  # [B, K]


class Model(Protocol):
    """What a method trains: an encoder with a linear head (`Classifier` in bench/training/networks is one).

    A plug-in may put modules after `dropout` (encoder's feature to feature) or around `head` (feature to logits).
    """

    feature_width: int
    num_classes: int
    dropout: nn.Module
    head: nn.Module

    def __call__(self, images: Tensor) -> Prediction: ...


class TokenModel(Model, Protocol):
    """A model whose encoder also gives its tokens, for methods that put another head in the place of the linear one."""

    head: nn.Module

    def tokens(self, images: Tensor) -> Tensor:
        """The encoder's tokens [B, T, D] of images [B, 3, S, S]: patches, or the cells of a ConvNet's last map."""
        ...


@dataclass(frozen=True)
class Labelled:
    """Labelled images, one tensor [B, 3, S, S] per view; `index` are positions in the data set."""

    views: Mapping[str, Tensor]
    labels: Tensor  # [B] int64
    index: Tensor  # [B] int64
    boxes: Mapping[str, Tensor] | None = None  # per view the faces' boxes [B, 4] (x1, y1, x2, y2) in its pixels


@dataclass(frozen=True)
class Unlabelled:
    """Unlabelled images, one tensor [U, 3, S, S] per view."""

    views: Mapping[str, Tensor]
    index: Tensor  # [U] int64


class PseudoLabels(NamedTuple):
    """What an unlabelled batch is taught: a class per image and whether it is confident enough to be used.

    changed: of a plug-in that puts labels of its own in place of the learner's, where they differ; only logged.
    """

    label: Tensor  # [U] int64
    keep: Tensor  # [U] bool
    confidence: Tensor  # [U]
    changed: Tensor | None = None  # [U] bool


class Progress(NamedTuple):
    """Where training stands: `fraction` of all steps done (0-d tensor on the device) and the epoch, from 0."""

    fraction: Tensor
    epoch: int


class StepResult(NamedTuple):
    """Weighted loss terms by name (0-d each; the loop adds them up); the pseudo-labels and other figures (0-d each, as
    their mean over the epoch) are only logged."""

    losses: dict[str, Tensor]
    pseudo: PseudoLabels | None = None
    figures: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Passes:
    """A learner's forward passes over one labelled and one unlabelled batch, by view (weak and weak2; strong, strong2).

    Targets made from them carry no gradient, whichever pass they come from. `index` are the unlabelled images'
    positions in the data set, for methods that keep a table of them.
    """

    labelled: Prediction
    weak: tuple[Prediction, ...] = ()
    strong: tuple[Prediction, ...] = ()
    index: Tensor | None = None
    labelled_strong: Prediction | None = None


class Facts(NamedTuple):
    """What a method may know of its training before it starts, to size tables, banks and class priors."""

    images: int  # of the data set: every `index` is below
    labelled_index: Tensor  # [N_l] positions
    labelled_labels: Tensor  # [N_l]
    unlabelled_index: Tensor  # [N_u] positions
    steps: int
    epochs: int
    candidates: Tensor | None = None  # [images, K] bool, all False but for the labelled images' candidate sets
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # views are (pixels in [0, 1] - mean) / std per channel
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Scored:
    """Answers about a whole set between epochs: a model's scores, and what belongs to them row by row."""

    scores: Tensor  # [N, K], what `predict` gives
    index: Tensor  # [N] positions in the data set
    labels: Tensor | None  # [N], of the labelled set only


class Ask(Protocol):
    """`ask("labelled")` or `ask("unlabelled", model="average", view="weak")`: scores of a whole set.

    rule: one of the inference rules of `predict_all`; None for the headline.
    """

    def __call__(
        self,
        which: Literal["labelled", "unlabelled"],
        *,
        model: Literal["student", "average"] = "student",
        view: View = "plain",
        rule: str | None = None,
    ) -> Scored: ...


@dataclass(frozen=True)
class Views:
    """The augmented views a method takes, by name (bench/data/views/augment.py says what each does)."""

    labelled: tuple[View, ...] = ("weak",)
    unlabelled: tuple[View, ...] = ()


class Method(nn.Module, ABC):
    """A training method around a model. Subclasses set the class attributes and implement `step` and `predict`."""

    Options: ClassVar[type]  # a frozen dataclass: the paper's hyper-parameters with the paper's values as defaults
    released: ClassVar[Mapping[str, object]] = {}  # what the authors' released code sets otherwise
    usb: ClassVar[Mapping[str, object]] = {}  # what the USB toolbox sets otherwise (microsoft/Semi-supervised-learning)
    paper: ClassVar[str]  # citation, one line
    takes_candidates: ClassVar[bool] = False  # whether it learns from candidate sets, and `begin` needs them
    views: Views
    takes_boxes: bool = False  # whether `step` looks at the labelled images' face boxes

    @classmethod
    def needs_boxes(cls, options: Any) -> bool:
        """What `takes_boxes` will be under these options."""
        return False

    @abstractmethod
    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        """Loss terms of one training step."""

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor:
        """Scores [B, K] of test images [B, 3, S, S]; the largest is the prediction."""

    def predict_all(self, images: Tensor) -> dict[str, Tensor]:
        """Scores by every inference rule the method has, the headline rule first."""
        return {"main": self.predict(images)}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups; the base learning rate is `lr`."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def begin(self, facts: Facts) -> None:  # noqa: B027 - optional, as are the three hooks below
        """Called once before training, before a checkpoint is loaded: the place to register buffers that need sizes."""

    def after_backward(self) -> None:  # noqa: B027
        """Called between backward and the optimiser's step."""

    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:  # noqa: B027
        """Called after the optimiser's step and before the loop's average: teachers, queues, second passes."""

    def end_epoch(self, progress: Progress, ask: Ask) -> None:  # noqa: B027
        """Called after each epoch; `ask` gives scores of the labelled or the unlabelled images."""

    def not_averaged(self) -> frozenset[str]:
        """Names of state entries that the averaged (EMA) copy takes over unchanged from the student."""
        return frozenset()


class Learner(Method):
    """A method that plug-ins (ReMoP, ABC, LEAF, ...) wrap: its step taken apart into passes, targets and losses."""

    model: nn.Module
    weak_gradient: bool = False  # whether a plug-in's losses reach the network through the unlabelled weak views

    @abstractmethod
    def passes(self, labelled: Labelled, unlabelled: Unlabelled | None) -> Passes:
        """The forward passes of one step."""

    @abstractmethod
    def thresholds(self) -> Tensor | float:
        """Confidence a pseudo-label needs, one number or one per class [K]."""

    @abstractmethod
    def pseudo_labels(self, passes: Passes) -> PseudoLabels | None:
        """The learner's own pseudo-labels, None where it uses no unlabelled images."""

    @abstractmethod
    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        """Weighted loss terms for given pseudo-labels; the one that teaches them is named "unsupervised"."""

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        passes = self.passes(labelled, unlabelled)
        pseudo = self.pseudo_labels(passes)
        return StepResult(self.losses(passes, labelled.labels, pseudo), pseudo)

    def predict(self, images: Tensor) -> Tensor:
        prediction: Prediction = self.model(images)
        return prediction.logits.float().softmax(dim=1)


class PlugIn(Method):
    """A method around a learner: what it does not change, the learner does."""

    learner: Learner
    options: Any

    def __init__(self, learner: Learner, model: Model, options: Any) -> None:
        super().__init__()
        self.learner = learner
        self.options = options
        self.views = learner.views

    @classmethod
    def prepare(cls, model: Model, options: Any) -> None:
        """Put the plug-in's own modules into `model`; called before the learner is built around it."""

    def predict(self, images: Tensor) -> Tensor:
        return self.learner.predict(images)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return self.learner.parameter_groups(lr)

    def begin(self, facts: Facts) -> None:
        self.learner.begin(facts)

    def after_backward(self) -> None:
        self.learner.after_backward()

    def after_step(self, labelled: Labelled, unlabelled: Unlabelled | None) -> None:
        self.learner.after_step(labelled, unlabelled)

    def end_epoch(self, progress: Progress, ask: Ask) -> None:
        self.learner.end_epoch(progress, ask)

    def not_averaged(self) -> frozenset[str]:
        return frozenset(f"learner.{name}" for name in self.learner.not_averaged())
