"""LEAF: hierarchical decoupling and fusing (EAF), a plug-in on a learner.

Paper: Zhang et al., "LEAF: Unveiling Two Sides of the Same Coin in Semi-supervised Facial Expression Recognition",
arXiv 2404.15041, Eqs. 1-14. Code: zfkarl/LEAF at 7873d3a, which is Ada-CM's with another network and unlabelled loss.

Semantic level: a mixture of experts on the feature, before the classifier (Eqs. 2-3). Instance level: another on the
classifier's logits (Eqs. 4-5). Category level: the classes of one view, by descending probability until they hold T of
it, are positive, and the other view is to score each of them above each of the rest (Eqs. 6-14); this takes the place
of the learner's unsupervised term. Passes, pseudo-labels and other terms are the learner's.

Where the released code differs from the paper (`variant="released"` sets all of `LEAF.released`):
1. Experts (`experts`, `top_k`): several against one. The code lists one module eight times and takes the first of the
   gate, whose weight is then 1: neither the gate nor its noise and balancing loss ever act. One expert here.
2. Instance level (`instance_input`): on the logits against on the feature, before the classifier.
3. Gate and fusion (`activation`, `fusion`): softplus and a weighted sum against raw logits and a sum in log space. With
   one expert both are the identity. Table 2's linear experts are, in a line of the code that is commented out, eight
   layers of their own, which its gate would choose at random in training, all images the same one at test; here one.
4. Views (`direction`): the strong view's prediction makes the positive set and the weak one is moved, against the
   reverse. What makes the set carries no gradient.
5. Mean of two weak views (`weak_mean`; the paper has one): of probabilities against of logits. Labels are always made
   from the mean of probabilities.
6. Positive set (`boundary`, `max_positives`): up to and with the class that reaches T (Eq. 8), against only those
   before it, at least one and at most three.
7. Weight of a sample (`sample_weight`): none against log(1 + 50 (c - q)) / log(1 + 50 c), where q is the probability of
   the first class outside the positive set and c the mean of the positive ones' and q.
8. Scale (`rescale`): none against that of the cross-entropy of the strong view with the hard labels: the loss has its
   value and the direction of Eq. 14.
9. Threshold (`gate`): none against the learner's, as the share of confident images that multiplies the whole term: no
   image is left out as soon as one is confident.
10. Learner: FixMatch against Ada-CM with its margins, contrast, weight of 0.5 for the labelled images and second weak
   view. Its margin is learnt from whole batches of 64 alone, 64 of 98 labelled images; from all of them here.
11. Scores of Eq. 14 (`scores`): probabilities, the "label distributions" of Eqs. 6 and 7, with which the loss of m
   positive classes cannot fall below log(1 + m (K - m) e^(-1/m)), against logits.
12. Feature: encoder's, then experts; the code has dropout before and L2 normalisation after them (`dropout` and
   `normalise_features` of the recipe). Averaged model, decay and learning rate belong to the recipe as well.
Where all classes are positive the loss is 0.
Not stated by the paper: experts (2 for RAF-DB, 4 for FERPlus were best, Figure 6), `top_k`, lambda = 1, the width of
an expert (half its input, at least 8, so that on 7 or 8 logits it is no bottleneck); a gate starts
as a linear layer does (the code's zeros would choose the first experts everywhere).
"LEAF w/o C-EAF" (Table 3, `category=False`) has no unsupervised term; "with L_CE" (`loss="cross_entropy"`) teaches the
strong view the hard labels of the weak one; there `gate` acts on each sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ferbench.kernels import ambiguous_loss
from ferbench.kernels.ambiguous.reference import Boundary, SampleWeight
from ferbench.methods.base import (
    Labelled,
    Learner,
    Model,
    Passes,
    PlugIn,
    Progress,
    PseudoLabels,
    StepResult,
    Unlabelled,
)
from ferbench.methods.blocks.experts import Activation, Experts, Fusion, Kind
from ferbench.methods.blocks.reduce import batch_mean
from ferbench.methods.blocks.views import mean_probability
from ferbench.methods.consistency import cross_entropy


@dataclass(frozen=True)
class LEAFOptions:
    """Values of the paper where it gives them: partition_threshold is T (Sec. 4.3), unlabelled_weight lambda of Eq. 1.

    semantic, instance, category: the three levels (Table 3). expert, experts, top_k: kind (Table 2), number (Figure 6)
    and how many the gate keeps, all where there are fewer. gate: "none" takes every image, "sample" those that the
    learner's threshold keeps, "batch" multiplies by their share.
    """

    semantic: bool = True
    instance: bool = True
    category: bool = True
    expert: Kind = "residual"
    experts: int = 4
    top_k: int = 2
    activation: Activation = "softplus"
    fusion: Fusion = "linear"
    instance_input: Literal["logits", "feature"] = "logits"
    loss: Literal["ambiguous", "cross_entropy"] = "ambiguous"
    direction: Literal["strong_to_weak", "weak_to_strong"] = "strong_to_weak"
    scores: Literal["probabilities", "logits"] = "probabilities"
    weak_mean: Literal["probabilities", "logits"] = "probabilities"
    partition_threshold: float = 0.9
    boundary: Boundary = "inclusive"
    max_positives: int | None = None
    sample_weight: SampleWeight = "none"
    rescale: bool = False
    gate: Literal["none", "sample", "batch"] = "none"
    unlabelled_weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value, most in (("experts", self.experts, 256), ("top_k", self.top_k, 8)):
            if not 1 <= value <= most:
                raise ValueError(f"option '{name}' must lie in 1..{most}, not {value}")
        if not 0 < self.partition_threshold <= 1:
            raise ValueError(f"option 'partition_threshold' must lie in (0, 1], not {self.partition_threshold}")
        if self.max_positives is not None and self.max_positives < 1:
            raise ValueError(f"option 'max_positives' must be at least 1, not {self.max_positives}")


class LEAF(PlugIn):
    Options = LEAFOptions
    released: ClassVar[Mapping[str, object]] = {
        "learner": "adacm",
        "experts": 1,
        "top_k": 1,
        "activation": "none",
        "fusion": "log",
        "instance_input": "feature",
        "direction": "weak_to_strong",
        "scores": "logits",
        "weak_mean": "logits",
        "boundary": "exclusive",
        "max_positives": 3,
        "sample_weight": "concave",
        "rescale": True,
        "gate": "batch",
    }
    paper = "Zhang et al., arXiv 2404.15041"
    options: LEAFOptions

    def __init__(self, learner: Learner, model: Model, options: LEAFOptions) -> None:
        super().__init__(learner, model, options)
        moved = options.category and options.loss == "ambiguous" and options.direction == "strong_to_weak"
        learner.weak_gradient = learner.weak_gradient or moved

    @classmethod
    def prepare(cls, model: Model, options: Any) -> None:
        """Semantic experts after the dropout, instance experts after or before the classifier."""

        def experts(width: int) -> Experts:
            return Experts(
                width,
                options.experts,
                options.top_k,
                kind=options.expert,
                activation=options.activation,
                fusion=options.fusion,
            )

        if options.semantic:
            model.dropout = nn.Sequential(model.dropout, experts(model.feature_width))
        if options.instance and options.instance_input == "logits":
            model.head = nn.Sequential(model.head, experts(model.num_classes))
        elif options.instance:
            model.head = nn.Sequential(experts(model.feature_width), model.head)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        passes = self.learner.passes(labelled, unlabelled)
        pseudo = self.learner.pseudo_labels(passes)
        losses = self.learner.losses(passes, labelled.labels, pseudo)
        if pseudo is not None:
            del losses["unsupervised"]
            if self.options.category:
                losses["category"] = self.options.unlabelled_weight * self.category_loss(passes, pseudo)
        return StepResult(losses, pseudo)

    def category_loss(self, passes: Passes, pseudo: PseudoLabels) -> Tensor:
        """Eq. 14, or the cross-entropy in its place, over all unlabelled images and gated as the options say."""
        options = self.options
        per_sample = hard = cross_entropy(passes.strong[0].logits, pseudo.label)
        if options.loss == "ambiguous":
            per_sample = self.ambiguous(passes)
            if options.rescale:
                per_sample = per_sample * _ratio(batch_mean(hard), batch_mean(per_sample))
            if options.gate == "batch":
                return per_sample.mean() * batch_mean(pseudo.keep)
        return (per_sample if options.gate == "none" else per_sample * pseudo.keep).mean()

    def ambiguous(self, passes: Passes) -> Tensor:
        """Weighted Eq. 14 of each image [U]."""
        options = self.options
        strong, weak = passes.strong[0].logits.float(), self.weak_logits(passes)
        scores, partition = (weak, strong) if options.direction == "strong_to_weak" else (strong, weak)
        partition = partition.detach()
        return ambiguous_loss(
            scores if options.scores == "logits" else scores.softmax(dim=1),
            partition,
            threshold=options.partition_threshold,
            boundary=options.boundary,
            max_positives=options.max_positives,
            sample_weight=options.sample_weight,
        )

    def weak_logits(self, passes: Passes) -> Tensor:
        """The weak views' prediction [U, K]: one view's logits, or the mean of several, with gradient."""
        views = [view.logits for view in passes.weak]
        if self.options.weak_mean == "logits":
            return torch.stack(views).float().mean(dim=0)
        return mean_probability(views)


def _ratio(wanted: Tensor, value: Tensor) -> Tensor:
    """wanted / value, 0-d; 0 where there is no value to scale."""
    return torch.where(value > 0, wanted / value.clamp(min=torch.finfo(value.dtype).tiny), 0.0)
