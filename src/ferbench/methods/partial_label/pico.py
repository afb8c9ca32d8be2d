"""PiCO: class prototypes in a contrastive space say which candidate is the true one.

Paper: Wang et al., "PiCO: Contrastive Label Disambiguation for Partial Label Learning", ICLR 2022. Code: hbzju/PiCO at
ad687bb. A query (weak view, trained) and a key (strong view, through an average of the query network) are projected
onto the unit sphere. The class of the classifier's best candidate moves its prototype towards the query; the nearest
candidate prototype moves the image's weights w towards it. Loss: cross-entropy with w, and a supervised contrast in
which queries, keys and a queue of past keys with the same best candidate attract each other.

1. Order within a step, as in the code: prototype scores before the prototypes move, weights before the loss, the queue
   last.
2. Prototypes move image by image in the batch's order and are normalised once per batch, as in the code; with several
   processes, by the whole batch. The contrast of a process is over its own queries and keys, as in the code.
3. phi falls from 0.95 to 0.8 over training, by epoch. In the code (`released`) it lags one epoch and is 0.99 before.
4. Until `prototype_epoch` the weights stay uniform and the contrast is MoCo's: an image's own key against the queue.
   The default is that of the code's run script; its argument's default is 80 of 800 epochs.
5. The queue starts empty and its empty rows take no part; in the code it starts with random vectors as negatives.
6. queue: 8192 in the code, 4096 on its small data set; should not exceed the training set. A batch longer than the
   queue leaves its last rows there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.methods.base import Facts, Labelled, Model, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.blocks.teacher import EmaTeacher
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.partial import PartialLabel, in_order, write_rows


@dataclass(frozen=True)
class PiCOOptions:
    """momentum: of the key network; prototype_momentum: of the prototypes; width: of the contrastive space."""

    contrast_weight: float = 0.5
    temperature: float = 0.07
    momentum: float = 0.999
    prototype_momentum: float = 0.99
    prototype_epoch: int = 1
    phi_first: float = 0.95
    phi_last: float = 0.8
    phi_lags: bool = False
    queue: int = 8192
    width: int = 128
    reduction: Reduction = "mean"


class PiCO(PartialLabel):
    Options = PiCOOptions
    released: ClassVar[Mapping[str, object]] = {"phi_lags": True}
    paper = "Wang et al., ICLR 2022"
    views = Views(labelled=("weak", "strong"))
    options: PiCOOptions
    prototypes: Tensor  # [K, width]
    queue: Tensor  # [Q, width]
    queue_labels: Tensor  # [Q] int64, -1 for an empty row
    position: Tensor  # 0-d int64: the row that is written next

    def __init__(self, model: Model, options: PiCOOptions) -> None:
        super().__init__(model, options)
        hidden = model.feature_width
        self.projection = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, options.width))
        self.keys = EmaTeacher(self.model, options.momentum, training=True)
        self.key_projection = EmaTeacher(self.projection, options.momentum, training=True)
        self.register_buffer("prototypes", torch.zeros(model.num_classes, options.width))
        self.register_buffer("queue", torch.zeros(options.queue, options.width))
        self.register_buffer("queue_labels", torch.full((options.queue,), -1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def begin(self, facts: Facts) -> None:
        super().begin(facts)
        self.epochs = facts.epochs

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        prediction: Prediction = self.model(labelled.views["weak"])
        query = F.normalize(self.projection(prediction.encoded).float(), dim=1)
        inside = self.candidates[labelled.index]
        label = best_candidate(prediction.logits, inside)
        scores = product(query.detach(), self.prototypes.T)
        self.move_prototypes(in_order(query), in_order(label))
        key = self.key(labelled.views["strong"])
        weights = self.confidence[labelled.index]
        started = progress.epoch >= self.options.prototype_epoch
        if started:
            phi = self.phi(progress.epoch)
            picked = F.one_hot(best_candidate(scores, inside), inside.shape[1])
            weights = phi * weights + (1 - phi) * picked
            write_rows(self.confidence, labelled.index, weights)
        classes = reduce(cross_entropy(prediction.logits, weights), self.options.reduction)
        contrast = self.supervised_contrast(query, key, label) if started else self.own_key_contrast(query, key)
        self.enqueue(in_order(key), in_order(label))
        weighted = self.options.contrast_weight * reduce(contrast, self.options.reduction)
        return StepResult({"classes": classes, "contrast": weighted})

    @torch.no_grad()
    def key(self, images: Tensor) -> Tensor:
        """Unit keys [B, width] by the key networks, which first take a step towards the query networks."""
        self.keys.update(self.model)
        self.key_projection.update(self.projection)
        projected: Tensor = self.key_projection.model(self.keys(images).encoded)
        return F.normalize(projected.float(), dim=1)

    @torch.no_grad()
    def move_prototypes(self, query: Tensor, label: Tensor) -> None:
        """m_y <- momentum * m_y + (1 - momentum) * q for each row in turn, then all prototypes to unit length.

        A row counts momentum^(rows of its class after it), the old prototype momentum^(rows of the class).
        """
        own = F.one_hot(label, len(self.prototypes)).to(query.dtype)  # [B, K]
        after = (own.sum(dim=0) - own.cumsum(dim=0)) * own
        weight = own * self.options.prototype_momentum**after * (1 - self.options.prototype_momentum)
        kept = self.options.prototype_momentum ** own.sum(dim=0)
        moved = kept.unsqueeze(1) * self.prototypes + product(weight.T, query)
        self.prototypes.copy_(F.normalize(moved, dim=1))

    def phi(self, epoch: int) -> float:
        """How much of an image's weights stays, by epoch."""
        if self.options.phi_lags and epoch == 0:
            return 0.99
        past = (epoch - 1 if self.options.phi_lags else epoch) / self.epochs
        return self.options.phi_first + past * (self.options.phi_last - self.options.phi_first)

    def supervised_contrast(self, query: Tensor, key: Tensor, label: Tensor) -> Tensor:
        """[B]: minus the mean log-probability of the rows that share the query's label, among all rows but itself."""
        labels = torch.cat([label, label, self.queue_labels])
        itself = torch.eye(len(query), len(labels), dtype=torch.bool, device=query.device)
        rows = (torch.cat([query, key]), self.queue.clone())  # the queue moves before the backward pass
        similarity = torch.cat([product(query, part.T) for part in rows], dim=1)
        similarity = (similarity / self.options.temperature).masked_fill(itself | (labels < 0), -torch.inf)
        log_probability = similarity - similarity.logsumexp(dim=1, keepdim=True)
        same = (label.unsqueeze(1) == labels) & ~itself
        return -torch.where(same, log_probability, 0.0).sum(dim=1) / same.sum(dim=1)

    def own_key_contrast(self, query: Tensor, key: Tensor) -> Tensor:
        """[B]: MoCo's loss, the own key against the queue."""
        own = (query * key).sum(dim=1, keepdim=True)
        others = product(query, self.queue.clone().T).masked_fill(self.queue_labels < 0, -torch.inf)
        return -(torch.cat([own, others], dim=1) / self.options.temperature).log_softmax(dim=1)[:, 0]

    @torch.no_grad()
    def enqueue(self, key: Tensor, label: Tensor) -> None:
        """The batch takes the place of the oldest rows."""
        length = len(self.queue)
        key, label = key[-length:], label[-length:]
        rows = (self.position + torch.arange(len(key), device=key.device)) % length
        self.queue.index_copy_(0, rows, key)
        self.queue_labels.index_copy_(0, rows, label)
        self.position.add_(len(key)).remainder_(length)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, also where autocast would take half precision."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def best_candidate(scores: Tensor, inside: Tensor) -> Tensor:
    """[B]: the class with the largest score within each candidate set, the first of equals; no gradient."""
    return scores.detach().masked_fill(~inside, -torch.inf).argmax(dim=1)
