"""What a method remembers of images it has seen: the last ones in a ring, or a row per labelled image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferbench.methods.base import Facts


class RingQueue(nn.Module):
    """The last `length` features [d] with their class probabilities [K]; rows never written are zero."""

    features: Tensor
    probabilities: Tensor
    position: Tensor
    filled: Tensor

    def __init__(self, length: int, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(length, width))
        self.register_buffer("probabilities", torch.zeros(length, classes))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def full(self) -> Tensor:
        """Whether every row has been written, a 0-d bool."""
        return self.filled >= len(self.features)

    @torch.no_grad()
    def write(self, features: Tensor, probabilities: Tensor) -> None:
        """Put rows [n, d] and [n, K] over the oldest ones; of more than `length` rows the last ones stay."""
        features, probabilities = features[-len(self.features) :], probabilities[-len(self.features) :]
        rows = (self.position + torch.arange(len(features), device=features.device)) % len(self.features)
        self.features.index_copy_(0, rows, features.float())
        self.probabilities.index_copy_(0, rows, probabilities.float())
        self.position.add_(len(features)).remainder_(len(self.features))
        self.filled.add_(len(features)).clamp_(max=len(self.features))


class IndexedBank(nn.Module):
    """A unit feature [d] per labelled image, found by its position in the data set; random until first written."""

    features: Tensor  # [N_l, d]
    labels: Tensor  # [N_l]
    row_of: Tensor  # [images] int32

    def __init__(self, facts: Facts, width: int) -> None:
        super().__init__()
        size, device = len(facts.labelled_index), facts.labelled_index.device
        self.register_buffer("features", F.normalize(torch.randn(size, width), dim=1).to(device))
        self.register_buffer("labels", facts.labelled_labels.clone())
        row_of = torch.zeros(facts.images, dtype=torch.int32, device=device)
        row_of[facts.labelled_index] = torch.arange(size, dtype=torch.int32, device=device)
        self.register_buffer("row_of", row_of)

    @torch.no_grad()
    def write(self, features: Tensor, index: Tensor) -> None:
        """Rows [n, d] for positions [n]; of a position given twice the last row counts."""
        self.features.index_copy_(0, self.row_of[index].long(), features[latest(index)].float())


def latest(index: Tensor) -> Tensor:
    """For each entry of `index` [n] the last place where the same one stands: rows taken by it may be written in any
    order."""
    places = torch.arange(len(index), device=index.device)
    return torch.where(index.unsqueeze(1) == index, places, -1).amax(dim=1)
