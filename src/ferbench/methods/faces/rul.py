"""RUL, relative uncertainty learning: two images are mixed by their uncertainties, and the mixture must show both.

Paper: Zhang, Wang, Deng, "Relative Uncertainty Learning for Facial Expression Recognition", NeurIPS 2021. Code:
zyh-uaiaaaa/Relative-Uncertainty-Learning. Only the abstract, the code and its author's words (thread 5) were at hand:
the steps below are the code's, unnumbered there. Image i is paired with j = pi(i), pi a random order of the batch.

    features     m_i, from one branch over the encoder's feature
    uncertainty  s_i = mean over d of exp(v_id), v_i from another branch
    mixture      f_i = (s_i m_i + s_j m_j) / (s_i + s_j)
    add-up loss  mean_i of (CE(W f_i + b, y_i) + CE(W f_i + b, y_j)) / 2

The mixture shows both labels where the more uncertain image, the harder one, has the larger share. Tested is W m_i + b.

Recipe of the code: ResNet-18 (MS-Celeb-1M weights), 224 pixels, flip or Gaussian noise for half of the images, batches
of 64, Adam at 2e-4 and ten times that for W and b (`head_rate`), weight decay 1e-4, 60 epochs, the rate times 0.9
after each.

1. The branches read the encoder's pooled feature; the code's read all 7 x 7 cells of its last map, which fixes the
   input's size. Their layers are the code's otherwise: normalisation without weights, dropout, a linear layer to
   `width` numbers, normalisation.
2. The linear head of the model is not trained; W and b stand in its place, and a recipe's dropout does not reach them.
3. The code erases a rectangle of half of the images (`erasing`, released: 0.5); the abstract does not speak of it.
4. With several processes each pairs the images of its own part of the batch.

State: none beside the weights and the running statistics of four normalisations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ferbench.methods.base import Labelled, Model, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.erasing import erase
from ferbench.methods.blocks.limits import above_zero, share
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.single import Single

NORM_EPS = 2e-5  # of the branches' normalisations, as in the code


@dataclass(frozen=True)
class RULOptions:
    """The code's values. width: of the features m and v, in numbers; dropout: of the branches, a probability.

    head_rate: learning rate of the classifier over that of all else; erasing: probability.
    """

    width: int = 64
    dropout: float = 0.4
    head_rate: float = 10.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        above_zero(self, "width", "head_rate")
        share(self, "dropout", "erasing")


class RUL(Single):
    Options = RULOptions
    released: ClassVar[Mapping[str, object]] = {"erasing": 0.5}
    paper = "Zhang et al., NeurIPS 2021"
    views = Views(labelled=("weak",))
    options: RULOptions

    def __init__(self, model: Model, options: RULOptions) -> None:
        super().__init__(model, options)
        model.head.requires_grad_(False)  # the classifier stands in its place
        self.features = branch(model.feature_width, options)
        self.log_variance = branch(model.feature_width, options)
        self.classifier = nn.Linear(options.width, model.num_classes)

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        prediction: Prediction = self.model(erase(labelled.views["weak"], self.options.erasing))
        features, log_variance = self.features(prediction.encoded), self.log_variance(prediction.encoded).float()
        other = torch.randperm(len(features), device=features.device)
        logits = self.classifier(mix(features, log_uncertainty(log_variance), other))
        return StepResult({"add_up": add_up(logits, labelled.labels, other)})

    def predict(self, images: Tensor) -> Tensor:
        prediction: Prediction = self.model(images)
        logits: Tensor = self.classifier(self.features(prediction.encoded))
        return logits.float().softmax(dim=1)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        fast = list(self.classifier.parameters())
        slow = [p for p in self.parameters() if p.requires_grad and all(p is not other for other in fast)]
        return [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * self.options.head_rate}]


def branch(inputs: int, options: RULOptions) -> nn.Sequential:
    """Feature [B, D] -> [B, width]."""
    return nn.Sequential(
        nn.BatchNorm1d(inputs, eps=NORM_EPS, affine=False),
        nn.Dropout(options.dropout),
        nn.Linear(inputs, options.width),
        nn.BatchNorm1d(options.width, eps=NORM_EPS),
    )


def log_uncertainty(log_variance: Tensor) -> Tensor:
    """log s [B] of v [B, width]."""
    return log_variance.logsumexp(dim=1) - math.log(log_variance.shape[1])


def mix(features: Tensor, log_s: Tensor, other: Tensor) -> Tensor:
    """The mixtures [B, width] of features [B, width] with those of the rows `other` [B]; s_i / (s_i + s_j) is the
    sigmoid of log s_i - log s_j, which no size of s can overflow."""
    own = (log_s - log_s[other]).sigmoid().unsqueeze(1)
    return own * features + (1 - own) * features[other]


def add_up(logits: Tensor, labels: Tensor, other: Tensor) -> Tensor:
    """The mixtures' cross-entropy with both labels, one half each, 0-d."""
    return (0.5 * cross_entropy(logits, labels) + 0.5 * cross_entropy(logits, labels[other])).mean()
