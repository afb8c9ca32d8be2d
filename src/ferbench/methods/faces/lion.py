"""LION: negative learning on images that are not confident, and relabelling of labelled ones that seem wrong.

Paper: Du et al., "LION: Label Disambiguation for Semi-supervised Facial Expression Recognition with Progressive
Negative Learning", IJCAI 2023. Code: NUM-7/LION (an archive). Written from a description of the code, and held against
its loop step by step but for what is listed below; the paper's text was not at hand.

In epoch e, from 1, with threshold .8 + .01 e:
- labelled: cross-entropy of the images whose label is certain (their row of weights is one-hot), weight 1.6;
- confident unlabelled: the weak label is taught to the strong view, weight 1.2, a mean over the whole batch;
- others: a table collects complementary classes: at each visit the least probable one not yet there, if its
  probability is at most .01. -log(1 - p_c) of the weak view over them, weight l = max(0, .24 - .015 e); and the binary
  cross-entropy between the strong view's gap max_k s_k - s_c (s = sigmoid of the logits) and the table, weight l /
  6.5. Prototypes: mean feature per class of labelled images predicted right (from epoch 10: of those not ambiguous)
  and of confident unlabelled ones; a running mean in epoch 1, then .99 m + .01 f image by image. In epoch 10 the
labelled ones enter by a running mean that starts anew, as in the code. Relabelling from
  epoch 10: a labelled image is ambiguous where max p - p_y > .5. Its weights become p of prediction and label in that
  epoch, later .99 of what they were plus .01 softmax of the two similarities f m / .1, normalised. Once its largest
  weight is in (.985, 1) the row becomes one-hot; where that is another class, reached with .996, it is the label.

What differs from the released code:
1. The complementary table is read and written at the rows of the images. The code uses the mask, an integer there, as
   an index: for an image that is not confident it reads and writes the row of the batch's second image, for another
   one that of its first, and takes their strong views (`variant="released"`: `mask_as_index`, after the description).
2. Renormalisation is of the image's own row; the code's at epoch 10 is of another one.
3. The softmax over prototypes is over the two candidates; the code's includes zeros for the others.
4. Prototypes carry no gradient.
5. The code replaces a label only within its first six classes (of seven); here within all.
6. Of an image twice in a batch the last row counts for the weights, all for the complementary classes.
7. Where a third class is a candidate in a row of weights, its share fades by .99 an epoch and goes in epoch 10; the
   code leaves it as it is.
8. Where the strong view's most probable class is in the table the logged value is 27.6, the code's 100 (torch's
   binary cross-entropy); neither has a gradient.

State: per image of the data set K bytes; per labelled one K + 2 numbers; K (D + 1) for the prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import (
    Ask,
    Facts,
    Labelled,
    Model,
    Passes,
    Prediction,
    Progress,
    PseudoLabels,
    StepResult,
    Unlabelled,
    Views,
)
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.memory import latest
from ferbench.methods.blocks.mixer import one_hot
from ferbench.methods.blocks.prototypes import Prototypes
from ferbench.methods.blocks.reduce import kept_count, whole_batch
from ferbench.methods.blocks.targets import gated, normalise, probabilities
from ferbench.methods.consistency import cross_entropy, forward
from ferbench.methods.single import Single


@dataclass(frozen=True)
class LIONOptions:
    """The code's values; negative and negative_step: l above; gap_share: 6.5; relabel_epoch: from 1."""

    threshold: float = 0.8
    threshold_step: float = 0.01
    supervised_weight: float = 1.6
    unlabelled_weight: float = 1.2
    negative: float = 0.24
    negative_step: float = 0.015
    gap_share: float = 6.5
    complementary: float = 0.01
    relabel_epoch: int = 10
    ambiguity: float = 0.5
    momentum: float = 0.99
    temperature: float = 0.1
    mask_as_index: bool = field(default=False, metadata={"formerly": False})

    def __post_init__(self) -> None:
        above_zero(self, "temperature", "gap_share", "relabel_epoch")
        not_negative(self, "unlabelled_weight", "supervised_weight")
        share(self, "threshold", "momentum", "complementary", "ambiguity")


class LION(Single):
    Options = LIONOptions
    released: ClassVar[Mapping[str, object]] = {"mask_as_index": True}
    paper = "Du et al., IJCAI 2023"
    views = Views(labelled=("weak",), unlabelled=("weak", "strong"))
    options: LIONOptions
    excluded: Tensor  # [images, K] bool: the complementary table
    weights: Tensor  # [N_l, K]
    labels: Tensor  # [N_l], with those replaced
    row_of: Tensor  # [images] int32

    def __init__(self, model: Model, options: LIONOptions) -> None:
        super().__init__(model, options)
        self.classes = model.num_classes
        self.prototypes = Prototypes(model.num_classes, model.feature_width, options.momentum)

    def begin(self, facts: Facts) -> None:
        index, labels, device = facts.labelled_index, facts.labelled_labels, facts.labelled_index.device
        self.register_buffer("excluded", torch.zeros(facts.images, self.classes, dtype=torch.bool, device=device))
        self.register_buffer("weights", one_hot(labels, self.classes))
        self.register_buffer("labels", labels.clone())
        row_of = torch.zeros(facts.images, dtype=torch.int32, device=device)
        row_of[index] = torch.arange(len(index), dtype=torch.int32, device=device)
        self.register_buffer("row_of", row_of)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "lion needs unlabelled images"
        options, epoch = self.options, progress.epoch + 1
        passes = forward(self.model, labelled, unlabelled, self.views, False, weak_gradient=True)
        pseudo = gated(probabilities(passes.weak[0]), options.threshold + options.threshold_step * epoch)
        rows = self.row_of[labelled.index].long()
        if epoch >= options.relabel_epoch:
            self.relabel(passes.labelled, rows, first=epoch == options.relabel_epoch)
        self.follow(passes, pseudo, rows, epoch)
        index, strong, uncertain = unlabelled.index, passes.strong[0].logits, ~pseudo.keep
        if options.mask_as_index:
            index, strong = index[uncertain.long()], strong[uncertain.long()]
        self.exclude(passes.weak[0], index, uncertain)
        certain = (self.weights[rows] == 1).sum(dim=1) == 1
        known = cross_entropy(passes.labelled.logits, self.labels[rows]) * certain
        taught = cross_entropy(passes.strong[0].logits, pseudo.label) * pseudo.keep
        weight = max(0.0, options.negative - options.negative_step * epoch)
        weak, gap = negative_losses(passes.weak[0].logits, strong, self.excluded[index], uncertain)
        losses = {
            "supervised": options.supervised_weight * known.sum() / kept_count(certain),
            "unsupervised": options.unlabelled_weight * taught.mean(),
            "negative": weight * weak,
            "gap": weight / options.gap_share * gap,
        }
        return StepResult(losses, pseudo)

    @torch.no_grad()
    def relabel(self, known: Prediction, rows: Tensor, *, first: bool) -> None:
        """New weights of the ambiguous images, and new labels of those whose weights have settled."""
        p, options = probabilities(known), self.options
        label, weights = self.labels[rows], self.weights[rows]
        guess, own = one_hot(p.argmax(dim=1), self.classes), one_hot(label, self.classes)
        pair = (guess + own).clamp(max=1)
        ambiguous = p.amax(dim=1) - (p * own).sum(dim=1) > options.ambiguity
        if first:
            moved = normalise(p * pair)
        else:
            similar = known.features.float() @ self.prototypes.means.T / options.temperature
            share = similar.masked_fill(pair == 0, -torch.inf).softmax(dim=1)
            moved = normalise(options.momentum * weights + (1 - options.momentum) * share)
        weights = torch.where(ambiguous.unsqueeze(1), moved, weights)
        largest, top = weights.max(dim=1)
        settled = ambiguous & (largest > 0.985) & (largest < 1)
        replaced = settled & (top != label) & (largest >= 0.996)
        weights = torch.where(settled.unsqueeze(1), one_hot(top, self.classes), weights)
        rows, weights, label = whole_batch(rows), whole_batch(weights), whole_batch(torch.where(replaced, top, label))
        last = latest(rows)
        self.weights.index_copy_(0, rows, weights[last])
        self.labels.index_copy_(0, rows, label[last])

    @torch.no_grad()
    def follow(self, passes: Passes, pseudo: PseudoLabels, rows: Tensor, epoch: int) -> None:
        """Labelled images that fit their label, then confident unlabelled ones, into the prototypes."""
        p, label = probabilities(passes.labelled), self.labels[rows]
        own = p.gather(1, label.unsqueeze(1)).squeeze(1)
        late = epoch >= self.options.relabel_epoch
        fits = p.amax(dim=1) - own <= self.options.ambiguity if late else p.argmax(dim=1) == label
        for prediction, labels, used in ((passes.labelled, label, fits), (passes.weak[0], pseudo.label, pseudo.keep)):
            features = prediction.features.detach().float()
            known = prediction is passes.labelled
            mean = epoch == 1 or (known and epoch == self.options.relabel_epoch)
            self.prototypes.update(whole_batch(features), whole_batch(labels), whole_batch(used), mean=mean)

    def end_epoch(self, progress: Progress, ask: Ask) -> None:
        if progress.epoch + 2 == self.options.relabel_epoch:
            self.prototypes.counts.zero_()  # the next epoch's labelled images start their means anew

    @torch.no_grad()
    def exclude(self, weak: Prediction, index: Tensor, uncertain: Tensor) -> None:
        """Add at most one complementary class for each uncertain image."""
        p, index, uncertain = whole_batch(probabilities(weak)), whole_batch(index), whole_batch(uncertain)
        before = self.excluded[index]
        least, label = torch.where(before, 2.0, p).min(dim=1)
        added = one_hot(label, self.classes) * (uncertain & (least <= self.options.complementary)).unsqueeze(1)
        same = (index.unsqueeze(1) == index).float()
        self.excluded.index_copy_(0, index, before | (same @ added > 0))


def negative_losses(weak: Tensor, strong: Tensor, excluded: Tensor, uncertain: Tensor) -> tuple[Tensor, Tensor]:
    """Both means over uncertain rows [U] with complementary classes [U, K]: of the weak view and of the strong gap."""
    count, table = kept_count(uncertain), excluded.float()
    p = weak.float().softmax(dim=1)
    of_weak = -(table * torch.log((1 - p).clamp(min=1e-5))).sum(dim=1)
    s = strong.float().sigmoid()
    gap = s.amax(dim=1, keepdim=True) - s
    terms = table * gap.clamp(min=1e-12).log() + (1 - table) * (1 - gap).clamp(min=1e-12).log()
    return (of_weak * uncertain).sum() / count, -(terms.mean(dim=1) * uncertain).sum() / count
