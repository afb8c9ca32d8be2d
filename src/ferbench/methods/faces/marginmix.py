"""Margin-Mix: MixMatch whose guesses come from distances to class centres. A reconstruction.

Paper: Florea et al., "Margin-Mix: Semi-Supervised Learning for Face Expression Recognition", ECCV 2020. No code was
released and the text was not at hand: from descriptions elsewhere it is MixMatch with (i) guesses from distances
between an embedding and the class centroids and (ii) a large-margin loss on labelled embeddings. The formulas are
ours; numbers made with them are to be marked as those of a reconstruction.

Centres m_c: running mean of labelled features (momentum 0.9 per step; a class absent from the batch stays). Guess of
an image: q_c proportional to exp(-|f - m_c|^2 / s), s the mean squared distance over batch and classes, averaged over
two weak views, sharpened. Margin loss: mean of |f - m_y|^2 / (sum over other classes |f - m_j|^2 + 1), features of the
plain weak labelled view. The rest is MixMatch's.

State: K (D + 1) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ferbench.methods.base import Labelled, Model, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.mixer import one_hot
from ferbench.methods.blocks.modes import kept_statistics
from ferbench.methods.blocks.reduce import batch_mean, reduce, whole_batch
from ferbench.methods.blocks.targets import gated, sharpen
from ferbench.methods.general.mixmatch import MixMatchOptions, mixed_losses, two_views
from ferbench.methods.single import Single


@dataclass(frozen=True)
class MarginMixOptions(MixMatchOptions):
    """margin_weight: of the margin loss; momentum: of the centres."""

    margin_weight: float = 0.5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        above_zero(self, "alpha", "temperature")
        not_negative(self, "unlabelled_weight", "margin_weight")
        share(self, "ramp", "momentum")


class MarginMix(Single):
    Options = MarginMixOptions
    paper = "Florea et al., ECCV 2020 (reconstruction)"
    views = Views(labelled=("weak",), unlabelled=("weak", "weak2"))
    options: MarginMixOptions
    centers: Tensor  # [K, D]
    known: Tensor  # [K] bool: whether the centre has had a feature

    def __init__(self, model: Model, options: MarginMixOptions) -> None:
        super().__init__(model, options)
        self.register_buffer("centers", torch.zeros(model.num_classes, model.feature_width))
        self.register_buffer("known", torch.zeros(model.num_classes, dtype=torch.bool))

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "marginmix needs unlabelled images"
        with kept_statistics(self.model):
            features = self.model(labelled.views["weak"]).encoded.float()
        self.move(whole_batch(features), whole_batch(labelled.labels))
        guesses = [self.guess(view.encoded.float()) for view in two_views(self.model, unlabelled)]
        target = sharpen(torch.stack(guesses).mean(dim=0), self.options.temperature)
        losses = mixed_losses(self.model, labelled, unlabelled, target, progress, self.options)
        margin = reduce(self.margin(features, labelled.labels), self.options.reduction)
        return StepResult({**losses, "margin": self.options.margin_weight * margin}, gated(target, 0.0))

    @torch.no_grad()
    def move(self, features: Tensor, labels: Tensor) -> None:
        """Each centre towards the mean of its class in the batch; the first mean is taken whole."""
        members = one_hot(labels, len(self.centers))
        count = members.sum(dim=0)
        mean = members.T @ features / count.clamp(min=1).unsqueeze(1)
        step = torch.where(self.known, 1 - self.options.momentum, 1.0) * (count > 0)
        self.centers.copy_(torch.lerp(self.centers, mean, step.unsqueeze(1)))
        self.known.logical_or_(count > 0)

    def guess(self, features: Tensor) -> Tensor:
        """[U, K]; a class without a centre gets 0, as long as there is another."""
        distance = torch.cdist(features, self.centers).square()
        scale = batch_mean(distance.mean(dim=1)).clamp(min=1e-12)
        near = (-distance / scale).masked_fill(~self.known, -1e9)
        return near.softmax(dim=1)

    def margin(self, features: Tensor, labels: Tensor) -> Tensor:
        """[B], gradient through the features alone."""
        distance = (features.unsqueeze(1) - self.centers).square().sum(dim=2)
        own = distance.gather(1, labels.unsqueeze(1)).squeeze(1)
        return own / (distance.sum(dim=1) - own + 1)
