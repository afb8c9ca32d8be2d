"""FGSM attacks on the parts of an image that a model looks at, and on the others (SSFER, Section 4.8 and Table 7).

A pixel x in [0, 1] becomes x + epsilon * sign(d CE / d x), within [0, 1], where the mask allows it (Goodfellow et al.,
ICLR 2015): "focused" where the Grad-CAM of the predicted class exceeds 0.3, "unfocused" where it does not. The loss is
the true label's. The paper states the threshold and the epsilons; the range of pixels, the layer and the class of the
map are the usual ones, and ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.data.views.batches import Store, view_batches
from ferbench.bench.studies.gradcam import focus, watched
from ferbench.bench.tables.counting.finished import FinishedRun
from ferbench.bench.training.recording.records import RunError
from ferbench.methods import Method

EPSILONS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.10)  # Table 7
THRESHOLD = 0.3
REGIONS = ("focused", "unfocused")
LEAST_AGREEMENT = 0.99  # share of images that must be predicted as they were at the end of training


@dataclass(frozen=True)
class Attacked:
    """A batch: clean images [B, 3, S, S], predicted classes [B], their maps [B, S, S], signs of the loss's gradient."""

    images: Tensor
    predicted: Tensor
    maps: Tensor
    direction: Tensor

    def region(self, name: str, threshold: float) -> Tensor:
        """[B, 1, S, S] bool: the pixels that may be changed."""
        inside = (self.maps > threshold)[:, None]
        return inside if name == "focused" else ~inside

    def adversarial(self, name: str, epsilon: float, threshold: float, recipe: ViewRecipe) -> Tensor:
        """The images with `epsilon` of the range of pixels added along the gradient's sign in a region."""
        mean, std = (torch.tensor(v, device=self.images.device).view(1, 3, 1, 1) for v in (recipe.mean, recipe.std))
        moved = self.images + epsilon / std * self.direction * self.region(name, threshold)
        return torch.minimum(torch.maximum(moved, -mean / std), (1 - mean) / std)


def prepare(method: Method, images: Tensor, labels: Tensor) -> Attacked:
    """One pass and two gradients for images [B, 3, S, S] of these labels [B]. Raises RunError without gradients."""
    images = images.detach().requires_grad_(True)
    with torch.enable_grad(), watched(method) as seen:
        scores = method.predict(images).float()
        if not scores.requires_grad:
            raise RunError("this method's predictions carry no gradient back to the images, so it cannot be attacked")
        maps = focus(seen, scores, images.shape[-1])
        (gradient,) = torch.autograd.grad(loss(scores, labels), images)
    return Attacked(images.detach(), scores.detach().argmax(dim=1), maps, gradient.sign())


def loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of scores [B, K], which are probabilities in most methods and logits in the others."""
    probabilities = bool((scores >= 0).all() and torch.allclose(scores.sum(dim=1), scores.new_ones(()), atol=1e-3))
    logarithms = scores.clamp_min(1e-12).log() if probabilities else scores.log_softmax(dim=1)
    return F.nll_loss(logarithms, labels, reduction="sum")


def batches(
    run: FinishedRun, store: Store, recipe: ViewRecipe, limit: int | None = None, size: int = 64
) -> Iterator[tuple[Attacked, Tensor]]:
    """The run's test images (the first `limit`), ready to be attacked, with their labels [B]."""
    run.method.requires_grad_(False)  # gradients of images alone
    index = run.index[:limit]
    labels = torch.from_numpy(run.labels[:limit]).to(store.device)
    for images, truth in zip(view_batches(store, index, recipe, size=size), torch.split(labels, size), strict=True):
        yield prepare(run.method, images, truth), truth


def accuracies(
    run: FinishedRun,
    store: Store,
    recipe: ViewRecipe,
    epsilons: Sequence[float] = EPSILONS,
    threshold: float = THRESHOLD,
    limit: int | None = None,
) -> dict[str, float]:
    """Overall accuracy in percent by `region-epsilon`. Raises RunError where the model does not predict what it did."""
    right: Counter[str] = Counter()
    agreeing = seen = 0
    predicted = torch.from_numpy(run.predicted).to(store.device)
    for batch, labels in batches(run, store, recipe, limit):
        agreeing += int((batch.predicted == predicted[seen : seen + len(labels)]).sum())
        seen += len(labels)
        for region in REGIONS:
            for epsilon in epsilons:
                with torch.no_grad():
                    scores = run.method.predict(batch.adversarial(region, epsilon, threshold, recipe))
                right[metric(region, epsilon)] += int((scores.argmax(dim=1) == labels).sum())
    if agreeing < LEAST_AGREEMENT * seen:
        raise RunError(
            f"{run.folder}: predicts {seen - agreeing} of {seen} test images otherwise than at the end of training; "
            "is this the same copy of the data set?"
        )
    return {name: 100.0 * count / seen for name, count in right.items()}


def metric(region: str, epsilon: float) -> str:
    """The name in protocols and records: focused-0, focused-0.02, unfocused-0.10."""
    return f"{region}-{epsilon:.2f}" if epsilon else f"{region}-0"
