"""What the partial-label methods share: a row of class weights per training image, kept in a table.

Legend: N images of the data set, B rows of a batch, K classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ferbench.methods.base import Facts, Views
from ferbench.methods.blocks.reduce import processes, whole_batch
from ferbench.methods.single import Single

TINY = 1e-30  # far below any float32 probability that matters, far above the smallest normal number


class PartialLabel(Single):
    """Base of the methods that learn from candidate sets; not a method itself. Class weights start uniform on the set.

    State: `confidence`, 4 K bytes per image of the data set. `candidates` are facts of the run and not saved.
    """

    takes_candidates: ClassVar[bool] = True
    views = Views(labelled=("weak",))
    candidates: Tensor  # [N, K] bool
    confidence: Tensor  # [N, K] float32

    def begin(self, facts: Facts) -> None:
        assert facts.candidates is not None
        self.register_buffer("candidates", facts.candidates, persistent=False)
        self.register_buffer("confidence", uniform(facts.candidates))


def uniform(candidates: Tensor) -> Tensor:
    """C = Y / |Y| in float32, [N, K]; an empty set gives zeros."""
    weights = candidates.float()
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1)


def restrict(probabilities: Tensor, candidates: Tensor) -> Tensor:
    """Probabilities [B, K] within the candidate sets, brought to sum 1; uniform where all of them underflow."""
    inside = probabilities * candidates
    total = inside.sum(dim=1, keepdim=True)
    return torch.where(total > TINY, inside / total.clamp(min=TINY), uniform(candidates))


def write_rows(table: Tensor, index: Tensor, rows: Tensor) -> None:
    """table[index] = rows for the rows of all processes, in place; of an image that stands twice the first row counts.

    table [N, K], index [B], rows [B, K]. Every row of one image is written with the same values, so the result does
    not depend on the order in which a device writes.
    """
    index, rows = in_order(index), in_order(rows)
    first = (index.unsqueeze(1) == index).byte().argmax(dim=1)
    table.index_copy_(0, index, rows[first])


def in_order(rows: Tensor) -> Tensor:
    """The rows [B, ...] of all processes in the order of the whole batch, of which process r has every world-th row
    from r on; no gradient."""
    parts = whole_batch(rows).reshape(processes(), *rows.shape)
    return parts.transpose(0, 1).reshape(-1, *rows.shape[1:])
