"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ferbench.bench.training.recording.metrics import metrics


def one_hot(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_three_classes_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    found = metrics(one_hot([0, 0, 0, 1, 1, 2, 2], 3), labels)
    assert found["overall"] == pytest.approx(100 * 5 / 7)
    assert found["mean"] == pytest.approx(100 * (3 / 4 + 1 / 2 + 1) / 3)
    # F1 = 2 TP / (2 TP + FP + FN): 6/7, 2/4, 2/3
    assert found["f1"] == pytest.approx(100 * (6 / 7 + 1 / 2 + 2 / 3) / 3)


def test_a_class_without_test_images_does_not_count() -> None:
    """Class 1 never occurs in the labels, but is predicted once: the mean is over classes 0 and 2 alone."""
    labels = np.array([0, 0, 2, 2])
    found = metrics(one_hot([0, 1, 2, 2], 4), labels)
    assert found["overall"] == pytest.approx(75.0)
    assert found["mean"] == pytest.approx(75.0)
    assert found["f1"] == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_a_class_that_is_never_right_counts_as_zero() -> None:
    found = metrics(one_hot([0, 0, 0], 2), np.array([0, 0, 1]))
    assert found["mean"] == pytest.approx(50.0)
    assert found["f1"] == pytest.approx(100 * (4 / 5 + 0) / 2)


def test_scores_need_not_be_probabilities_and_ties_go_to_the_lower_class() -> None:
    scores = np.array([[-3.0, -1.0, -2.0], [5.0, 5.0, 1.0]], dtype=np.float32)
    assert metrics(scores, np.array([1, 0]))["overall"] == 100.0
    assert metrics(scores, np.array([1, 1]))["overall"] == 50.0


def test_all_right_is_a_hundred_everywhere() -> None:
    labels = np.arange(7)
    assert metrics(one_hot(labels.tolist(), 7), labels) == {"overall": 100.0, "mean": 100.0, "f1": 100.0}
