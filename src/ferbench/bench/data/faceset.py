"""A face data set as arrays: what every reader returns and everything after it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ferbench.errors import DataError as DataError

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class FaceSet:
    """N images with everything known about them, before any split.

    images:   [N, H, W, C] uint8, C = 1 (grey) or 3 (RGB); may be memory-mapped, never written to
    labels:   [N] int64, index into `classes`; -1 where the label rule gives the image no class
    parts:    [N] int8, index into PARTS: the data set's own official part
    ids:      [N] str, unique, the path relative to the root (or a stable name): what split files list
    train:    [n] int64, sorted: images a method may train on (kept by the label rule, in the training parts)
    test:     [m] int64, sorted: images it is tested on
    votes:    [N, K] annotators' votes per class, where the data set has them
    ballots:  [N, C] all of the annotators' votes as cast, whatever the label rule: the classes', then those for what is
              no class (FERPlus: "unknown" and "not a face"); None where `votes` are all there is
    boxes:    [N, 4] float32 x1, y1, x2, y2 in pixels of `images`, where there are any; rows of NaN where not known
    subjects: [N] int64, identity, where known
    folds:    [N] int64, the data set's own folds for cross-validation, where it has them
    options:  the reader's options that made this set (label file, rule, classes, ...): part of its identity
    fingerprint: SHA-256 (hex) over the options, the ids, the labels, the parts and the train and test indices
    same_pixels, near_copies: [N] int64, the first image with the same pixels, and the first that shows the same picture
              (mirrored or saved again); None where that was not looked for
    pixels:   SHA-256 (hex) over all images: with the fingerprint it says which data a run was made on, for two copies
              may have equal names and other pixels. "": the fingerprint says it all (the published pixels of FERPlus,
              which runs were recorded on before this was kept)
    """

    name: str
    classes: tuple[str, ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    parts: NDArray[np.int8]
    ids: NDArray[np.str_]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    options: Mapping[str, str | int | bool]
    fingerprint: str
    votes: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None
    subjects: NDArray[np.int64] | None = None
    folds: NDArray[np.int64] | None = None
    ballots: NDArray[np.uint8] | None = None
    same_pixels: NDArray[np.int64] | None = None
    near_copies: NDArray[np.int64] | None = None
    pixels: str = ""

    def identity(self) -> dict[str, str]:
        """What a run keeps of the data it was made on."""
        return {"fingerprint": self.fingerprint, **({"pixels": self.pixels} if self.pixels else {})}

    def class_counts(self, indices: NDArray[np.int64]) -> dict[str, int]:
        """Images per class name among `indices`, in class order; those without a class are not counted."""
        labels = self.labels[indices]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}
