"""Ada-CM: a confidence margin per class, learnt on the labelled images, splits the unlabelled ones into two subsets.

Paper: Li et al., "Towards Semi-Supervised Deep Facial Expression Recognition with An Adaptive Confidence Margin", CVPR
2022, Eqs. 1-10. Code: hangyu94/Ada-CM at aca2b35.

Two weak views predict together (Eq. 6). Subset I holds the images whose confidence reaches the margin of their label:
the strong view is taught that label (Eq. 7). Subset II, the rest, is contrasted: the two weak features of an image
against all others of the batch (Eqs. 8-9). After each epoch the margin of class c becomes B T_c / (1 + gamma^-t), T_c
the mean confidence of its correctly predicted labelled images (Eqs. 4-5).

Where the released code differs from the paper (`variant="released"` sets all of `AdaCM.released`):
1. Mean of Eq. 7 (`denominator`): over subset I against the whole unlabelled batch, subset II counted as zero.
2. Floor (`floor`): none against T^0 = 0.8. The ramp alone is 0.71 at t = 1 and 0.85 at t = 2, so the literal margin
   starts below T^0 and the code's never is.
3. Epoch of Eq. 5 (`timing`): the epoch the margin is used in against the one it was learnt after, one less. In the
   first epoch both use T^0, without which the paper's initial value would have no use (its Algorithm 1 sets it, then
   learns). Algorithm 1 learns once, before its loop; the abstract says "at each training epoch", Figure 2 "in each
   forward pass": after each epoch here, as in the code.
4. Contrast (`symmetric`): anchors of view a alone against the mean over anchors of both views.
5. L2-normalised features, which also bound the logits, BGR images, the averaged model with its decay, and the number of
   steps belong to the recipe of a protocol: `normalise_features`, `channel_order`, `ema`, `shrink`.
6. Labelled images the margin is learnt from: all, each in a weak view (both). The code's loader drops what does not
   fill a batch, 4 of 100; here none is dropped.
7. Algorithm 1 writes three gradient steps, Eq. 10 and the code take one on the weighted sum, and so it is here.
8. The code's default is two devices (the paper: two V100), each normalising over its half of the batch; one here.
Not stated by the paper and taken from the code: the temperature of 0.07; the margin is that of the averaged model in
evaluation mode; a class without a correct prediction has margin T^0.
`contrast_gradient=False` is the code as it was when the paper appeared: from its first commit (81db2a5, April 2022) to
3059cb5 of October 2022 both weak views were passed without a gradient, so that Eq. 9 was a constant and taught nothing.
If the paper's tables were made with it, which is likely and not proven, their "L_c only" is the baseline with two
more passes that move the batch statistics, and "both" is the margin alone.
With `joint` the labelled and strong images share a pass ("all": every view); the weak views have passes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.kernels import info_nce, pseudo_label
from ferbench.methods.base import Ask, Model, Passes, Progress, PseudoLabels, Views
from ferbench.methods.blocks.reduce import gather_rows, kept_count, whole_batch
from ferbench.methods.blocks.views import mean_probability
from ferbench.methods.consistency import Consistency, Joint, cross_entropy


@dataclass(frozen=True)
class AdaCMOptions:
    """The paper's values (Sec. 3.2.2 and 4.1): B and gamma of Eq. 5, T^0, lambda_1 to lambda_3 of Eq. 10.

    margin: learnt, or one fixed `threshold` for all classes and epochs (no row of the paper: its "FT" are FixMatch).
    contrast: whether subset II is used ("contrast only": unlabelled_weight = 0); contrast_gradient: whether it teaches.
    """

    bound: float = 0.97
    gamma: float = math.e
    initial_threshold: float = 0.8
    floor: bool = False
    timing: Literal["current", "previous"] = "current"
    margin: bool = True
    threshold: float = 0.95
    contrast: bool = True
    contrast_gradient: bool = field(default=True, metadata={"formerly": True})
    supervised_weight: float = 0.5
    unlabelled_weight: float = 1.0
    contrast_weight: float = 0.1
    temperature: float = 0.07
    denominator: Literal["kept", "batch"] = "kept"
    symmetric: bool = False
    joint: Joint = False

    def __post_init__(self) -> None:
        if not 0 < self.bound <= 1:
            raise ValueError(f"option 'bound' must lie in (0, 1], not {self.bound}")
        if not self.gamma > 1:
            raise ValueError(f"option 'gamma' must be above 1, not {self.gamma}")
        if not self.temperature > 0:
            raise ValueError(f"option 'temperature' must be above 0, not {self.temperature}")


class AdaCM(Consistency):
    Options = AdaCMOptions
    released: ClassVar[Mapping[str, object]] = {
        "denominator": "batch",
        "floor": True,
        "timing": "previous",
        "symmetric": True,
    }
    paper = "Li et al., CVPR 2022"
    views = Views(labelled=("weak",), unlabelled=("weak", "weak2", "strong"))
    options: AdaCMOptions
    margins: Tensor  # [K]

    def __init__(self, model: Model, options: AdaCMOptions) -> None:
        super().__init__(model, options)
        start = options.initial_threshold if options.margin else options.threshold
        self.register_buffer("margins", torch.full((model.num_classes,), start))
        self.weak_gradient = options.contrast and options.contrast_gradient

    def thresholds(self) -> Tensor:
        return self.margins

    def pseudo_labels(self, passes: Passes) -> PseudoLabels:
        """Eq. 6 and the partition: `keep` is subset I."""
        logits = mean_probability([view.logits for view in passes.weak])
        return PseudoLabels(*pseudo_label(logits, thresholds=self.margins))

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        """The three terms of Eq. 10."""
        assert pseudo is not None
        options = self.options
        supervised = cross_entropy(passes.labelled.logits, labels).mean()
        taught = cross_entropy(passes.strong[0].logits, pseudo.label) * pseudo.keep
        unsupervised = taught.sum() / kept_count(pseudo.keep) if options.denominator == "kept" else taught.mean()
        terms = {
            "supervised": options.supervised_weight * supervised,
            "unsupervised": options.unlabelled_weight * unsupervised,
        }
        if options.contrast:
            terms["contrast"] = options.contrast_weight * self.contrast(passes, pseudo.keep)
        return terms

    def contrast(self, passes: Passes, keep: Tensor) -> Tensor:
        """Eq. 9 over subset II of the whole batch, also where processes share it; 0 for fewer than two images."""
        first, second = (gather_rows(view.features) for view in passes.weak)
        return info_nce(
            first,
            second,
            mask=whole_batch((~keep).byte()).bool(),
            temperature=self.options.temperature,
            symmetric=self.options.symmetric,
        )

    def end_epoch(self, progress: Progress, ask: Ask) -> None:
        if self.options.margin:
            answer = ask("labelled", model="average", view="weak")
            assert answer.labels is not None
            t = progress.epoch + (2 if self.options.timing == "current" else 1)  # Eq. 5 counts epochs from 1
            self.margins.copy_(adaptive_margin(answer.scores, answer.labels, t, self.options))


def adaptive_margin(scores: Tensor, labels: Tensor, t: int, options: AdaCMOptions) -> Tensor:
    """Eqs. 4-5: probabilities [N, K] of the labelled images and their labels [N] -> margins [K] at epoch t, from 1."""
    confidence, predicted = scores.double().max(dim=1)
    correct = F.one_hot(labels, scores.shape[1]).double() * (predicted == labels).unsqueeze(1)  # [N, K]
    count = correct.sum(dim=0)
    mean = (correct * confidence.unsqueeze(1)).sum(dim=0) / count.clamp(min=1)
    margins = options.bound * mean / (1 + options.gamma**-t)
    if options.floor:
        margins = margins.clamp(min=options.initial_threshold)
    return torch.where(count > 0, margins, options.initial_threshold)
