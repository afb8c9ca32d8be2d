"""SCN, the self-cure network: weigh each image by a learnt importance, and relabel unimportant ones that seem wrong.

Paper: Wang, Peng, Yang, Lu, Qiao, "Suppressing Uncertainties for Large-Scale Facial Expression Recognition", CVPR 2020.
Code: kaiwang960112/Self-Cure-Network. Of the paper the abstract and summaries of the equations were at hand, and what
its author says of it in the code's README and threads 12, 33, 83. An image of a batch of N has feature x, logits z.

    Eq. 1  a_i = sigmoid(w x_i + b), its importance
    Eq. 2  L_WCE = mean_i CE(a_i z_i, y_i)
    Eq. 3  L_RR = max(0, margin - (a_H - a_L))
    Eq. 4  a_H is the mean over the M = beta N largest importances, a_L the mean over the others
           L = g L_RR + (1 - g) L_WCE, with g = 1/2
    Eq. 5  from epoch 10 on: y_i becomes the predicted class where max p - p_{y_i} > 0.2, p = softmax(a_i z_i)

Recipe of the code: ResNet-18 (MS-Celeb-1M weights), 224 pixels, flip or Gaussian noise for half of the images, batches
of 64, Adam at 1e-3, weight decay 1e-4, 70 epochs, the rate times 0.9 after each. The paper's batches are of 1,024.

1. The paper relabels images of the low group alone, the code any (`relabel`, released: "all").
2. The two losses count one half each in the paper, one each in the code (`supervised_weight`, `rank_weight`).
3. margin is 0.15 with the paper's batches; for 64 the README trains with 0.07 (`margin`).
4. The code erases a rectangle of half of the images (`erasing`, released: 0.5); the paper's summaries do not say so.
5. The loss is of the labels before the step; a new label stays, and is the one that p is compared with from then on.
6. M is rounded down, ties go to the earlier image, and a group without images costs nothing.
7. The weighted logits are also what is tested, as in the code; that moves the scores and no prediction.
8. The paper also tries a learnt margin; not here. Of an image twice in a batch the last row counts.

State: per image of the data set 8 bytes, its label; -1 for those without one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ferbench.methods.base import Facts, Labelled, Model, Prediction, Progress, StepResult, Unlabelled, Views
from ferbench.methods.blocks.erasing import erase
from ferbench.methods.blocks.limits import above_zero, not_negative, share
from ferbench.methods.blocks.memory import latest
from ferbench.methods.blocks.reduce import gather_rows
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.partial import in_order
from ferbench.methods.single import Single


@dataclass(frozen=True)
class SCNOptions:
    """beta: share of the batch in the high group; margin: least distance of the groups' mean importances, in [0, 1].

    relabel_margin: of probabilities in Eq. 5; relabel_epoch: the first with Eq. 5, from 1; relabel: whose labels may
    change; supervised_weight, rank_weight: 1 - g and g; erasing: a probability. Defaults are the paper's.
    """

    beta: float = 0.7
    margin: float = 0.15
    relabel_margin: float = 0.2
    relabel_epoch: int = 10
    relabel: Literal["low", "all"] = "low"
    supervised_weight: float = 0.5
    rank_weight: float = 0.5
    erasing: float = 0.0

    def __post_init__(self) -> None:
        above_zero(self, "relabel_epoch")
        not_negative(self, "supervised_weight", "rank_weight")
        share(self, "beta", "margin", "relabel_margin", "erasing")


class SCN(Single):
    Options = SCNOptions
    released: ClassVar[Mapping[str, object]] = {
        "relabel": "all", "supervised_weight": 1.0, "rank_weight": 1.0, "margin": 0.07, "erasing": 0.5,
    }  # fmt: skip
    paper = "Wang et al., CVPR 2020"
    views = Views(labelled=("weak",))
    options: SCNOptions
    labels: Tensor  # [images], with those replaced
    given: Tensor  # [images]

    def __init__(self, model: Model, options: SCNOptions) -> None:
        super().__init__(model, options)
        self.importance = nn.Linear(model.feature_width, 1)

    def begin(self, facts: Facts) -> None:
        given = torch.full((facts.images,), -1, dtype=torch.int64, device=facts.labelled_index.device)
        given[facts.labelled_index] = facts.labelled_labels
        self.register_buffer("given", given, persistent=False)
        self.register_buffer("labels", given.clone())

    def weighted(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Importances [B] and weighted logits [B, K] in float32."""
        prediction: Prediction = self.model(images)
        importance = self.importance(prediction.features).float().sigmoid()
        return importance.squeeze(1), importance * prediction.logits.float()

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        options = self.options
        importance, logits = self.weighted(erase(labelled.views["weak"], options.erasing))
        loss = cross_entropy(logits, self.labels[labelled.index]).mean()
        ranked = rank_loss(gather_rows(importance), options.beta, options.margin)
        if progress.epoch + 1 >= options.relabel_epoch:
            self.relabel(importance, logits, labelled.index)
        losses = {"supervised": options.supervised_weight * loss, "rank": options.rank_weight * ranked}
        return StepResult(losses, figures={"relabelled": (self.labels != self.given).sum(dtype=torch.float32)})

    @torch.no_grad()
    def relabel(self, importance: Tensor, logits: Tensor, index: Tensor) -> None:
        """Eq. 5 on the rows of all processes, of which only the low group's may change."""
        rows = in_order(index)
        before = self.labels[rows]
        after = corrected(in_order(logits).softmax(dim=1), before, self.options.relabel_margin)
        if self.options.relabel == "low":
            after = torch.where(largest(in_order(importance), self.options.beta), before, after)
        self.labels.index_copy_(0, rows, after[latest(rows)])

    def predict(self, images: Tensor) -> Tensor:
        return self.weighted(images)[1].softmax(dim=1)


def high_count(rows: int, beta: float) -> int:
    """M: beta times the rows, rounded down; 0.7 * 90 is just below 63 in floating point, and 63 here."""
    return math.floor(beta * rows + 1e-9)


def largest(importance: Tensor, beta: float) -> Tensor:
    """Which of the rows [N] are the high group, [N] bool; ties go to the earlier row."""
    order = importance.detach().argsort(descending=True, stable=True)
    high = torch.zeros_like(importance, dtype=torch.bool)
    return high.index_fill_(0, order[: high_count(len(order), beta)], True)


def rank_loss(importance: Tensor, beta: float, margin: float) -> Tensor:
    """Eqs. 3 and 4 for importances [N], 0-d; 0 where a group is empty."""
    high = largest(importance, beta)
    count = high_count(len(importance), beta)
    if count in (0, len(importance)):
        return 0 * importance.sum()
    apart = (importance * high).sum() / count - (importance * ~high).sum() / (len(importance) - count)
    return (margin - apart).clamp(min=0)


def corrected(probabilities: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Eq. 5: the predicted classes where their probability [B, K] exceeds that of `labels` [B] by more than margin."""
    best, guess = probabilities.max(dim=1)
    own = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    return torch.where(best - own > margin, guess, labels)
