"""What a pre-training task is: an encoder, parts of its own beside it, and a loss.

`pretrain.py` trains any `Objective`; one class and one line in the table of `pretraining/__init__.py` make a new one.
A task that masks patches derives from `Masked` and says only what the masked patches should become (`targets`) and how
they are predicted (`reconstruct`). A task of another kind (contrast between views) derives from `Objective` itself,
names the views it wants, and may move a teacher or a queue in `after_step`.

As in a method's step nothing may wait for the device, and all state lies in parameters and buffers, so that a killed
run continues bit for bit. Only `encoder` is exported.

Shapes: B images of S x S pixels, L patches of P x P pixels (L = (S / P)^2, in rows), F numbers per target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ferbench.methods import View


class Objective(nn.Module, ABC):
    """A pre-training task around `encoder`. Subclasses set the class attributes and implement `step`.

    The constructor takes `(encoder, options, size)`: a backbone made for images of `size` pixels a side, and an
    instance of `Options`. It raises ValueError where they do not go together.
    """

    Options: ClassVar[type]  # a frozen dataclass: the paper's settings with the paper's values as defaults
    released: ClassVar[Mapping[str, object]] = {}  # what the authors' released code sets otherwise
    paper: ClassVar[str]  # citation, one line
    views: ClassVar[tuple[View, ...]] = ("weak",)  # augmented copies of each image that `step` gets, by name
    in_parts: ClassVar[bool] = True  # whether a batch's loss is the mean of its parts', done one after the other
    encoder: Any

    def __init__(self, encoder: nn.Module, options: Any, size: int) -> None:
        super().__init__()
        self.encoder, self.options, self.size = encoder, options, size

    @abstractmethod
    def step(self, views: Mapping[str, Tensor], noise: Tensor, fraction: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms (0-d) of one step.

        views: a tensor [B, 3, S, S], normalised, under each name in `views`
        noise: [B, patches] uniform in [0, 1), drawn from the run's seed for the whole batch, `patches` a column each
        fraction: 0-d, the share of training done
        """

    @property
    def patches(self) -> int:
        """Columns of `noise`: patches that may be masked, 0 for a task that masks nothing."""
        return 0

    def begin(self, steps: int) -> None:  # noqa: B027 - optional
        """Called once with the number of steps in all: the encoder's start is loaded, a checkpoint is not."""

    def after_step(self) -> None:  # noqa: B027 - optional
        """Called after the optimiser's step: momentum encoders, queues."""

    def panels(self, images: Tensor, noise: Tensor) -> Tensor | None:
        """[B, n, 3, S, S] normalised pictures that show what was learnt, left to right; None where there are none."""
        return None


class Masked(Objective):
    """Masked image modelling: predict something of the patches that were taken out.

    The loss is the mean of `error` over the masked patches alone. `mask_ratio` of the L patches, rounded as He et al.
    do (int(L * (1 - ratio)) stay), are masked in each image: a new random set each time.
    """

    mask_ratio: float

    @abstractmethod
    def targets(self, images: Tensor) -> Tensor:
        """[B, L, F]: what is to be predicted of every patch of images [B, 3, S, S]; carries no gradient."""

    @abstractmethod
    def reconstruct(self, images: Tensor, order: Tensor, kept: int) -> Tensor:
        """[B, L, F]: predictions for every patch from the patches order[:, :kept]; see `random_order`."""

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """[B, L]: loss of each patch, masked or not; the mean squared error here."""
        return (predicted.float() - target.float()).square().mean(dim=-1)

    @property
    def kept(self) -> int:
        """How many patches of an image stay visible."""
        return int(self.patches * (1 - self.mask_ratio))

    def step(self, views: Mapping[str, Tensor], noise: Tensor, fraction: Tensor) -> dict[str, Tensor]:
        images = views["weak"]
        order = random_order(noise)
        per_patch = self.error(self.reconstruct(images, order, self.kept), self.targets(images).detach())
        return {"reconstruction": masked_mean(per_patch, mask_of(order, self.kept))}


def random_order(noise: Tensor) -> Tensor:
    """[B, L] int64: each image's patches by rising noise; the first `kept` stay visible, the others are masked."""
    return noise.argsort(dim=1, stable=True)


def mask_of(order: Tensor, kept: int) -> Tensor:
    """[B, L] bool, True where a patch is masked, in the patches' own order."""
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place) >= kept


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B, L] where mask [B, L] is True; every image has as many."""
    return (values * mask).sum() / mask.sum()
