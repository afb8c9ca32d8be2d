"""CPE: three experts that assume different class distributions, on three batch normalisations of one feature map.

Paper: Ma, Elezi, Deng, Dong, Xu, "Three Heads Are Better Than One: Complementary Experts for Long-Tailed
Semi-supervised Learning", AAAI 2024, Eqs. 3-9. Code: machengcheng2016/CPE-LTSSL.

The encoder's last map goes through three batch normalisations H, M, T and is pooled; expert j classifies each, z_jb,
and its logits are the mean over b. Labelled: sum over experts of the cross-entropy of z_j + tau_j log prior, tau = 0,
2, 4. Unlabelled: each expert's confident predictions are taught to its strong logits of branch H, of M where the class
is not among the `medium_cut` most frequent, of T where it is not among the `tail_cut` most frequent; the mean is over
the pairs of image and branch that are kept. The test is by the second expert.

1. Cuts: 2 and 4 of 10 classes in the paper; ours for K classes are K / 5 and 2 K / 5, rounded, at least 1 and 2.
2. Classes need no order by frequency here: the labelled counts give it.
3. It needs the encoder's map, so it is a method of its own on FixMatch's views and takes no other learner; one pass
   over all views, as in the code, whose separate passes do not run. A recipe's `normalise_features` does not reach it.

State: 4 K numbers beside the heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ferbench.methods.base import (
    Facts,
    Labelled,
    Model,
    Progress,
    PseudoLabels,
    StepResult,
    TokenModel,
    Unlabelled,
    Views,
)
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.blocks.reduce import kept_count
from ferbench.methods.blocks.statistics import class_counts
from ferbench.methods.blocks.targets import gated
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.single import Single

ADJUSTMENTS = (0.0, 2.0, 4.0)  # tau of the three experts
HEADLINE = 1  # the expert that is tested


@dataclass(frozen=True)
class CPEOptions:
    """medium_cut, tail_cut: how many of the most frequent classes branches M and T leave out, None for a share of K."""

    threshold: float = 0.95
    unlabelled_weight: float = 1.0
    medium_cut: int | None = None
    tail_cut: int | None = None

    def __post_init__(self) -> None:
        not_negative(self, "unlabelled_weight")
        share(self, "threshold")


class CPE(Single):
    Options = CPEOptions
    paper = "Ma et al., AAAI 2024"
    views = Views(labelled=("weak",), unlabelled=("weak", "strong"))
    options: CPEOptions
    log_prior: Tensor  # [K]
    member: Tensor  # [3, K] bool: classes that branch H, M, T are taught

    def __init__(self, model: Model, options: CPEOptions) -> None:
        super().__init__(model, options)
        model.head.requires_grad_(False)  # the experts stand in its place
        width, classes = model.feature_width, model.num_classes
        self.branches = nn.ModuleList(nn.BatchNorm1d(width) for _ in ADJUSTMENTS)
        self.experts = nn.ModuleList(nn.Linear(width, classes) for _ in ADJUSTMENTS)
        self.register_buffer("log_prior", torch.zeros(classes))
        self.register_buffer("member", torch.ones(3, classes, dtype=torch.bool))

    def begin(self, facts: Facts) -> None:
        classes = len(self.log_prior)
        counts = class_counts(facts.labelled_labels, classes)
        self.log_prior.copy_((counts / counts.sum()).clamp(min=1e-12).log())
        rank = torch.empty_like(counts).scatter_(
            0, counts.argsort(descending=True, stable=True), torch.arange(classes, device=counts.device).float()
        )
        cuts = (0, *self.cuts(classes))
        self.member.copy_(torch.stack([rank >= cut for cut in cuts]))

    def cuts(self, classes: int) -> tuple[int, int]:
        medium, tail = self.options.medium_cut, self.options.tail_cut
        return (
            max(1, round(classes / 5)) if medium is None else medium,
            max(2, round(2 * classes / 5)) if tail is None else tail,
        )

    def logits(self, images: Tensor) -> Tensor:
        """z [3 experts, 3 branches, N, K] in float32."""
        model = cast(TokenModel, self.model)
        cells = model.tokens(images).transpose(1, 2)
        pooled = [model.dropout(branch(cells).mean(dim=2)) for branch in self.branches]
        return torch.stack([torch.stack([expert(feature) for feature in pooled]) for expert in self.experts]).float()

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "cpe needs unlabelled images"
        images, weak, strong = labelled.views["weak"], unlabelled.views["weak"], unlabelled.views["strong"]
        sizes = [len(images), len(weak), len(strong)]
        known, target, taught = torch.split(self.logits(torch.cat([images, weak, strong])), sizes, dim=2)
        pseudo = [gated(z.mean(dim=0).detach().softmax(dim=1), self.options.threshold) for z in target]
        terms = [self.unsupervised(z, labels) for z, labels in zip(taught, pseudo, strict=True)]
        losses = {
            "supervised": self.supervised(known, labelled.labels),
            "unsupervised": self.options.unlabelled_weight * torch.stack(terms).sum(),
        }
        return StepResult(losses, pseudo[HEADLINE])

    def supervised(self, z: Tensor, labels: Tensor) -> Tensor:
        """The sum over experts of logit-adjusted cross-entropies, from [3, 3, B, K]."""
        adjusted = [z[j].mean(dim=0) + tau * self.log_prior for j, tau in enumerate(ADJUSTMENTS)]
        return torch.stack([cross_entropy(logits, labels).mean() for logits in adjusted]).sum()

    def unsupervised(self, z: Tensor, pseudo: PseudoLabels) -> Tensor:
        """One expert's strong logits [3 branches, U, K], each taught the classes it is for."""
        used = pseudo.keep & self.member[:, pseudo.label]
        loss = torch.stack([cross_entropy(branch, pseudo.label) for branch in z])
        return (loss * used).sum() / kept_count(used)

    def predict(self, images: Tensor) -> Tensor:
        return next(iter(self.predict_all(images).values()))

    def predict_all(self, images: Tensor) -> dict[str, Tensor]:
        """By the second expert (the headline), the first and the third."""
        p = self.logits(images).mean(dim=1).softmax(dim=2)
        return {f"expert {j + 1}": p[j] for j in (HEADLINE, 0, 2)}
