"""UDA: the strong view is taught the sharpened weak prediction, and labelled images that are known well are left out.

Paper: Xie et al., "Unsupervised Data Augmentation for Consistency Training", NeurIPS 2020, Sec. 3. Code:
google-research/uda.

Target softmax(z / T) of the weak view, kept where the unsharpened confidence reaches beta, taught by KL divergence.
Training signal annealing (TSA): a labelled image takes part while its true class has at most probability
eta(t) = c(t) (1 - 1/K) + 1/K, c linear, exp(5 (t - 1)) or 1 - exp(-5 t); the mean is over those that do.

1. T 0.4 and beta 0.8 are the paper's for CIFAR, its code's flags have both off; TSA is off in the paper's CIFAR runs
   and here unless asked for.
2. `usb`: T is never applied (it is handed probabilities), TSA looks at the largest probability and divides by the whole
   batch, cross-entropy in place of KL (the same gradient), one pass over all views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ferbench.methods.base import Passes, PseudoLabels
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.reduce import kept_count, reduce
from ferbench.methods.blocks.schedules import exponential, linear, logarithmic
from ferbench.methods.blocks.targets import gated, probabilities
from ferbench.methods.consistency import Consistency, ConsistencyOptions, cross_entropy

ANNEALING: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda fraction: linear(fraction, 1.0),
    "exp": exponential,
    "log": logarithmic,
}


@dataclass(frozen=True)
class UDAOptions(ConsistencyOptions):
    """threshold: beta; tsa: shape of c; tsa_of: the probability TSA looks at, with the mean that goes with it."""

    threshold: float = 0.8
    temperature: float = 0.4
    tsa: Literal["none", "linear", "exp", "log"] = "none"
    tsa_of: Literal["label", "largest"] = "label"
    divergence: Literal["kl", "cross_entropy"] = "kl"

    def __post_init__(self) -> None:
        above_zero(self, "temperature")
        not_negative(self, "unlabelled_weight")
        share(self, "threshold")


class UDA(Consistency):
    Options = UDAOptions
    usb: ClassVar[Mapping[str, object]] = {
        "temperature": 1.0, "tsa_of": "largest", "divergence": "cross_entropy", "joint": "all",
    }  # fmt: skip
    paper = "Xie et al., NeurIPS 2020"
    options: UDAOptions

    def thresholds(self) -> float:
        return self.options.threshold

    def pseudo_labels(self, passes: Passes) -> PseudoLabels:
        return gated(probabilities(passes.weak[0]), self.options.threshold)

    def losses(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> dict[str, Tensor]:
        assert pseudo is not None
        logits = passes.weak[0].logits.detach().float() / self.options.temperature
        target = logits.softmax(dim=1)
        unsupervised = self.unsupervised(passes, target, pseudo.keep)
        if self.options.divergence == "kl":
            entropy = cross_entropy(logits, target) * pseudo.keep
            unsupervised = unsupervised - self.options.unlabelled_weight * reduce(entropy, self.options.reduction)
        return {"supervised": self.annealed(passes.labelled.logits, labels), "unsupervised": unsupervised}

    def annealed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the labelled images that TSA lets through."""
        loss = cross_entropy(logits, labels)
        if self.options.tsa == "none":
            return reduce(loss, self.options.reduction)
        p, classes = logits.detach().float().softmax(dim=1), logits.shape[1]
        by_label = self.options.tsa_of == "label"
        known = p.gather(1, labels.unsqueeze(1)).squeeze(1) if by_label else p.amax(dim=1)
        limit = ANNEALING[self.options.tsa](self.progress.fraction) * (1 - 1 / classes) + 1 / classes
        used = known <= limit
        return (loss * used).sum() / kept_count(used) if by_label else reduce(loss * used, self.options.reduction)
