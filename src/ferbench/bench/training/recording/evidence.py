"""What a record keeps so that its numbers can be worked out again, and compared image by image.

For each inference rule: the confusion counts, the recall of each class, and one bit per test image, right or wrong. The
bits are sorted by true class, and within a class they are in the split's order: so they pair with those of any other
run on the same images, per class too, and they tell nobody the label of an image.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.training.recording.metrics import confusion, recalls


@dataclass(frozen=True)
class Answers:
    """What one inference rule said of N test images of K classes.

    confusion: counts [K, K], true class by predicted class. right: [N] bits, by true class, then in the split's order.
    """

    confusion: NDArray[np.int64]
    right: NDArray[np.bool_]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Test images [K] of each class."""
        counts: NDArray[np.int64] = self.confusion.sum(axis=1)
        return counts


@dataclass(frozen=True)
class Evidence:
    """The answers of a run's inference rules, the headline rule first.

    images: a hash of which images were tested, in which order; runs with the same one are compared image by image.
    """

    images: str
    classes: tuple[str, ...]
    rules: Mapping[str, Answers]

    @property
    def headline(self) -> Answers:
        return next(iter(self.rules.values()))


def answers(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> Answers:
    """scores [N, K], labels [N]."""
    predicted = scores.argmax(axis=1)
    right = predicted == labels
    return Answers(confusion(predicted, labels, scores.shape[1]), right[np.argsort(labels, kind="stable")])


def images_hash(fingerprint: str, index: NDArray[np.int64]) -> str:
    """SHA-256 (hex) of a data set's fingerprint and the positions [N] of the tested images in it."""
    return hashlib.sha256(fingerprint.encode() + np.ascontiguousarray(index, "<i8").tobytes()).hexdigest()


def to_json(
    scores: Mapping[str, NDArray[np.floating]], labels: NDArray[np.int64], images: str, classes: Sequence[str]
) -> dict[str, Any]:
    """The `evidence` of a record: scores [N, K] by inference rule, the headline rule first; labels [N]."""
    found = {rule: answers(values, labels) for rule, values in scores.items()}
    return {
        "images": images,
        "classes": list(classes),
        "rules": {
            rule: {
                "confusion": one.confusion.tolist(),
                "recall": [None if np.isnan(value) else round(float(value), 4) for value in recalls(one.confusion)],
                "right": base64.b64encode(np.packbits(one.right).tobytes()).decode("ascii"),
            }
            for rule, one in found.items()
        },
    }


def from_record(record: Mapping[str, Any]) -> Evidence | None:
    """The evidence in a record, None in one that was written before records had any.

    Raises ValueError, one line, for evidence that is garbled or does not agree with itself.
    """
    stored = record.get("evidence")
    if stored is None:
        return None
    try:
        rules = {str(rule): _answers(rule, one) for rule, one in stored["rules"].items()}
        classes = tuple(str(name) for name in stored["classes"])
        images = str(stored["images"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its evidence lacks or garbles {error}") from error
    if not rules:
        raise ValueError("its evidence names no inference rule")
    if any(one.confusion.shape != (len(classes), len(classes)) for one in rules.values()):
        raise ValueError(f"its confusion counts are not of the {len(classes)} classes it names")
    return Evidence(images, classes, rules)


def _answers(rule: str, stored: Mapping[str, Any]) -> Answers:
    try:
        counts = np.array(stored["confusion"], dtype=np.int64)
        packed = np.frombuffer(base64.b64decode(stored["right"], validate=True), dtype=np.uint8)
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ValueError(f"its evidence of rule {rule} is garbled ({error})") from error
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.min(initial=0) < 0 or counts.sum() == 0:
        raise ValueError(f"its confusion counts of rule {rule} are no K x K counts")
    images = int(counts.sum())
    if len(packed) != (images + 7) // 8:
        raise ValueError(f"its bits of rule {rule} are not one for each of {images} images")
    found = Answers(counts, np.unpackbits(packed, count=images).astype(bool))
    right = [int(part.sum()) for part in np.split(found.right, np.cumsum(found.sizes)[:-1])]
    if right != counts.diagonal().tolist():
        raise ValueError(f"its bits and its confusion counts of rule {rule} do not agree")
    stated = [np.nan if value is None else float(value) for value in stored["recall"]]
    if len(stated) != len(counts) or not np.allclose(stated, recalls(counts), atol=1e-3, equal_nan=True):
        raise ValueError(f"its recalls of rule {rule} are not those of its confusion counts")
    return found
