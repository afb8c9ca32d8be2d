"""EAC, erasing attention consistency: an image and its mirror image must show each class in the same place.

Paper: Zhang, Wang, Ling, Deng, "Learn From All: Erasing Attention Consistency for Noisy Label Facial Expression
Recognition", ECCV 2022. Code: zyh-uaiaaaa/Erasing-Attention-Consistency. Only the abstract, the code and its author's
words (threads 2, 3, 5, 21) were at hand, so the steps below are the code's, unnumbered there. F [D, H, W] is the last
feature map of an image, A' belongs to its mirror image, W [K, D] are the weights of the linear head.

    attention    A_k(h, w) = sum_d W_kd F_d(h, w), for all K classes; the class activation map without its bias
    consistency  l = mean over images, k, h, w of (A_k(h, w) - A'_k(h, W - 1 - w))^2
    loss         CE of the images, not of their mirrors, + 5 l

A rectangle of half of the images is erased first, so that no part of the face can be all the evidence.

Recipe of the code: ResNet-50 (a face recogniser's weights), 224 pixels, Gaussian noise for half of the images, batches
of 32, Adam at 1e-4 (2e-4 for a ResNet-18), weight decay 1e-4, 60 epochs, the rate times 0.9 after each; the author
reports the mean of the last five epochs, and for FERPlus seven classes.

1. `mirror`: "erased" mirrors the erased image, as the code does with clean labels; with its lists of wrong labels it
   mirrors the whole image and erases another rectangle of it ("each").
2. The head's weights get no gradient through the maps, as in the code; both images' features do.
3. The mirror image passes through the network by itself, in training mode like the image, as in the code.
4. Logits come from the mean of the map, which is what a ConvNet's pooled feature is. A transformer's patches form a map
   as well, but its prediction is then theirs and not its class token's, which is ours. A recipe's
   `normalise_features` does not reach this method.

State: none beside the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn

from ferbench.methods.base import Labelled, Progress, StepResult, TokenModel, Unlabelled, Views
from ferbench.methods.blocks.erasing import erase
from ferbench.methods.blocks.limits import not_negative, share
from ferbench.methods.consistency import cross_entropy
from ferbench.methods.single import Single


@dataclass(frozen=True)
class EACOptions:
    """The code's values. consistency_weight: of l, in squared logits; erasing: a probability.

    mirror: whether the erased image is mirrored, or the whole one and erased anew.
    """

    consistency_weight: float = 5.0
    erasing: float = 0.5
    mirror: Literal["erased", "each"] = "erased"

    def __post_init__(self) -> None:
        not_negative(self, "consistency_weight")
        share(self, "erasing")


class EAC(Single):
    Options = EACOptions
    paper = "Zhang et al., ECCV 2022"
    views = Views(labelled=("weak",))
    options: EACOptions

    def logits(self, cells: Tensor) -> Tensor:
        """[B, K] in float32 of the cells [B, H * W, D] of the last maps."""
        model = cast(TokenModel, self.model)
        logits: Tensor = model.head(model.dropout(cells.mean(dim=1)))
        return logits.float()

    def step(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        whole, chance, model = labelled.views["weak"], self.options.erasing, cast(TokenModel, self.model)
        images = erase(whole, chance)
        mirrored = images.flip(-1) if self.options.mirror == "erased" else erase(whole.flip(-1), chance)
        cells, others = model.tokens(images), model.tokens(mirrored)
        weight = cast(nn.Linear, model.head).weight.detach()
        apart = consistency(attention(cells, weight), attention(others, weight))
        losses = {
            "supervised": cross_entropy(self.logits(cells), labelled.labels).mean(),
            "consistency": self.options.consistency_weight * apart,
        }
        return StepResult(losses)

    def predict(self, images: Tensor) -> Tensor:
        return self.logits(cast(TokenModel, self.model).tokens(images)).softmax(dim=1)


def attention(cells: Tensor, weight: Tensor) -> Tensor:
    """Maps A [B, K, H, H] in float32 of the cells [B, H * H, D] of square maps, row by row, and weights [K, D]."""
    side = math.isqrt(cells.shape[1])
    maps = (cells.float() @ weight.float().T).transpose(1, 2)
    return maps.reshape(len(maps), len(weight), side, side)


def consistency(maps: Tensor, mirrored: Tensor) -> Tensor:
    """Mean squared difference, 0-d, of maps [B, K, H, W] and the mirrored maps of the mirror images."""
    return (maps - mirrored.flip(-1)).square().mean()
