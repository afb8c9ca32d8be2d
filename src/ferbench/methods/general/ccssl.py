"""CCSSL: FixMatch with a contrast in which images of one pseudo-class attract each other as far as both are confident.

Paper: Yang et al., "Class-Aware Contrastive Semi-Supervised Learning", CVPR 2022, Eqs. 4-9. Code:
TencentYoutuResearch/Classification-SemiCLS.

Beside FixMatch's loss on the first strong view, the embeddings of both strong views of all unlabelled images,
confident or not, are contrasted: the weight of a pair is m_i m_j where both have the same pseudo-label (m the largest
weak probability), 0 elsewhere; each anchor's weights are normalised.

1. Weight of an image's own other view (`own_view`): 1 (the code as it stands now), or m_i^2 as any pair (the paper's
   runs).
2. The second view is a SimCLR augmentation there (crop, colour, grey), RandAugment here as the first.
3. `push`: anchors less confident than this take no part (0.9 in the paper's in-the-wild runs, else 0); their loss
   counts as 0 in the mean.
4. The code passes all views at once, with common batch statistics; here each has a pass of its own (`joint="all"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ferbench.methods.base import Labelled, Model, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.heads import Projection
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.reduce import Reduction, gather_rows, reduce, whole_batch
from ferbench.methods.blocks.targets import gated, normalise, probabilities
from ferbench.methods.consistency import Joint, cross_entropy, forward
from ferbench.methods.single import Single


@dataclass(frozen=True)
class CCSSLOptions:
    """threshold: tau of FixMatch; push: T_push; temperature: of the contrast; width: of the embedding."""

    threshold: float = 0.95
    unlabelled_weight: float = 1.0
    contrast_weight: float = 1.0
    temperature: float = 0.07
    push: float = 0.0
    own_view: Literal["one", "confidence"] = "one"
    width: int = 64
    reduction: Reduction = "mean"
    joint: Joint = False

    def __post_init__(self) -> None:
        above_zero(self, "temperature", "width")
        not_negative(self, "unlabelled_weight", "contrast_weight")
        share(self, "threshold", "push")


class CCSSL(Single):
    Options = CCSSLOptions
    paper = "Yang et al., CVPR 2022"
    views = Views(labelled=("weak",), unlabelled=("weak", "strong", "strong2"))
    options: CCSSLOptions

    def __init__(self, model: Model, options: CCSSLOptions) -> None:
        super().__init__(model, options)
        self.project = Projection(model.feature_width, options.width, slope=0.1)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "ccssl needs unlabelled images"
        passes, options = forward(self.model, labelled, unlabelled, self.views, self.options.joint), self.options
        pseudo = gated(probabilities(passes.weak[0]), options.threshold)
        taught = cross_entropy(passes.strong[0].logits, pseudo.label) * pseudo.keep
        embedded = [gather_rows(self.project(view.encoded)) for view in passes.strong]
        pairs = pair_weights(whole_batch(pseudo.label), whole_batch(pseudo.confidence), options.own_view)
        contrast = class_contrast(torch.cat(embedded), pairs, options.temperature)
        contrast = contrast * (whole_batch(pseudo.confidence) >= options.push).repeat(2)
        return StepResult(
            {
                "supervised": reduce(cross_entropy(passes.labelled.logits, labelled.labels), options.reduction),
                "unsupervised": options.unlabelled_weight * reduce(taught, options.reduction),
                "contrast": options.contrast_weight * contrast.mean(),
            },
            pseudo,
        )


def pair_weights(label: Tensor, confidence: Tensor, own_view: Literal["one", "confidence"]) -> Tensor:
    """Weights [2U, 2U] of pairs among both views of U images: 0 for an image view with itself."""
    weight = torch.outer(confidence, confidence) * (label.unsqueeze(1) == label)
    if own_view == "one":
        weight = torch.where(torch.eye(len(label), dtype=torch.bool, device=label.device), 1.0, weight)
    itself = torch.eye(2 * len(label), dtype=torch.bool, device=label.device)
    return torch.where(itself, 0.0, weight.repeat(2, 2))


def class_contrast(features: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Loss [N] of unit features [N, d] for pair weights [N, N] with a zero diagonal."""
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    logits = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    log_p = torch.where(itself, 0.0, logits.log_softmax(dim=1))
    return -(normalise(weights) * log_p).sum(dim=1)
