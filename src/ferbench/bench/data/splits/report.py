"""A split as a table for a person: asked, taken and there per class, and which images are in two parts at once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.preparing.checks.fingerprint import image_digests, same_pixels
from ferbench.bench.data.splits.draw import PARTS, Split

MOST_BYTES = 8 << 30  # of images that are read through in search of copies


def split_text(split: Split, faces: FaceSet) -> str:
    """What `ferbench split` prints; no trailing newline."""
    parameters = " ".join(f"{key}={value}" for key, value in split.parameters.items())
    lines = [
        f"{split.dataset}: split {split.recipe} {parameters}".rstrip() + f", seed {split.seed}",
        *_table(split, faces),
    ]
    flipped = int((split.taught != faces.labels[split.labelled]).sum())
    if flipped:
        lines.append(f"{flipped:,} of {len(split.labelled):,} labels are taught wrong")
    shared = int(np.isin(split.labelled, split.unlabelled).sum())
    lines.append(
        f"labelled images are among the unlabelled ones as well ({shared:,}); the other parts share no path"
        if shared
        else "no path is in two parts"
    )
    lines += [*_people(split, faces), *_copies(split, faces)]
    lines.append(f"fingerprint {split.fingerprint}")
    return "\n".join(lines)


def _table(split: Split, faces: FaceSet) -> list[str]:
    """Images per class: asked for, labelled, held out, left over, tested on, there to be had; and their sums."""
    counts = {part: faces.class_counts(getattr(split, part)) for part in PARTS}
    columns = {"requested": split.requested, **counts, "available": split.available}
    width = max(map(len, (*faces.classes, "no label")))
    lines = ["", f"{'':<{width}}" + "".join(f"{name:>12}" for name in columns)]
    for name in faces.classes:
        lines.append(f"{name:<{width}}" + "".join(f"{column[name]:>12,}" for column in columns.values()))
    nameless = {part: len(getattr(split, part)) - sum(counts[part].values()) for part in PARTS}
    if any(nameless.values()):
        lines.append(f"{'no label':<{width}}" + "".join(f"{nameless.get(name, 0):>12,}" for name in columns))
    totals = (sum(column.values()) + nameless.get(name, 0) for name, column in columns.items())
    return [*lines, f"{'all':<{width}}" + "".join(f"{total:>12,}" for total in totals), ""]


def _people(split: Split, faces: FaceSet) -> list[str]:
    """How many of the people tested on are trained on as well, where it is known who they are."""
    if faces.subjects is None:
        return []
    tested, *trained = (np.unique(faces.subjects[getattr(split, part)]) for part in ("test", "labelled", "unlabelled"))
    tested = tested[tested >= 0]
    both = np.isin(tested, np.concatenate(trained)).sum()
    return [f"{both:,} of {len(tested):,} people in the test images are in training images as well"]


def _copies(split: Split, faces: FaceSet) -> list[str]:
    """A line for each two parts that hold one image under different paths, pixel by pixel or nearly."""
    same = _same_pixels(faces)
    if same is None:
        return [f"identical pixels not looked for: {faces.images.nbytes / 2**30:.0f} GiB of images"]
    parts = {part: getattr(split, part) for part in PARTS}
    parts["unlabelled"] = np.setdiff1d(parts["unlabelled"], parts["labelled"])
    exact, near = [], []
    for one, other in combinations(PARTS, 2):
        found = np.isin(same[parts[other]], same[parts[one]])
        exact += [f"{found.sum():,} {other} images are pixel for pixel among the {one} ones"] * bool(found.any())
        if faces.near_copies is not None:
            alike = np.isin(faces.near_copies[parts[other]], faces.near_copies[parts[one]]) & ~found
            line = f"{alike.sum():,} more {other} images are near copies (mirrored, saved again) of {one} ones"
            near += [line] * bool(alike.any())
    known = (
        [] if faces.near_copies is None else ["no image is a near copy (mirrored, saved again) of one in another part"]
    )
    return (exact or ["no image is, pixel for pixel, in two parts"]) + (near or known)


def _same_pixels(faces: FaceSet) -> NDArray[np.int64] | None:
    """[N] the first image with the same pixels; None where nobody knows and there are too many to look."""
    if faces.same_pixels is not None or faces.images.nbytes > MOST_BYTES:
        return faces.same_pixels
    return same_pixels(image_digests(faces.images), np.ones(len(faces.images), np.bool_))
