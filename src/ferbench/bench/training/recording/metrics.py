"""Test metrics in percent: overall accuracy, mean per-class accuracy, macro F1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion(predicted: NDArray[np.integer], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts [K, K] of the images of each class (row) by the class predicted for them (column)."""
    cells = labels * classes + predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def metrics(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, float]:
    """scores [N, K], labels [N]. The mean accuracy and F1 are over the classes that occur in `labels`.

    A tie goes to the lower class. F1 of a class is 2 TP / (2 TP + FP + FN).
    """
    return of_counts(confusion(scores.argmax(axis=1), labels, scores.shape[1]))


def recalls(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share [K] of each class's images that are right, in percent; NaN for a class without images."""
    sizes = counts.sum(axis=1)
    found: NDArray[np.float64] = np.where(sizes > 0, 100.0 * counts.diagonal() / np.maximum(sizes, 1), np.nan)
    return found


def of_counts(counts: NDArray[np.int64]) -> dict[str, float]:
    """The same from confusion counts [K, K] alone."""
    right, given, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    present = np.flatnonzero(given)
    recalls = right[present] / given[present]
    f1 = 2 * right[present] / (given + predicted)[present]
    return {
        "overall": 100.0 * float(right.sum() / counts.sum()),
        "mean": 100.0 * float(recalls.mean()),
        "f1": 100.0 * float(f1.mean()),
    }
