"""ReMoP: regularised mixture of predictions, a plug-in on a learner for class-imbalanced pseudo-labelling.

Paper: Li et al., "Towards Regularized Mixture of Predictions for Class-Imbalanced Semi-Supervised Facial Expression
Recognition", IJCAI 2025, Eqs. 4-9. Code: hangyu94/ReMoP at 402f898.

A matrix of class centres H [K, D] gives a second prediction, the similarity of a feature to each centre; the mixture of
both predictions labels the unlabelled images (Eqs. 5-7) and scores the test images. H is learnt by the centre loss on
labelled and confident unlabelled features and by a term that spreads the centres into a simplex ETF (Eq. 8). H gets
gradient from these two terms only, the encoder from the cross-entropies and the centre loss.

Where the released code differs from the paper (`variant="released"` sets all of `ReMoP.released`):
1. Similarity and mixture (`mix`): the paper mixes probabilities with cosines, beta p_l + (1 - beta) cos; the code mixes
   logits with plain dot products and takes the softmax of that.
2. Gate (`gate`): Eq. 3 keeps a sample when its linear prediction reaches the threshold (its max(y_j), y_j = p_l; Eq. 7
   replaces the label alone); the code when the mixture does. The text, which speaks of "confidence scores", can be read
   either way. By the linear gate the mixture changes no label that is taught: a kept sample has p_l >= tau, so another
   class wins only with a cosine larger by beta (2 tau - 1) / (1 - beta), 0.9 at beta 0.5 and tau 0.95. What is left of
   the method is then the centre loss, and the mixture at test. The mixture of Eq. 6 is no distribution: by itself it
   passes 0.95 only where linear prediction and cosine both pass 0.9. `labels changed` in a run's log is the share of
   the taught labels that are not the linear prediction's.
3. Unlabelled weight (the learner's `unlabelled_weight`): 1 against 0.2, both on the mean over all unlabelled images.
   The FixMatch rows of the tables keep 1: the code holds no FixMatch baseline.
4. Centre loss (`center_scale`): half the squared distance against the squared distance.
5. Feature of the centre loss and of H (`center_feature`): the encoder's against the one after dropout.
6. ETF term (`etf`): Eq. 8 against a Frobenius norm whose minimum is K / (K - 1), with the same minimiser.
7. Optimiser of H (`center_grad_scale`): one end-to-end loss against an Adam of its own, at the encoder's learning rate
   of 1e-4, whose gradients are divided by lambda_center. A parameter group of one Adam is the same arithmetic as a
   second Adam, since Adam keeps its statistics per element; under Adam the division only makes its epsilon negligible.
   (The factor is that of lambda_center = 1e-4, also where a sweep sets another: no difference under Adam.)
8. Test (`average_centers`): centres of the evaluated (averaged) model against the student's current centres.
9. Learning-rate schedule, averaging of the model and the decay applied with it belong to the recipe of a protocol.
10. Sums (`reduction`): Eqs. 3 and L_c = 1/2 sum |x - h_y|^2 print sums over the batch, Eq. 8 one over classes; the code
   takes means over the batch, and so do both variants here. The printed sums weigh L_reg by 1,000 / batch against L_c
   (62 at 16, 31 at 32), the means by 1,000: `reduction="sum"` is the letter.
Not stated by the paper and taken from the code: centres start from N(0, 1); confident features in the centre loss are
those of the strong view; labelled and unlabelled centre losses are taken over their own rows, then added. Where the
code's loss is NaN because no sample was confident, it is 0 here; the gradients agree (both 0).
With L2-normalised features the centre loss on "features" and the released dot products have another scale.
On Ada-CM (Table 2; neither the paper nor the code says how) the mixture takes the place of each weak view's prediction
before the two are averaged, and Ada-CM's margin is learnt from what it gates: the linear prediction (paper) or the
mixture (released). By the linear gate the linear confidence is held against the margin of the mixture's class. What
is not kept is Ada-CM's subset II; the released weight of 0.2 holds there, too.
On Vanilla ("+H" in Table 1) there are no unlabelled terms: centres learn from labelled images, the mixture acts at
test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.kernels import Rows, center_etf_loss, pseudo_label
from ferbench.methods.base import (
    Ask,
    Labelled,
    Learner,
    Model,
    Passes,
    PlugIn,
    Prediction,
    Progress,
    PseudoLabels,
    StepResult,
    Unlabelled,
)
from ferbench.methods.blocks.reduce import Reduction, kept_count, processes
from ferbench.methods.blocks.views import mean_probability


@dataclass(frozen=True)
class ReMoPOptions:
    """The paper's values (Sec. 5.2): beta of Eq. 6, lambda_center and lambda_reg of Eq. 9 (lambda_1, lambda_2).

    lambda_reg = 0 is the row "+H" of Table 1. center_lr: learning rate of H, None for the recipe's; under Adam the
    centres, which start from noise, move about that much a step, so a short run needs a larger one. mixture_at_test:
    whether the mixture or the linear prediction is the headline (Figure 3); both are always recorded.
    """

    beta: float = 0.5
    lambda_center: float = 1e-4
    lambda_reg: float = 0.1
    mix: Literal["paper", "released"] = "paper"
    gate: Literal["linear", "mixture"] = "linear"
    etf: Literal["paper", "released"] = "paper"
    center_scale: float = 1.0
    center_feature: Literal["encoded", "features"] = "encoded"
    center_grad_scale: float = 1.0
    center_lr: float | None = None
    average_centers: bool = True
    mixture_at_test: bool = True
    reduction: Reduction = "mean"


class ReMoP(PlugIn):
    Options = ReMoPOptions
    released: ClassVar[Mapping[str, object]] = {
        "mix": "released",
        "gate": "mixture",
        "etf": "released",
        "unlabelled_weight": 0.2,
        "center_scale": 2.0,
        "center_feature": "features",
        "center_grad_scale": 1e4,
        "average_centers": False,
    }
    paper = "Li et al., IJCAI 2025"
    options: ReMoPOptions

    def __init__(self, learner: Learner, model: Model, options: ReMoPOptions) -> None:
        super().__init__(learner, model, options)
        self.centers = nn.Parameter(torch.randn(model.num_classes, model.feature_width))

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        passes = self.learner.passes(labelled, unlabelled)
        pseudo = self.enhanced_labels(passes)
        losses = self.learner.losses(passes, labelled.labels, pseudo)
        center, etf = self.regularisers(passes, labelled.labels, pseudo)
        losses["center"] = self.options.lambda_center * center
        losses["etf"] = self.options.lambda_reg * etf
        return StepResult(losses, pseudo)

    def enhanced_labels(self, passes: Passes) -> PseudoLabels | None:
        """Eqs. 5-7: the class of the mixture, gated by the linear prediction (paper) or by the mixture (released).

        The mixtures of several weak views are averaged; the paper's is linear in its parts, so these are.
        """
        if not passes.weak:
            return None
        linear = mean_probability([weak.logits for weak in passes.weak]).detach()
        label, keep, confidence = self._mixed_label(passes.weak, linear)
        return PseudoLabels(label, keep, confidence, changed=label != linear.argmax(dim=1))

    def _mixed_label(self, weak: Sequence[Prediction], linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class, gate and confidence [U] each. linear: logits [U, K] of the mean linear prediction."""
        beta, thresholds, mix = self.options.beta, self.learner.thresholds(), self.options.mix
        if self.options.gate != ("linear" if mix == "paper" else "mixture"):
            mixture = torch.stack([self.mixture(view) for view in weak]).mean(dim=0).detach()
            gated = linear.float().softmax(dim=1) if self.options.gate == "linear" else mixture
            label, confidence = mixture.argmax(dim=1), gated.amax(dim=1)
            least = thresholds[label] if isinstance(thresholds, Tensor) and thresholds.ndim else thresholds
            return label, confidence >= least, confidence
        scores = [self.similarity(view) for view in weak]
        if len(weak) > 1 and mix == "released":
            mixed = [beta * view.logits.float() + (1 - beta) * score for view, score in zip(weak, scores, strict=True)]
            return pseudo_label(mean_probability(mixed), thresholds=thresholds)
        return pseudo_label(
            linear, feature_scores=torch.stack(scores).mean(dim=0), beta=beta, thresholds=thresholds, mix=mix
        )

    def regularisers(self, passes: Passes, labels: Tensor, pseudo: PseudoLabels | None) -> tuple[Tensor, Tensor]:
        """The centre loss over labelled and confident unlabelled rows, each a mean of its own, and Eq. 8."""
        known = self._rows(passes.labelled, labels, None)
        more = None if pseudo is None else self._rows(passes.strong[0], pseudo.label, pseudo.keep)
        center, etf = center_etf_loss(
            known.features, known.labels, self.centers, divisor=known.divisor, more=more, etf=self.options.etf
        )
        return self.options.center_scale * center, etf

    def _rows(self, prediction: Prediction, labels: Tensor, mask: Tensor | None) -> Rows:
        """Rows of the centre loss, over their number or, for a sum, over their share of the processes."""
        divisor: float | Tensor = len(labels) if mask is None else kept_count(mask)
        if self.options.reduction == "sum":
            divisor = 1 / processes()
        return Rows(self._feature(prediction), labels, mask, divisor)

    def similarity(self, prediction: Prediction) -> Tensor:
        """p_s [B, K] in float32: cosine of feature and centre (Eq. 5), or their dot product (released). No gradient."""
        features, centers = self._feature(prediction).detach().float(), self.centers.detach()
        if self.options.mix == "paper":
            features, centers = F.normalize(features, dim=1), F.normalize(centers, dim=1)
        with torch.autocast(features.device.type, enabled=False):  # else the product is in half precision
            return features @ centers.T

    def mixture(self, prediction: Prediction) -> Tensor:
        """p_m [B, K] of Eq. 6, or the released softmax of mixed logits."""
        beta, logits, similarity = self.options.beta, prediction.logits.float(), self.similarity(prediction)
        if self.options.mix == "paper":
            return beta * logits.softmax(dim=1) + (1 - beta) * similarity
        return (beta * logits + (1 - beta) * similarity).softmax(dim=1)

    def predict(self, images: Tensor) -> Tensor:
        return next(iter(self.predict_all(images).values()))

    def predict_all(self, images: Tensor) -> dict[str, Tensor]:
        """By the mixture, by the linear head and by the centres alone: Figure 3 from one run."""
        prediction: Prediction = self.learner.model(images)
        scores = {"mixture": self.mixture(prediction), "linear": prediction.logits.float().softmax(dim=1)}
        if not self.options.mixture_at_test:
            scores = dict(reversed(scores.items()))
        return {**scores, "centers": self.similarity(prediction)}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        center_lr = lr if self.options.center_lr is None else self.options.center_lr
        return [*self.learner.parameter_groups(lr), {"params": [self.centers], "lr": center_lr, "weight_decay": 0.0}]

    def after_backward(self) -> None:
        super().after_backward()
        if self.centers.grad is not None and self.options.center_grad_scale != 1.0:
            self.centers.grad.mul_(self.options.center_grad_scale)

    def end_epoch(self, progress: Progress, ask: Ask) -> None:
        """The learner asks for the scores that its thresholds gate."""
        super().end_epoch(progress, partial(ask, rule=self.options.gate))

    def not_averaged(self) -> frozenset[str]:
        return super().not_averaged() | (frozenset() if self.options.average_centers else {"centers"})

    def _feature(self, prediction: Prediction) -> Tensor:
        return prediction.encoded if self.options.center_feature == "encoded" else prediction.features
