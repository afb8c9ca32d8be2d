"""PLL-FER: candidate sets are narrowed to one class where the model is sure, by a decoder with one query per class.

Paper: Wang et al., "Rethinking the Learning Paradigm for Facial Expression Recognition" (arXiv 2209.15402): Eq. 1 with
a confidence C_i per training image, Eq. 2 (queries spread over the sphere), Eqs. 3-4 (revision), Sec. III-C (decoder).
The switches are the rows of its Table VIII; with all three off it is `pll`. Pre-training is the recipe's business.

No code was released. Where the text is silent or contradicts itself:
1. Eq. 2 (`uniformity`): as printed the sum holds j = i. Its term exp(1 / tau) drowns the others: at the paper's best
   tau = 0.001 the gradient is 0 up to rounding. "others" leaves it out, as the cited uniformity loss (of pairs of
   distinct points) does; "printed" is the letter. "Optimal positions computed before training": where the weight is
   not 0 the queries start at the minimiser, a regular simplex, and are trained from there; at tau = 0.001 they stay.
2. Total loss: not given; L_pll + uniform_weight * L_uniform, the weight 0.1 a guess.
3. Eq. 3 (`phi`): the sigmoid of the logits. The softmax of Eq. 1 does not move when all logits of an image move
   together, the sigmoid does, so the gap drifts with a constant that nothing trains: "centred" subtracts the mean of an
   image's logits first. "sigmoid" is the letter, "softmax" the score that Eq. 1 trains.
4. Eq. 4 (`threshold`): in [0, 1), the chosen value is not given. From C = 1/2 on two candidates the gap is below 1/2,
   so only smaller thresholds ever revise; 0.2 is ours.
5. A revised image keeps its class for good (C has one entry), so early mistakes stay: revision begins after
   `warmup_epochs`, 5 of our choosing; 0 is the letter.
6. The loss is computed against the confidence after this batch's revision (caption of Fig. 2), and no gradient flows
   through phi. An image that stands twice in a batch is revised by its first row in the table, by each in the loss.
7. The decoder's logits are the prediction; the linear head is not trained beside it.

State: `confidence` [N, K] float32, 4 K bytes per image of the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.methods.base import Labelled, Model, Prediction, Progress, StepResult, TokenModel, Unlabelled
from ferbench.methods.blocks.decoder import QueryDecoder, uniformity
from ferbench.methods.blocks.reduce import Reduction, reduce
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.partial import PartialLabel, write_rows

Phi = Literal["centred", "sigmoid", "softmax"]


@dataclass(frozen=True)
class PLLFEROptions:
    """decoder, revision: parts of the disambiguation module; uniform_weight: of L_uniform, 0 to leave it out.

    blocks: of the decoder; threshold, warmup_epochs, phi: of the revision; tau, uniformity: of Eq. 2.
    """

    decoder: bool = True
    revision: bool = True
    uniform_weight: float = 0.1
    threshold: float = 0.2
    warmup_epochs: int = 5
    phi: Phi = "centred"
    tau: float = 0.001
    uniformity: Literal["others", "printed"] = "others"
    blocks: int = 2
    decoder_dropout: float = 0.1
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be from 0 to below 1, not {self.threshold}")
        if self.tau <= 0 or self.uniform_weight < 0:
            raise ValueError("tau must be above 0 and uniform_weight at least 0")


class PLLFER(PartialLabel):
    Options = PLLFEROptions
    paper = "Wang et al., arXiv 2209.15402"
    options: PLLFEROptions

    def __init__(self, model: Model, options: PLLFEROptions) -> None:
        super().__init__(model, options)
        self.decoder: QueryDecoder | None = None
        if options.decoder:
            cast(TokenModel, model).head.requires_grad_(False)
            self.decoder = QueryDecoder(
                model.num_classes,
                model.feature_width,
                blocks=options.blocks,
                dropout=options.decoder_dropout,
                spread=options.uniform_weight > 0,
            )

    def logits(self, images: Tensor) -> Tensor:
        """[B, K] of images [B, 3, S, S]: the decoder's, or the linear head's without one."""
        if self.decoder is None:
            prediction: Prediction = self.model(images)
            return prediction.logits.float()
        tokens: Tensor = cast(TokenModel, self.model).tokens(images)
        decoded: Tensor = self.decoder(tokens)
        return decoded.float()

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        logits = self.logits(labelled.views["weak"])
        confidence = self.confidence[labelled.index]
        if self.options.revision and progress.epoch >= self.options.warmup_epochs:
            confidence = revise(confidence, logits.detach(), self.options.threshold, self.options.phi)
            write_rows(self.confidence, labelled.index, confidence)
        losses = {"pll": reduce(cross_entropy(logits, confidence), self.options.reduction)}
        if self.decoder is not None and self.options.uniform_weight > 0:
            spread = uniformity(self.decoder.queries, self.options.tau, with_self=self.options.uniformity == "printed")
            losses["uniform"] = self.options.uniform_weight * spread
        one_hot = (confidence.amax(dim=1) == 1).float().mean()
        return StepResult(losses, figures={"one-hot share": one_hot})

    def predict(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(dim=1)


def revise(confidence: Tensor, logits: Tensor, threshold: float, phi: Phi) -> Tensor:
    """Eqs. 3-4: rows of confidence [B, K] whose two best phi * C differ by more than `threshold` become one-hot."""
    weighed = confidence * _phi(logits, phi)
    best = weighed.argmax(dim=1)
    first = F.one_hot(best, confidence.shape[1]).to(confidence)
    second = weighed.masked_fill(first.bool(), -torch.inf).amax(dim=1)
    sure = weighed.amax(dim=1) - second > threshold
    return torch.where(sure.unsqueeze(1), first, confidence)


def _phi(logits: Tensor, kind: Phi) -> Tensor:
    if kind == "softmax":
        return logits.softmax(dim=1)
    return (logits - logits.mean(dim=1, keepdim=True) if kind == "centred" else logits).sigmoid()
