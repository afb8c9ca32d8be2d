"""FER+ label rules: from an image's ten vote counts to one class, a distribution or a set of candidates.

Source: Barsoum, Zhang, Canton Ferrer and Zhang, "Training Deep Networks for Facial Expression Recognition with
Crowd-Sourced Label Distribution", ICMI 2016, section 4, and the reader the authors published with the labels.

Legend: N images; the ten columns are the eight classes in Microsoft's order, then "unknown" and "NF" (not a face).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
COLUMNS = (*CLASSES, "unknown", "NF")
UNKNOWN = COLUMNS.index("unknown")
NOT_FACE = COLUMNS.index("NF")

OUTLIER = 1  # a single vote for a class is taken for a slip of the tagger
MOST_PICKS = 3

Votes = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """What a rule makes of N images.

    labels:  [N] int64, column decided on: a class (0-7), UNKNOWN or NOT_FACE
    targets: [N, 8] float32, per class: the votes (rules with one label), the distribution, which sums to 1
             (probability, crossentropy), or 1 for each candidate (multi_target); the latter two all 0 where no class
             is decided on
    """

    labels: NDArray[np.int64]
    targets: NDArray[np.float32]


def decide(votes: NDArray[np.integer], rule: str) -> Decision:
    """Apply `rule`, one of RULES, to votes [N, 10]."""
    return RULES[rule](votes.astype(np.float64))


def without_outliers(votes: Votes) -> Votes:
    """The votes with every count of at most one set to zero."""
    return np.where(votes <= OUTLIER, 0.0, votes)


def _majority(votes: Votes) -> Decision:
    """The top class where it has more than half of the votes left after outlier removal."""
    cleaned = without_outliers(votes)
    winning = cleaned.max(axis=1) > 0.5 * cleaned.sum(axis=1)
    return _one_label(votes, np.where(winning, cleaned.argmax(axis=1), UNKNOWN))


def _argmax10(votes: Votes) -> Decision:
    """The column with most raw votes, the first of equals; not an official rule, but a widespread one."""
    return _one_label(votes, np.where(votes.any(axis=1), votes.argmax(axis=1), UNKNOWN))


def _argmax8(votes: Votes) -> Decision:
    """The class with most raw votes, the first of equals, whatever "unknown" and "NF" got."""
    emotions = votes[:, : len(CLASSES)]
    return _one_label(votes, np.where(emotions.any(axis=1), emotions.argmax(axis=1), UNKNOWN))


def _distribution(votes: Votes) -> Decision:
    """The classes of `_picks`, weighted by their votes; none where they are more than three or cover half or less."""
    vectors, vector_of = np.unique(without_outliers(votes), axis=0, return_inverse=True)
    picked = np.zeros_like(vectors)
    for row, counts in enumerate(vectors.tolist()):
        picks = _picks(counts)
        if len(picks) <= MOST_PICKS and sum(counts[k] for k in picks) > 0.5 * sum(counts):
            picked[row, picks] = vectors[row, picks]
    picked = picked[vector_of.reshape(-1)]
    labels = np.where(picked.any(axis=1), picked.argmax(axis=1), UNKNOWN)
    return _several_labels(labels, picked / np.maximum(picked.sum(axis=1, keepdims=True), 1.0))


def _picks(counts: list[float]) -> list[int]:
    """Columns in falling order of votes, all equals at a time, until 75 % of the votes or three columns are covered.

    "unknown" or "NF" ends the picking; it is itself picked only where no class came with or before it.
    """
    picks: list[int] = []
    for count in sorted({count for count in counts if count > 0}, reverse=True):
        tied = [column for column, votes in enumerate(counts) if votes == count]
        picks += [column for column in tied if column < UNKNOWN]
        if tied[-1] >= UNKNOWN:
            return picks or tied[:1]
        if len(picks) >= MOST_PICKS or sum(counts[k] for k in picks) >= 0.75 * sum(counts):
            break
    return picks


def _multi_target(votes: Votes) -> Decision:
    """Every class with at least 30 % of the votes, all equally right; discarded where they cover no more than half."""
    cleaned = without_outliers(votes)
    total = cleaned.sum(axis=1, keepdims=True)
    picked = np.where(cleaned >= 0.3 * total, cleaned, 0.0)
    kept = picked.sum(axis=1) > 0.5 * total[:, 0]
    labels = np.where(kept, picked.argmax(axis=1), UNKNOWN)
    return _several_labels(labels, (picked > 0).astype(np.float64))


def _one_label(votes: Votes, labels: NDArray[np.int64]) -> Decision:
    return Decision(labels, votes[:, : len(CLASSES)].astype(np.float32))


def _several_labels(labels: NDArray[np.int64], targets: Votes) -> Decision:
    return Decision(labels, np.where(labels[:, None] < UNKNOWN, targets[:, : len(CLASSES)], 0.0).astype(np.float32))


RULES: dict[str, Callable[[Votes], Decision]] = {
    "majority": _majority,
    "argmax10": _argmax10,
    "argmax8": _argmax8,
    "probability": _distribution,
    "crossentropy": _distribution,
    "multi_target": _multi_target,
}
SEVERAL_LABELS = ("probability", "crossentropy", "multi_target")
