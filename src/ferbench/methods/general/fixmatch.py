"""FixMatch: the confident prediction on a weak view is the label of the strong view.

Paper: Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020;
written as ReMoP's L_base (Li et al., IJCAI 2025, Eq. 3).

Where the FER papers' released codes differ from the text, and what is done here:
1. The text sums over the batch, the codes take means, the unlabelled mean over all U images, discarded ones counted as
   zero: `reduction`, default mean.
2. Labelled, weak and strong images go through the network in three passes, each with its own batch statistics, the weak
   one in training mode without gradient (dropout and batch statistics make the labels noisy): `joint=False`. With
   `joint=True` the labelled and strong images share one pass, which is cheaper and changes the batch statistics.
3. `usb`: one pass over all three (`joint="all"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ferbench.methods.blocks.reduce import Reduction
from ferbench.methods.consistency import Consistency, Joint


@dataclass(frozen=True)
class FixMatchOptions:
    """threshold: tau of Eq. 3; unlabelled_weight: of the unsupervised term; joint: which views share a pass."""

    threshold: float = 0.95
    unlabelled_weight: float = 1.0
    reduction: Reduction = "mean"
    joint: Joint = False


class FixMatch(Consistency):
    """Labels by `Consistency.pseudo_labels`, losses by `Consistency.losses`; no state."""

    Options = FixMatchOptions
    released: ClassVar[Mapping[str, object]] = {}
    usb: ClassVar[Mapping[str, object]] = {"joint": "all"}
    paper = "Sohn et al., NeurIPS 2020"
    options: FixMatchOptions

    def thresholds(self) -> float:
        return self.options.threshold
