"""MixMatch: labelled and unlabelled images are mixed with each other, targets included.

Paper: Berthelot et al., "MixMatch: A Holistic Approach to Semi-Supervised Learning", NeurIPS 2019, Algorithm 1 and
Eqs. 2-9. Code: google-research/mixmatch, of which libml/layers.py was read; USB and TorchSSL.

The target of an unlabelled image is the mean probability of two weak views, sharpened by T. The union of labelled and
(both) unlabelled views is mixed with a permutation of itself, the first image keeping the larger share. Labelled rows:
cross-entropy with the mixed target; unlabelled rows: mean squared error over rows and classes, weight lambda_u times a
ramp.

1. Paper: alpha 0.75, lambda_u 75, a ramp over 16,000 of 2^20 steps, interleaved chunks. `usb`: alpha 0.5, lambda_u 100,
   a ramp over 0.4 of training, chunks not interleaved, the first (labelled) chunk moving the batch statistics. That is
   the toolbox's family without pre-training (config/classic_cv); its family that starts from weights (config/usb_cv)
   has lambda_u 10, which the tables of such encoders set.
2. One share per image, as paper and authors' code have it; TorchSSL and USB draw one per batch (`per_sample`).
3. lambda_u goes with a mean over classes: with 7 of them the same weight is 10/7 stronger than on CIFAR-10.
4. The weight decay of the authors' code, student * (1 - 0.02 lr) after each average, is the recipe's `shrink`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ferbench.methods.base import Labelled, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.mixer import chunked, mixup, one_hot
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.blocks.schedules import linear
from ferbench.methods.blocks.targets import gated, probabilities, sharpen
from ferbench.methods.consistency import cross_entropy, squared_error
from ferbench.methods.single import Single


@dataclass(frozen=True)
class MixMatchOptions:
    """alpha: of the Beta distribution; ramp: the fraction of training after which lambda_u is whole.

    per_sample: a share of its own for each image, rather than one for the batch.
    """

    alpha: float = 0.75
    temperature: float = 0.5
    unlabelled_weight: float = 75.0
    ramp: float = 1 / 64
    per_sample: bool = True
    interleave: bool = True
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        above_zero(self, "alpha", "temperature")
        not_negative(self, "unlabelled_weight")
        share(self, "ramp")


class MixMatch(Single):
    Options = MixMatchOptions
    usb: ClassVar[Mapping[str, object]] = {
        "alpha": 0.5, "unlabelled_weight": 100.0, "ramp": 0.4, "interleave": False, "per_sample": False,
    }  # fmt: skip
    paper = "Berthelot et al., NeurIPS 2019"
    views = Views(labelled=("weak",), unlabelled=("weak", "weak2"))
    options: MixMatchOptions

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "mixmatch needs unlabelled images"
        guesses = [probabilities(view) for view in two_views(self.model, unlabelled)]
        target = sharpen(torch.stack(guesses).mean(dim=0), self.options.temperature)
        return StepResult(
            mixed_losses(self.model, labelled, unlabelled, target, progress, self.options), gated(target, 0.0)
        )


def two_views(model: nn.Module, unlabelled: Unlabelled) -> list[Prediction]:
    """Both weak views, without gradient or trace."""
    with torch.no_grad(), kept_statistics(model):
        return [model(unlabelled.views[name]) for name in ("weak", "weak2")]


def mixed_losses(
    model: nn.Module,
    labelled: Labelled,
    unlabelled: Unlabelled,
    target: Tensor,
    progress: Progress,
    options: MixMatchOptions,
) -> dict[str, Tensor]:
    """Eqs. 2-5 for targets [U, K] that both weak views share."""
    known = one_hot(labelled.labels, target.shape[1])
    images = torch.cat([labelled.views["weak"], unlabelled.views["weak"], unlabelled.views["weak2"]])
    mixed, targets = mixup(images, torch.cat([known, target, target]), options.alpha, per_sample=options.per_sample)
    logits, count = chunked(model, mixed, len(known), interleave=options.interleave), len(known)
    weight = options.unlabelled_weight * linear(progress.fraction, options.ramp)
    return {
        "supervised": reduce(cross_entropy(logits[:count], targets[:count]), options.reduction),
        "unsupervised": weight * reduce(squared_error(logits[count:], targets[count:]), options.reduction),
    }
