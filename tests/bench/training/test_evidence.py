"""What a record keeps of its test images: the numbers come back from it, and what was changed by hand is noticed."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from ferbench.bench.training.recording import evidence
from ferbench.bench.training.recording.metrics import confusion, metrics, of_counts, recalls

LABELS = np.array([2, 0, 1, 0, 2, 2, 0, 1, 2])
PREDICTED = np.array([2, 0, 0, 1, 2, 0, 0, 1, 2])
SCORES = {"main": np.eye(4, dtype=np.float32)[PREDICTED], "other": np.eye(4, dtype=np.float32)[LABELS]}
CLASSES = ("neutral", "happiness", "fear", "contempt")


def record() -> dict[str, Any]:
    found = {"evidence": evidence.to_json(SCORES, LABELS, "images", CLASSES)}
    again: dict[str, Any] = json.loads(json.dumps(found))
    return again


def test_counts_and_bits_come_back() -> None:
    kept = evidence.from_record(record())
    assert kept is not None
    assert (kept.images, kept.classes, list(kept.rules)) == ("images", CLASSES, ["main", "other"])
    assert kept.headline.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 3, 0], [0, 0, 0, 0]]
    # class 0 stands at 1, 3, 6; class 1 at 2, 7; class 2 at 0, 4, 5, 8
    assert kept.headline.right.tolist() == [True, False, True, False, True, True, True, False, True]
    assert kept.rules["other"].right.all()
    assert of_counts(kept.headline.confusion) == metrics(SCORES["main"], LABELS)


def test_recall_of_a_class_without_images_is_nothing() -> None:
    stored = record()["evidence"]["rules"]["main"]["recall"]
    assert stored == [pytest.approx(66.6667), 50.0, 75.0, None]


def test_bits_are_sorted_by_class_and_give_no_order_of_labels_away() -> None:
    """The same answers to the same images in the split's order, with two labels exchanged: other bits, other counts."""
    shuffled = np.array([2, 0, 1, 0, 2, 2, 1, 0, 2])
    other = evidence.answers(SCORES["main"], shuffled)
    assert other.sizes.tolist() == evidence.answers(SCORES["main"], LABELS).sizes.tolist()
    assert other.confusion.tolist() != evidence.answers(SCORES["main"], LABELS).confusion.tolist()


def test_metrics_are_scikit_learns_on_random_answers() -> None:
    rng = np.random.default_rng(0)
    for classes in (2, 7, 8):
        scores, labels = rng.normal(size=(200, classes)), rng.integers(0, classes, 200)
        labels[labels == classes - 1] = 0  # a class that is predicted and never occurs
        found, predicted = metrics(scores, labels), scores.argmax(axis=1)
        present = np.unique(labels)
        assert (
            confusion(predicted, labels, classes).tolist()
            == confusion_matrix(labels, predicted, labels=range(classes)).tolist()
        )
        assert found["mean"] == pytest.approx(100 * np.mean([(predicted[labels == k] == k).mean() for k in present]))
        expected = f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
        assert found["f1"] == pytest.approx(100 * float(expected))


def test_no_evidence_in_records_of_old() -> None:
    assert evidence.from_record({"metrics": {}}) is None


def _flip(document: dict[str, Any]) -> None:
    rule = document["evidence"]["rules"]["main"]
    bits = bytearray(base64.b64decode(rule["right"]))
    bits[0] ^= 0b0100_0000
    rule["right"] = base64.b64encode(bytes(bits)).decode()


def _count(document: dict[str, Any]) -> None:
    document["evidence"]["rules"]["main"]["confusion"][0][0] += 1


def _move(document: dict[str, Any]) -> None:
    counts = document["evidence"]["rules"]["main"]["confusion"]
    counts[0][0], counts[0][1] = counts[0][0] + 1, counts[0][1] - 1


def _recall(document: dict[str, Any]) -> None:
    document["evidence"]["rules"]["main"]["recall"][0] = 99.0


def _classes(document: dict[str, Any]) -> None:
    document["evidence"]["classes"].pop()


def _shape(document: dict[str, Any]) -> None:
    document["evidence"]["rules"]["main"]["confusion"] = [[1, 2]]


def _text(document: dict[str, Any]) -> None:
    document["evidence"]["rules"]["main"]["right"] = "no base64!"


def _none(document: dict[str, Any]) -> None:
    document["evidence"]["rules"] = {}


def _list(document: dict[str, Any]) -> None:
    document["evidence"] = [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip, "bits and its confusion counts of rule main do not agree"),
        (_count, "bits of rule main are not one|do not agree"),
        (_move, "do not agree"),
        (_recall, "recalls of rule main"),
        (_classes, "not of the 3 classes"),
        (_shape, "no K x K counts"),
        (_text, "garbled"),
        (_none, "no inference rule"),
        (_list, "lacks or garbles"),
    ],
)
def test_a_hand_on_the_evidence_is_noticed(change: Callable[[dict[str, Any]], None], message: str) -> None:
    document = copy.deepcopy(record())
    change(document)
    with pytest.raises(ValueError, match=message) as caught:
        evidence.from_record(document)
    assert "\n" not in str(caught.value)


def test_which_images_are_told_apart_by_data_set_and_by_order() -> None:
    index = np.array([1, 5, 9])
    known = evidence.images_hash("f", index)
    assert known == evidence.images_hash("f", index.astype(np.int32))
    assert known != evidence.images_hash("g", index)
    assert known != evidence.images_hash("f", index[::-1])


def test_recalls_of_counts() -> None:
    assert np.isnan(recalls(np.array([[0, 0], [1, 3]]))[0])
    assert recalls(np.array([[0, 0], [1, 3]]))[1] == 75.0
