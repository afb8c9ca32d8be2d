"""FERPlus: FER2013's 48 x 48 grey faces with ten annotators' votes each.

Source: Barsoum et al., ICMI 2016; https://github.com/microsoft/FERPlus. `ferplus_prepare` decodes the images once;
opening applies a label rule to the votes. Labels are class indices in Microsoft's column order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError, FaceSet
from ferbench.bench.data.preparing.cache import Prepared, load_prepared
from ferbench.bench.data.preparing.checks.copies import deduplicated
from ferbench.bench.data.preparing.checks.fingerprint import faceset_fingerprint
from ferbench.bench.data.preparing.checks.intact import check_opened
from ferbench.bench.data.preparing.resized import resized
from ferbench.bench.data.reading.reader import Progress
from ferbench.bench.data.sets.ferplus.faces import ferplus_faces
from ferbench.bench.data.sets.ferplus.index import image_votes
from ferbench.bench.data.sets.ferplus.labels import CLASSES, SEVERAL_LABELS, decide
from ferbench.bench.data.sets.ferplus.options import NAME, OPTIONS
from ferbench.validation import resolve_options

# All images as Microsoft's script writes them from the contest's pixels. Runs of ferbench were recorded on them before
# pixels were part of a run's identity, so that they alone are not named in it.
PUBLISHED_PIXELS = "17c4dae3f1bca029c84ed7071f56a299a2a6e2eac106556c322a4b7730e2e499"


def open_ferplus(
    prepared: Path,
    *,
    source: str = "label_csv",
    rule: str = "majority",
    classes: int = 8,
    train_parts: str = "train",
    test_parts: str = "test",
    dedupe: str = "none",
    placeholder: str = "drop",
    size: int = 0,
    faces: str = "none",
    progress: Progress | None = None,
) -> FaceSet:
    """The face set in a prepared folder under one label rule; OPTIONS explains each option. Raises DataError.

    labels: -1 for images the rule gives no class, for contempt with classes=7 and for the dropped placeholder; these
            are in neither `train` nor `test`, but keep their place in `images`
    votes:  [N, classes] raw votes under rules with one label; under the others the distribution or the candidate set
            (1 for each candidate), all 0 where the label is -1
    boxes:  None with faces=none
    progress: called with (images done, images in all) where a detector looks
    """
    options: dict[str, str | int | bool] = {
        "source": source,
        "rule": rule,
        "classes": classes,
        "train_parts": train_parts,
        "test_parts": test_parts,
        "dedupe": dedupe,
        "placeholder": placeholder,
        **({"size": size} if size else {}),
        **({"faces": faces} if faces != "none" else {}),
    }
    resolve_options(NAME, OPTIONS, options, DataError)
    if set(train_parts.split("+")) & set(test_parts.split("+")):
        raise DataError(f"{NAME}: train_parts={train_parts} and test_parts={test_parts} overlap; choose separate parts")
    stored = load_prepared(prepared, NAME)
    check_opened(stored, NAME)
    labels, votes = _label(stored, source, rule, classes, placeholder == "drop")
    ids, parts = stored.index["ids"], stored.index["parts"]
    train, test = _labelled(labels, parts, train_parts), _labelled(labels, parts, test_parts)
    train, test = deduplicated(train, test, stored.index, dedupe)
    images, boxes = resized(stored, NAME, size), ferplus_faces(stored, faces, progress=progress).boxes
    return FaceSet(
        name=NAME,
        classes=CLASSES[:classes],
        images=images,
        labels=labels,
        parts=parts,
        ids=ids,
        train=train,
        test=test,
        options=options,
        fingerprint=faceset_fingerprint(options, ids, labels, parts, train, test),
        votes=votes,
        boxes=None if boxes is None else boxes * np.float32(images.shape[1] / stored.images.shape[1]),
        ballots=image_votes(stored.index, source),
        same_pixels=stored.index["same_pixels"],
        near_copies=stored.index["near_copies"],
        pixels="" if stored.meta["pixels"] == PUBLISHED_PIXELS else stored.meta["pixels"],
    )


def _label(
    stored: Prepared, source: str, rule: str, classes: int, drop_placeholder: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels [N] and votes [N, classes] of FaceSet."""
    decision = decide(image_votes(stored.index, source), rule)
    labels = np.where(decision.labels < classes, decision.labels, -1)
    if drop_placeholder and stored.meta["placeholder"] is not None:
        labels[stored.meta["placeholder"]] = -1
    votes = decision.targets[:, :classes]
    if rule in SEVERAL_LABELS:
        votes = np.where(labels[:, None] >= 0, votes, np.float32(0))
        if rule != "multi_target":  # without contempt's share a distribution must be brought back to a sum of 1
            votes = votes / np.maximum(votes.sum(axis=1, keepdims=True), np.float32(1e-12))
    return labels, votes


def _labelled(labels: NDArray[np.int64], parts: NDArray[np.int8], wanted: str) -> NDArray[np.int64]:
    """Sorted indices of the labelled images in the `wanted` parts, e.g. "train+valid"."""
    codes = [PARTS.index(part) for part in wanted.split("+")]
    return np.flatnonzero((labels >= 0) & np.isin(parts, codes))
