"""AdaMatch: a threshold relative to the labelled confidence, and pseudo-labels aligned to the labelled predictions.

Paper: Berthelot et al., "AdaMatch: A Unified Approach to Semi-Supervised Learning and Domain Adaptation", ICLR 2022,
Sec. 3. Code: google-research/adamatch.

Labelled logits are interpolated at random between a pass over labelled images alone, whose batch statistics leave no
trace, and a pass over everything. The weak unlabelled probabilities are aligned: multiplied by the running mean of the
labelled ones, divided by that of the unlabelled ones. An image is kept where its aligned confidence reaches tau * mean
confidence of the labelled weak views. Labelled loss: the mean over weak and strong view; unlabelled: weighted by mu(t)
= 1/2 - cos(min(pi, 2 pi t / T)) / 2.

1. Running mean of the unlabelled predictions (`window`): the last 128 batches, starting uniform, as in the authors'
   code. USB has an exponential one that starts with the first batch (`window=0`).
2. `usb`: tau 0.95, no interpolation, no labelled strong view, no ramp, the mean of 1., one pass over all views.
With several processes the relative threshold is the whole batch's.

State: (window + 1) K numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import Labelled, Model, Passes, Prediction, PseudoLabels, Unlabelled, Views
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import Reduction, batch_mean, reduce
from ferbench.methods.blocks.schedules import half_cosine
from ferbench.methods.blocks.statistics import Marginal, Running, Window
from ferbench.methods.blocks.targets import align, gated, probabilities, uniform
from ferbench.methods.consistency import Consistency, Joint, cross_entropy


@dataclass(frozen=True)
class AdaMatchOptions:
    """threshold: tau; momentum: of the labelled running mean (and of the unlabelled one where window = 0).

    ramp: the fraction of training after which the unlabelled term has its full weight, 0 for always.
    """

    threshold: float = 0.9
    unlabelled_weight: float = 1.0
    ramp: float = 0.5
    momentum: float = 0.999
    window: int = 128
    interpolate: bool = True
    labelled_strong: bool = True
    reduction: Reduction = "mean"
    joint: Joint = "all"

    def __post_init__(self) -> None:
        not_negative(self, "window", "unlabelled_weight")
        share(self, "threshold", "momentum", "ramp")


class AdaMatch(Consistency):
    Options = AdaMatchOptions
    usb: ClassVar[Mapping[str, object]] = {
        "threshold": 0.95, "ramp": 0.0, "window": 0, "interpolate": False, "labelled_strong": False,
    }  # fmt: skip
    paper = "Berthelot et al., ICLR 2022"
    options: AdaMatchOptions
    relative: Tensor

    def __init__(self, model: Model, options: AdaMatchOptions) -> None:
        super().__init__(model, options)
        self.views = Views(("weak", "strong") if options.labelled_strong else ("weak",), ("weak", "strong"))
        classes, even = model.num_classes, uniform(model.num_classes)
        self.labelled = Running(even, options.momentum)
        self.unlabelled: Marginal = (
            Window(options.window, classes, start=1 / classes)
            if options.window
            else Running(even, options.momentum, first=True)
        )
        self.register_buffer("relative", torch.zeros(()))

    def passes(self, labelled: Labelled, unlabelled: Unlabelled | None) -> Passes:
        alone = self._alone(labelled) if self.options.interpolate else ()
        passes = self._passes(labelled, unlabelled, alone)
        with torch.no_grad():
            self._observe(passes)
        return passes

    def _passes(self, labelled: Labelled, unlabelled: Unlabelled | None, alone: tuple[Prediction, ...]) -> Passes:
        passes = super().passes(labelled, unlabelled)
        if not alone:
            return passes
        known = [passes.labelled] + ([passes.labelled_strong] if passes.labelled_strong else [])
        mixed = [interpolated(joint, apart) for joint, apart in zip(known, alone, strict=True)]
        return replace(passes, labelled=mixed[0], labelled_strong=mixed[1] if len(mixed) > 1 else None)

    def _alone(self, labelled: Labelled) -> tuple[Prediction, ...]:
        """One pass over the labelled views that leaves the running batch statistics as they are."""
        images = [labelled.views[name] for name in self.views.labelled]
        with kept_statistics(self.model):
            whole: Prediction = self.model(torch.cat(images))
        return tuple(Prediction(*(part.chunk(len(images))[i] for part in whole)) for i in range(len(images)))

    def _observe(self, passes: Passes) -> None:
        known, p = probabilities(passes.labelled), probabilities(passes.weak[0])
        self.labelled.update(batch_mean(known))
        self.unlabelled.update(batch_mean(p))
        self.relative.copy_(self.options.threshold * batch_mean(known.amax(dim=1)))

    def thresholds(self) -> Tensor:
        return self.relative

    def pseudo_labels(self, passes: Passes) -> PseudoLabels:
        aligned = align(probabilities(passes.weak[0]), self.unlabelled.value, self.labelled.value)
        return gated(aligned, self.relative)

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        assert pseudo is not None
        known = [passes.labelled] + ([passes.labelled_strong] if passes.labelled_strong else [])
        supervised = torch.stack([cross_entropy(view.logits, labels) for view in known]).mean(dim=0)
        ramp = half_cosine(self.progress.fraction, self.options.ramp)
        return {
            "supervised": reduce(supervised, self.options.reduction),
            "unsupervised": ramp * self.unsupervised(passes, pseudo.label, pseudo.keep),
        }


def interpolated(joint: Prediction, alone: Prediction) -> Prediction:
    """Logits between the two passes, each by a share of its own drawn from U(0, 1); gradients reach both."""
    share = torch.rand_like(joint.logits)
    return joint._replace(logits=joint.logits + share * (alone.logits - joint.logits))
