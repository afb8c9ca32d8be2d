"""CoMatch: pseudo-labels smoothed over a memory of similar images shape a graph that the embeddings should follow.

Paper: Li, Xiong, Hoi, "CoMatch: Semi-supervised Learning with Contrastive Graph Regularization", ICCV 2021, Eqs. 3-11.
Code: salesforce/CoMatch.

Weak probabilities are aligned to the uniform distribution by the mean of the last batches, then mixed with those of a
queue of earlier images, weighted by softmax(f f_k / t) (Eq. 5): target q. The strong view is taught q where max q >=
tau. Two strong views are contrasted: the target graph is q_i q_j, 1 on the diagonal, 0 below kappa, rows normalised
(Eq. 8); the loss is its cross-entropy with softmax(z_i z_j / t) (Eqs. 9-10). The queue takes weak embeddings with
unsmoothed probabilities, and labelled ones with their labels.

1. Smoothing starts when the queue is full (the authors' code: after 5 steps, which fill it there). USB waits for the
   second epoch as well (`from_epoch`).
2. `queue`: rows, 5 * 8 * 64 as in the authors' CIFAR runs, whatever the batch; with 32 images a step it is full after
   80 steps. USB's is queue_batch * (mu + 1) * batch: as long without pre-training (5 * 8 * 64), 32 batches of all
   images in its family that starts from weights, which the tables of such encoders set.
3. `usb`: the mean of three projection heads (`projections`), one pass over all views as in the authors' code.
4. With several processes the queue and the alignment see the whole batch, the graph each process's own rows.

State: queue * (width + K) + window * K numbers, and the projection's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import Labelled, Model, Passes, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.heads import Projection
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.memory import RingQueue
from ferbench.methods.blocks.mixer import one_hot
from ferbench.methods.blocks.reduce import Reduction, batch_mean, reduce, whole_batch
from ferbench.methods.blocks.statistics import Window
from ferbench.methods.blocks.targets import align, gated, normalise, probabilities, uniform
from ferbench.methods.consistency import Joint, cross_entropy, forward
from ferbench.methods.single import Single


@dataclass(frozen=True)
class CoMatchOptions:
    """alpha: own share in smoothing; threshold, edge: tau and kappa; window: batches of the alignment; width: of z."""

    temperature: float = 0.2
    alpha: float = 0.9
    threshold: float = 0.95
    edge: float = 0.8
    unlabelled_weight: float = 1.0
    contrast_weight: float = 1.0
    queue: int = 2560
    window: int = 32
    width: int = 64
    projections: int = 1
    from_epoch: int = 0
    reduction: Reduction = "mean"
    joint: Joint = "all"

    def __post_init__(self) -> None:
        above_zero(self, "temperature", "queue", "window", "width", "projections")
        not_negative(self, "unlabelled_weight", "contrast_weight")
        share(self, "alpha", "threshold", "edge")


class CoMatch(Single):
    Options = CoMatchOptions
    usb: ClassVar[Mapping[str, object]] = {"projections": 3, "from_epoch": 1}
    paper = "Li et al., ICCV 2021"
    views = Views(labelled=("weak",), unlabelled=("weak", "strong", "strong2"))
    options: CoMatchOptions
    even: Tensor

    def __init__(self, model: Model, options: CoMatchOptions) -> None:
        super().__init__(model, options)
        self.project = Projection(model.feature_width, options.width, several=options.projections)
        self.queue = RingQueue(options.queue, options.width, model.num_classes)
        self.marginal = Window(options.window, model.num_classes)
        self.register_buffer("even", uniform(model.num_classes))

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "comatch needs unlabelled images"
        passes, options = forward(self.model, labelled, unlabelled, self.views, self.options.joint), self.options
        p = probabilities(passes.weak[0])
        self.marginal.update(batch_mean(p))
        aligned = align(p, self.marginal.value, self.even)
        with torch.no_grad():
            weak, known = self.project(passes.weak[0].encoded), self.project(passes.labelled.encoded)
        target = self.smoothed(aligned, weak) if progress.epoch >= options.from_epoch else aligned
        pseudo = gated(target, options.threshold)
        taught = cross_entropy(passes.strong[0].logits, target) * pseudo.keep
        losses = {
            "supervised": reduce(cross_entropy(passes.labelled.logits, labelled.labels), options.reduction),
            "unsupervised": options.unlabelled_weight * reduce(taught, options.reduction),
            "contrast": options.contrast_weight * self.contrast(passes, target),
        }
        self.remember(torch.cat([weak, known]), torch.cat([aligned, one_hot(labelled.labels, p.shape[1])]))
        return StepResult(losses, pseudo)

    def smoothed(self, p: Tensor, features: Tensor) -> Tensor:
        """Eq. 5: alpha p + (1 - alpha) A q, A [U, queue] over the queue; p itself until the queue is full."""
        similar = (features @ self.queue.features.T / self.options.temperature).softmax(dim=1)
        mixed = self.options.alpha * p + (1 - self.options.alpha) * similar @ self.queue.probabilities
        return torch.where(self.queue.full, mixed, p)

    def contrast(self, passes: Passes, target: Tensor) -> Tensor:
        first, second = (self.project(view.encoded) for view in passes.strong)
        per_image = graph_contrast(first, second, target, self.options.temperature, self.options.edge)
        return reduce(per_image, self.options.reduction)

    def remember(self, features: Tensor, p: Tensor) -> None:
        self.queue.write(whole_batch(features), whole_batch(p))


def graph_contrast(first: Tensor, second: Tensor, p: Tensor, temperature: float, edge: float) -> Tensor:
    """Eqs. 8-10 [U]: embeddings [U, d] of two strong views, class probabilities [U, K] that make the target graph."""
    own = torch.eye(len(p), dtype=torch.bool, device=p.device)
    graph = torch.where(own, 1.0, p @ p.T)
    graph = normalise(torch.where(graph >= edge, graph, 0.0))
    similarity = (first @ second.T / temperature).softmax(dim=1)
    return -(graph * torch.log(similarity + 1e-7)).sum(dim=1)
