"""VAT: the prediction should not change under the small perturbation of the image that changes it most.

Paper: Miyato et al., "Virtual Adversarial Training", TPAMI 2018, Algorithm 1 and Sec. 4.2. Code
read: USB and TorchSSL; the authors' (takerum/vat_tf) was not.

With p the prediction on an unlabelled weak view u: one power iteration from a random unit direction d gives g = grad_d
KL(p || softmax z(u + xi d)), the perturbation is r = epsilon g / |g|, the loss KL(p || softmax z(u + r)). Added: the
entropy of the predictions on unlabelled images.

1. epsilon is a length in the space of normalised pixels, tuned for 32 x 32 images: `epsilon_at` = 32 scales it to the
   image's side, epsilon * S / 32 (0 leaves it as it is, which is what the reimplementations do).
2. Weight 0.3 in Google's reimplementation and TorchSSL, 1 in USB (`usb`); a linear ramp over 0.4 of training in all.
   Google takes KL(perturbed || clean) as the loss.
3. xi is 1e-3 here, 1e-6 in the paper and the reimplementations (`usb`). The direction does not depend on it but for
   rounding, which at 1e-6 in float32 is all there is: on a small ResNet at 48 pixels the mean cosine with the float64
   direction is -0.03 for 1e-6 and 0.999 for 1e-3.
4. The unlabelled passes leave the running batch statistics alone, are without dropout (so that clean and perturbed
   differ in r only) and in float32 whatever the recipe's precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import Labelled, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.modes import kept_statistics, no_dropout
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.blocks.schedules import linear
from ferbench.methods.blocks.targets import gated
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.single import Single


@dataclass(frozen=True)
class VATOptions:
    """epsilon, epsilon_at, xi: above; entropy_weight: of the entropy term; ramp: as a fraction of training."""

    epsilon: float = 6.0
    epsilon_at: int = 32
    xi: float = 1e-3
    unlabelled_weight: float = 0.3
    entropy_weight: float = 0.06
    ramp: float = 0.4
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        above_zero(self, "epsilon", "xi")
        not_negative(self, "epsilon_at", "unlabelled_weight", "entropy_weight")
        share(self, "ramp")


class VAT(Single):
    Options = VATOptions
    usb: ClassVar[Mapping[str, object]] = {"unlabelled_weight": 1.0, "epsilon_at": 0, "xi": 1e-6}
    paper = "Miyato et al., TPAMI 2018"
    views = Views(labelled=("weak",), unlabelled=("weak",))
    options: VATOptions

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        assert unlabelled is not None, "vat needs unlabelled images"
        options, images = self.options, unlabelled.views["weak"].float()
        known: Prediction = self.model(labelled.views["weak"])
        with (
            torch.autocast(images.device.type, enabled=False),
            kept_statistics(self.model),
            no_dropout(self.model),
        ):
            clean = self.model(images).logits
            p = clean.detach().softmax(dim=1)
            moved = self.model(images + self.perturbation(images, p)).logits
        weight = options.unlabelled_weight * linear(progress.fraction, options.ramp)
        losses = {
            "supervised": reduce(cross_entropy(known.logits, labelled.labels), options.reduction),
            "unsupervised": weight * reduce(divergence(p, moved), options.reduction),
            "entropy": options.entropy_weight * reduce(entropy(clean), options.reduction),
        }
        return StepResult(losses, gated(p, 0.0))

    def perturbation(self, images: Tensor, p: Tensor) -> Tensor:
        """r [U, 3, S, S] for the clean probabilities p [U, K], without gradient."""
        with torch.enable_grad():
            direction = (self.options.xi * unit(torch.randn_like(images))).requires_grad_()
            moved = divergence(p, self.model(images.detach() + direction).logits).mean()
            (gradient,) = torch.autograd.grad(moved, direction)
        scale = images.shape[-1] / self.options.epsilon_at if self.options.epsilon_at else 1.0
        return self.options.epsilon * scale * unit(gradient)


def divergence(p: Tensor, logits: Tensor) -> Tensor:
    """KL(p || softmax(logits)) [U]."""
    negative_entropy: Tensor = torch.special.xlogy(p, p).sum(dim=1)
    return cross_entropy(logits, p) + negative_entropy


def entropy(logits: Tensor) -> Tensor:
    """H(softmax(logits)) [U], with gradient through both factors."""
    log_p = logits.float().log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def unit(rows: Tensor) -> Tensor:
    """Rows [U, ...] of length 1; divided by their largest entry first, so that tiny ones do not vanish."""
    flat = rows.flatten(1)
    flat = flat / (flat.abs().amax(dim=1, keepdim=True) + 1e-30)
    return flat.div(flat.norm(dim=1, keepdim=True) + 1e-12).view_as(rows)
