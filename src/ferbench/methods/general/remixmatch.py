"""ReMixMatch: MixMatch with aligned guesses, strong views anchored to the weak one, and a rotation task.

Paper: Berthelot et al., "ReMixMatch: Semi-Supervised Learning with Distribution Alignment and Augmentation Anchoring",
ICLR 2020, Algorithm 1 and Eqs. 2-4. Code: google-research/remixmatch (that its layers mix as
MixMatch's do is inferred: they were not at hand).

The guess of the weak view is multiplied by the labelled class proportions, divided by the running mean of guesses,
normalised and sharpened by T. Labelled, two strong and the weak view are mixed with a permutation of themselves. Loss:
cross-entropy of labelled rows + ramp (lambda_u cross-entropy of unlabelled rows + lambda_k cross-entropy of the first
strong view unmixed) + lambda_r cross-entropy of the rotation (0, 90, 180, 270 degrees) of that view.

1. Two strong views by RandAugment where the paper has eight by CTAugment.
2. Running mean (`window`): the last 128 batches starting uniform, the guess aligned before its batch enters, as in the
   authors' code; USB has an exponential one that starts with the first batch and enters first (`window=0`).
3. `usb`: the labelled view is weak (`labelled_view`), one share of mixing per batch instead of one per image
   (`per_sample`), chunks are not interleaved and the first of them, not the last, moves the batch statistics.
4. On faces the rotation task asks for the pose of the head, not the expression: `rotation_weight=0` leaves it out.
State: (window + 2) K numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.methods.base import Facts, Labelled, Model, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.mixer import chunked, mixup, one_hot
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, batch_mean, reduce
from ferbench.methods.blocks.schedules import linear
from ferbench.methods.blocks.statistics import Marginal, Running, Window
from ferbench.methods.blocks.targets import align, gated, probabilities, sharpen, uniform
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.single import Single


@dataclass(frozen=True)
class ReMixMatchOptions:
    """unlabelled_weight, anchor_weight, rotation_weight: lambda_u, lambda_k, lambda_r; ramp: fraction of training."""

    alpha: float = 0.75
    temperature: float = 0.5
    unlabelled_weight: float = 1.5
    anchor_weight: float = 0.5
    rotation_weight: float = 0.5
    ramp: float = 1 / 64
    window: int = 128
    momentum: float = 0.999
    labelled_view: Literal["strong", "weak"] = "strong"
    per_sample: bool = field(default=True, metadata={"formerly": False})
    interleave: bool = True
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        above_zero(self, "alpha", "temperature")
        not_negative(self, "window", "unlabelled_weight", "anchor_weight", "rotation_weight")
        share(self, "ramp", "momentum")


class ReMixMatch(Single):
    Options = ReMixMatchOptions
    usb: ClassVar[Mapping[str, object]] = {
        "window": 0, "labelled_view": "weak", "per_sample": False, "interleave": False,
    }  # fmt: skip
    paper = "Berthelot et al., ICLR 2020"
    options: ReMixMatchOptions
    prior: Tensor  # [K], labelled class proportions

    def __init__(self, model: Model, options: ReMixMatchOptions) -> None:
        super().__init__(model, options)
        self.views = Views((options.labelled_view,), ("weak", "strong", "strong2"))
        self.rotation = nn.Linear(model.feature_width, 4) if options.rotation_weight else None
        even, classes = uniform(model.num_classes), model.num_classes
        self.register_buffer("prior", even)
        self.marginal: Marginal = (
            Window(options.window, classes, start=1 / classes)
            if options.window
            else Running(even, options.momentum, first=True)
        )

    def begin(self, facts: Facts) -> None:
        self.prior.copy_(one_hot(facts.labelled_labels, len(self.prior)).mean(dim=0))

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "remixmatch needs unlabelled images"
        options, views = self.options, unlabelled.views
        target = self.guess(views["weak"])
        known = one_hot(labelled.labels, target.shape[1])
        images = torch.cat([labelled.views[options.labelled_view], views["strong"], views["strong2"], views["weak"]])
        goals = torch.cat([known, target, target, target])
        mixed, targets = mixup(images, goals, options.alpha, per_sample=options.per_sample)
        statistics: Literal["first", "last"] = "last" if options.interleave else "first"
        logits = chunked(self.model, mixed, len(known), interleave=options.interleave, statistics=statistics)
        with kept_statistics(self.model):
            anchored = cross_entropy(self.model(views["strong"]).logits, target)
        taught, ramp = cross_entropy(logits, targets), linear(progress.fraction, options.ramp)
        losses = {
            "supervised": reduce(taught[: len(known)], options.reduction),
            "unsupervised": options.unlabelled_weight * ramp * reduce(taught[len(known) :], options.reduction),
            "anchor": options.anchor_weight * ramp * reduce(anchored, options.reduction),
        }
        if self.rotation is not None:
            losses["rotation"] = options.rotation_weight * self.turned(views["strong"])
        return StepResult(losses, gated(target, 0.0))

    def guess(self, weak: Tensor) -> Tensor:
        """Aligned and sharpened probabilities [U, K]; the running mean takes the raw ones."""
        with torch.no_grad(), kept_statistics(self.model):
            p = probabilities(self.model(weak))
        if not self.options.window:
            self.marginal.update(batch_mean(p))
        aligned = align(p, self.marginal.value, self.prior)
        if self.options.window:
            self.marginal.update(batch_mean(p))
        return sharpen(aligned, self.options.temperature)

    def turned(self, images: Tensor) -> Tensor:
        """The rotation task on images [U, 3, S, S], a turn per image."""
        assert self.rotation is not None
        turns = torch.randint(4, (len(images),), device=images.device)
        with kept_statistics(self.model):
            encoded = self.model(rotated(images, turns)).encoded
        loss = F.cross_entropy(self.rotation(encoded).float(), turns, reduction="none")
        return reduce(loss, self.options.reduction)


def rotated(images: Tensor, turns: Tensor) -> Tensor:
    """Square images [U, 3, S, S] turned by `turns` [U] quarters, counter-clockwise."""
    result = images
    for quarter in (1, 2, 3):
        result = torch.where((turns == quarter).view(-1, 1, 1, 1), images.rot90(quarter, (2, 3)), result)
    return result
