"""MoCo: two views of an image are to be more alike than an image and those of past batches.

Paper: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, which PLL-FER cites
for the MoCo row of its Table VII (Table III: SGD, lr 0.03, batch 256, 200 epochs, no warm-up: MoCo's own settings). A
query of one view, a key of the other through an average of the encoder, InfoNCE against a queue of past keys.

1. Views: the paper's random crop, colour jitter, grey and flip are here the strong view, twice.
2. No shuffling of batch normalisation: that needs several devices. An encoder with batch normalisation may find its key
   by the batch's statistics; a vision transformer has none.
3. The queue starts empty and its empty rows take no part; in the code it starts with random unit vectors.
4. `queue`: 65,536 in the paper, for 1.3 million images; it should be well below the number of images.
5. `head`: one linear layer in the paper; "mlp" is MoCo v2's (whose temperature is 0.2).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.bench.pretraining.objective import Objective
from ferbench.methods import View
from ferbench.methods.blocks.reduce import whole_batch
from ferbench.methods.blocks.teacher import Following


@dataclass(frozen=True)
class MoCoOptions:
    """momentum: of the key encoder, per step; temperature: of InfoNCE; width: of the contrastive space."""

    momentum: float = 0.999
    temperature: float = 0.07
    queue: int = 65536
    width: int = 128
    head: Literal["linear", "mlp"] = "linear"


class MoCo(Objective):
    Options = MoCoOptions
    paper = "He et al., CVPR 2020"
    views: ClassVar[tuple[View, ...]] = ("strong", "strong2")
    in_parts = False  # the keys of one part would be negatives of the next
    queue: Tensor  # [Q, width] unit rows
    filled: Tensor  # [Q] bool
    position: Tensor  # 0-d int64: the row that is written next

    def __init__(self, encoder: nn.Module, options: MoCoOptions, size: int) -> None:
        super().__init__(encoder, options, size)
        if options.queue < 1:
            raise ValueError("the queue needs at least one row")
        wide = self.encoder.num_features
        last = nn.Linear(wide, options.width)
        self.head = last if options.head == "linear" else nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), last)
        self.keys = copy.deepcopy(nn.Sequential(self.encoder, self.head)).requires_grad_(False)
        self.following = Following()
        self.register_buffer("queue", torch.zeros(options.queue, options.width))
        self.register_buffer("filled", torch.zeros(options.queue, dtype=torch.bool))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def begin(self, steps: int) -> None:
        """The keys' encoder starts where the queries' does, which may have been loaded since."""
        self.keys.load_state_dict(nn.Sequential(self.encoder, self.head).state_dict())

    def step(self, views: Mapping[str, Tensor], noise: Tensor, fraction: Tensor) -> dict[str, Tensor]:
        first, second = (views[name] for name in self.views)
        query = F.normalize(self.head(self.encoder(first)).float(), dim=1)
        with torch.no_grad():
            key = F.normalize(self.keys(second).float(), dim=1)
        loss = info_nce(query, key, self.queue.clone(), self.filled, self.options.temperature)
        self.enqueue(whole_batch(key))
        return {"contrast": loss.mean()}

    @torch.no_grad()
    def enqueue(self, key: Tensor) -> None:
        """Keys [B, width] take the place of the oldest rows; the last ones alone where they are more than all rows."""
        length = len(self.queue)
        key = key[-length:]
        rows = (self.position + torch.arange(len(key), device=key.device)) % length
        self.queue.index_copy_(0, rows, key)
        self.filled.index_fill_(0, rows, True)
        self.position.add_(len(key)).remainder_(length)

    @torch.no_grad()
    def after_step(self) -> None:
        """The key encoder follows: parameters by the average, statistics as they are."""
        self.following.step(self.keys, nn.Sequential(self.encoder, self.head), self.options.momentum)


def info_nce(query: Tensor, key: Tensor, queue: Tensor, filled: Tensor, temperature: float) -> Tensor:
    """[B]: minus the log-probability of the own key among it and the filled rows of the queue (the paper's Eq. 1)."""
    with torch.autocast(query.device.type, enabled=False):  # else the products are in half precision
        own = (query * key).sum(dim=1, keepdim=True)
        others = (query @ queue.T).masked_fill(~filled, -torch.inf)
    return -(torch.cat([own, others], dim=1) / temperature).log_softmax(dim=1)[:, 0]
