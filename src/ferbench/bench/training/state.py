"""A run before its first step: what it is, and everything about it that will change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.randomness import derive
from ferbench.bench.data.splits.draw import Split
from ferbench.bench.data.splits.pool import Pool, PoolStore
from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.data.views.batches import Batches, ImageStore, Share, Store, Stream
from ferbench.bench.data.views.boxes import known_boxes, without_boxes
from ferbench.bench.data.views.normalisation import MEAN_STD
from ferbench.bench.training.ema import Averaged
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.bench.training.networks.layer_decay import split_by_layer
from ferbench.bench.training.progress import Reporter
from ferbench.bench.training.recording import records
from ferbench.bench.training.steps.sums import Sums
from ferbench.methods import Facts, Method, build
from ferbench.protocols import NONE, Recipe

EXECUTION = ("capturable", "fused", "foreach")  # how an optimiser computes, not what
FEW_AMBIGUOUS = 10.0  # percent of candidate sets with more than one class, below which a run warns


@dataclass(frozen=True)
class Run:
    """One run, fully resolved. `spec` is its identity as plain types; the rest is what `spec` says, ready to use."""

    spec: records.Spec
    method: str
    values: Mapping[str, object]  # every option of the method
    recipe: Recipe
    seed: int
    faces: FaceSet
    split: Split
    test_faces: FaceSet
    unlabelled_faces: FaceSet | Pool | None = None  # whose training images stand in place of the split's rest
    prepare: Callable[[nn.Module], str] | None = None  # loads pre-trained weights; returns a line for the log
    candidates: Callable[[], NDArray[np.bool_]] | None = None  # candidate sets [N, K] of the labelled images
    before: Run | None = None  # the run whose final weights this one starts from
    scorers: tuple[Run, ...] = ()  # the runs whose predictions make its candidate sets
    trained_by: Run | None = None  # the run that trains this very network, for another test set
    about_candidates: Callable[[], Mapping[str, float]] | None = None  # what they are like, for the record

    @property
    def test(self) -> NDArray[np.int64]:
        """[m] positions in `test_faces` to score: the split's (a fold, say), or another data set's test part."""
        return self.split.test if self.test_faces is self.faces else self.test_faces.test


@dataclass
class State:
    """All that changes: saved whole."""

    method: Method
    average: Averaged | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    seconds: float = 0.0
    sums: Sums = field(default_factory=Sums)  # of this epoch, on the device
    history: list[dict[str, Any]] = field(default_factory=list)  # a line per finished epoch

    def to_dict(self, spec: str) -> dict[str, Any]:
        return {
            "spec": spec,
            "method": self.method.state_dict(),
            "average": self.average.method.state_dict() if self.average else None,
            "optimizer": _plain(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums.to_dict(),
            "history": self.history,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        self.method.load_state_dict(saved["method"])
        if self.average:
            self.average.method.load_state_dict(saved["average"])
        execution = [{key: group[key] for key in EXECUTION if key in group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, own in zip(self.optimizer.param_groups, execution, strict=True):
            group.update(own)  # this device's, whichever the checkpoint comes from
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        device = next(self.method.parameters()).device
        self.sums.load(saved["sums"], device)
        self.history = saved["history"]


def _plain(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with learning rates as numbers, wherever a step reads them from."""
    for group in optimizer["param_groups"]:
        group["lr"] = float(group["lr"])
    return optimizer


def make_state(run: Run, device: torch.device, reporter: Reporter) -> State:
    """The initial state: network weights drawn from the seed, or loaded, and zero steps done."""
    recipe = run.recipe
    torch.manual_seed(derive(run.seed, "initialisation"))
    model = make_classifier(
        recipe.backbone, len(run.faces.classes), size=recipe.input_size, dropout=recipe.dropout,
        normalise=recipe.normalise_features,
    )  # fmt: skip
    if run.prepare:
        reporter.note(run.prepare(model))
    method = build(run.method, model, run.values).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.begin(_facts(run, device))
    if run.about_candidates:
        known = run.about_candidates()
        reporter.note("candidate sets: " + ", ".join(f"{key} {value:.4g}" for key, value in known.items()))
        if known["ambiguous"] < FEW_AMBIGUOUS:
            reporter.note(
                f"warning: {known['ambiguous']:.2g} % of the candidate sets have more than one class, so that this is "
                "nearly plain cross-entropy on the given labels"
            )
    if method.takes_boxes:
        reporter.note(known_boxes(run.faces, run.split.labelled))
        if line := without_boxes(run.faces, run.split.labelled):
            reporter.note(f"warning: {line}")
    buffers = cast(Any, recipe.ema_buffers)
    return State(
        method=method,
        average=Averaged(method, recipe.ema, buffers=buffers, shrink=recipe.shrink) if recipe.ema > 0 else None,
        optimizer=make_optimizer(method, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.dtype == "float16" and device.type == "cuda"),
    )


def _facts(run: Run, device: torch.device) -> Facts:
    pool = run.unlabelled_faces or run.faces
    unlabelled = run.unlabelled_faces.train if run.unlabelled_faces else run.split.unlabelled
    labelled = torch.from_numpy(run.split.labelled).to(device)
    return Facts(
        images=len(pool.labels),
        labelled_index=labelled,
        labelled_labels=torch.from_numpy(run.faces.labels).to(device)[labelled],
        unlabelled_index=torch.from_numpy(unlabelled).to(device),
        steps=run.recipe.epochs * run.recipe.steps_per_epoch,
        epochs=run.recipe.epochs,
        candidates=torch.from_numpy(run.candidates()).to(device) if run.candidates else None,
        mean=MEAN_STD[run.recipe.mean_std][0],
        std=MEAN_STD[run.recipe.mean_std][1],
    )


def make_optimizer(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the method's parameter groups, each keeping its learning rate in `base_lr`."""
    parted = split_by_layer(method.parameter_groups(recipe.lr), method, recipe.layer_decay)
    groups = [{**group, "base_lr": group["lr"]} for group in parted]
    decay, momentum = recipe.weight_decay, recipe.momentum
    on_gpu = next(method.parameters()).is_cuda  # where learning rates are tensors that no kernel's launch waits for
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=momentum, weight_decay=decay, nesterov=momentum > 0, fused=on_gpu or None
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    betas = recipe.beta1, recipe.beta2
    optimizer = kind(groups, lr=recipe.lr, betas=betas, weight_decay=decay, fused=True, capturable=on_gpu)
    if on_gpu:  # torch would warn of steps that are not captured: those before a capture, and all without one
        optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def make_batches(run: Run, method: Method, device: torch.device, share: Share) -> Batches:
    """The run's labelled and unlabelled streams; no unlabelled one for a method that takes no such view.

    Raises DataError for a method that needs unlabelled images where there are none.
    """
    recipe = run.recipe
    store = ImageStore(run.faces, device)
    other = _unlabelled_store(run, device, store)
    pool = run.unlabelled_faces.train if run.unlabelled_faces else run.split.unlabelled
    unlabelled = None
    if method.views.unlabelled:
        if run.spec.get("unlabelled") == NONE:
            raise DataError(f"{run.method} needs unlabelled images, and this run is given none; name a source for them")
        unlabelled = Stream(pool, recipe.mu * recipe.batch_size, run.seed, "unlabelled")
    return Batches(
        store, Stream(run.split.labelled, recipe.batch_size, run.seed, "labelled"), unlabelled, method.views,
        view_recipe(recipe), share, other, boxes=method.takes_boxes,
    )  # fmt: skip


def _unlabelled_store(run: Run, device: torch.device, store: ImageStore) -> Store | None:
    """Where the unlabelled images come from, None where they are the training set's."""
    if isinstance(run.unlabelled_faces, Pool):
        return PoolStore(run.unlabelled_faces, device, store, run.faces)
    return ImageStore(run.unlabelled_faces, device) if run.unlabelled_faces else None


def view_recipe(recipe: Recipe) -> ViewRecipe:
    """How the recipe augments."""
    mean, std = MEAN_STD[recipe.mean_std]
    return ViewRecipe(
        size=recipe.input_size, padding=recipe.crop_padding, crop=recipe.crop_probability,
        num_ops=recipe.randaugment_ops, cutout=recipe.cutout, channels_last=True,
        channel_order=cast(Any, recipe.channel_order), geometry=cast(Any, recipe.augmentation),
        least_area=recipe.crop_scale, mean=mean, std=std,
    )  # fmt: skip
