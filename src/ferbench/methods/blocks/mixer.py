"""Mixup of a union of batches, and passes over the mixture with batch statistics of one part."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.methods.blocks.modes import kept_statistics


def mixup(images: Tensor, targets: Tensor, alpha: float, *, per_sample: bool = False) -> tuple[Tensor, Tensor]:
    """images [N, 3, S, S] and targets [N, K], each mixed with another of a random order; the first stays the larger.

    The share is max(l, 1 - l) with l from Beta(alpha, alpha), one for all or one per image.
    """
    concentration = torch.full((len(images) if per_sample else 1,), alpha, device=images.device)
    drawn = torch.distributions.Beta(concentration, concentration, validate_args=False).sample()
    share = torch.maximum(drawn, 1 - drawn)
    other = torch.randperm(len(images), device=images.device)
    image_share = share.view(-1, 1, 1, 1)
    mixed = image_share * images + (1 - image_share) * images[other]
    return mixed, share.view(-1, 1) * targets + (1 - share.view(-1, 1)) * targets[other]


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """[B, K] float32."""
    return F.one_hot(labels, classes).float()


def chunked(
    model: nn.Module, images: Tensor, size: int, *, interleave: bool, statistics: Literal["first", "last"] = "first"
) -> Tensor:
    """Logits [N, K] from passes over chunks of `size` images, one of which moves the running batch statistics.

    interleave: every n-th image forms a chunk, so that each has its share of labelled and unlabelled ones; else chunks
    are cut in order and the first holds the labelled ones.
    """
    count, total = -(-len(images) // size), len(images)
    everything = torch.arange(total, device=images.device)
    rows = [everything[i::count] for i in range(count)] if interleave else list(torch.split(everything, size))
    moving = 0 if statistics == "first" else count - 1
    logits: list[Tensor] = []
    for number, chosen in enumerate(rows):
        with nullcontext() if number == moving else kept_statistics(model):
            logits.append(model(images[chosen]).logits.float())
    if not interleave:
        return torch.cat(logits)
    return torch.zeros_like(torch.cat(logits)).index_copy(0, torch.cat(rows), torch.cat(logits))
