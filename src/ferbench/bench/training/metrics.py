"""Test metrics in percent: overall accuracy, mean per-class accuracy, macro F1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score


def metrics(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, float]:
    """scores [N, K], labels [N]. The mean accuracy and F1 are over the classes that occur in `labels`."""
    predicted = scores.argmax(axis=1)
    classes = range(scores.shape[1])
    counts = confusion_matrix(labels, predicted, labels=classes)
    present = np.flatnonzero(counts.sum(axis=1))
    recalls = counts.diagonal()[present] / counts.sum(axis=1)[present]
    return {
        "overall": 100.0 * float(counts.trace() / counts.sum()),
        "mean": 100.0 * float(recalls.mean()),
        "f1": 100.0 * float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
    }
