"""Images that are copies of one another, pixel by pixel or nearly: what the report says, and leaving them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import FaceSet

EXAMPLES = 3
Rows = NDArray[np.int64]


def deduplicated(train: Rows, test: Rows, index: Mapping[str, NDArray[Any]], dedupe: str) -> tuple[Rows, Rows]:
    """Training and test rows under a value of the option `dedupe`; index: of a prepared copy."""
    if dedupe == "none":
        return train, test
    first = index["near_copies" if dedupe == "near" else "same_pixels"]
    train, test = (some[np.sort(np.unique(first[some], return_index=True)[1])] for some in (train, test))
    return (train if dedupe == "within" else train[~np.isin(first[train], first[test])]), test


def near_notes(index: Mapping[str, NDArray[Any]], faces: FaceSet) -> list[str]:
    """Near copies beyond the pixel-identical images: how many groups, and how many test images have one in training."""
    near, same = index["near_copies"], index["same_pixels"]
    pictures = np.bincount(near[np.unique(same)], minlength=len(near))  # different images in each group
    groups = pictures > 1
    if not groups.any():
        return ["no image is a near copy of another (mirrored, saved again, cut a little otherwise)"]
    leaked = faces.test[np.isin(near[faces.test], near[faces.train])]
    new = leaked[~np.isin(same[leaked], same[faces.train])]
    lines = [
        f"{int(groups.sum()):,} groups of near copies (one picture mirrored, saved again or cut a little otherwise), "
        f"{int(pictures[groups].sum()):,} different images in them"
    ]
    if not len(new):
        return lines + ["under these options no test image has a near copy in the training set"] * (len(faces.test) > 0)
    return lines + [
        f"under these options {len(leaked):,} of {len(faces.test):,} test images have a copy or near copy in the "
        f"training set, {len(new):,} of them not pixel by pixel, such as {_examples(new, near, faces)} "
        "(dedupe=near removes them from training)"
    ]


def _examples(rows: Rows, near: Rows, faces: FaceSet) -> str:
    """`a like b; c like d`: test images with a training image of their group."""
    pairs = ((row, faces.train[near[faces.train] == near[row]][0]) for row in rows[:EXAMPLES])
    return "; ".join(f"{faces.ids[row]} like {faces.ids[other]}" for row, other in pairs)
