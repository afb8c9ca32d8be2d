"""Rows of an AffectNet copy, whatever the layout, and what is known of their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS
from ferbench.bench.data.reading.cells import once
from ferbench.bench.data.reading.listing import Expected, Listing
from ferbench.bench.data.reading.names import AFFECTNET, EMOTIONS
from ferbench.bench.data.reading.report import LabelFileNote

FULL = 287_651
# Images that the csv release's rows 0 to 7 lead to, and 500 per class to validate on.
COUNTS = dict(
    zip(EMOTIONS, ((count, 500, None) for count in (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750)), strict=True)
)
KNOWN = {
    ("happiness", "train", 134_416): "the csv has one row more than there are usable faces",
    ("contempt", "train", 3_667): "some copies have lost 83 images of contempt",
    ("contempt", "valid", 499): "one validation image is not in every copy of the newer release",
}
# Training images -> which copy has so many.
REPACKS = {
    37_553: "an 8-class sample on Kaggle with 13 % of the training set",
    17_101: "the training part of the YOLO re-pack",
    286_564: "the aligned images of the LEAF paper",
}
CLOSE = 0.02  # relative difference of two totals up to which one re-pack is named


def access() -> str:
    """Who may ask for the data set, and where."""
    return "AffectNet is given to lab managers and professors on request, see http://mohammadmahoor.com/pages/databases/affectnet"


@dataclass
class Rows:
    """Images found so far: path, part and code each; boxes and five landmarks where the layout has them.

    others: rows of codes that are no expression (8 none, 9 uncertain, 10 no face), left out
    by_folder, aside: as in Listing
    """

    root: Path
    layout: str
    paths: list[str] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] | None = None
    landmarks: list[NDArray[np.float32]] | None = None
    uncropped: bool = False
    others: int = 0
    notes: list[str] = field(default_factory=list)
    label_files: list[LabelFileNote] = field(default_factory=list)
    by_folder: bool = False
    aside: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, part: int, code: int) -> None:
        self.paths.append(path)
        self.parts.append(part)
        self.codes.append(code)


def to_listing(rows: Rows, repeated: object = None) -> Listing:
    """The listing, sorted by part and path; a path that comes twice once, if its rows agree or as `repeated` says."""
    paths = np.array(rows.paths, dtype=np.str_)
    parts, codes = np.array(rows.parts, dtype=np.int8), np.array(rows.codes, dtype=np.int64)
    kept = once(rows.paths, list(zip(rows.parts, rows.codes, strict=True)), repeated, "the lists")
    order = np.array(kept.rows, np.int64)
    order = order[np.lexsort((paths[order], parts[order]))]
    notes = [*rows.notes, *kept.notes]
    if rows.others:
        notes.append(
            f"{rows.others:,} rows without one of the eight expressions (none, uncertain, no face) are left out"
        )
    classes = tuple(AFFECTNET.values())
    contempt = classes.index("contempt")
    if not (codes == contempt).any():
        classes = classes[:contempt]
        notes.append("no image of contempt: a 7-class copy, which affectnet8 cannot use")
    train = int((parts[order] == PARTS.index("train")).sum())
    return Listing(
        dataset="affectnet",
        root=rows.root,
        layout=rows.layout,
        ids=paths[order],
        parts=parts[order],
        labels=codes[order],
        classes=classes,
        boxes=None if rows.boxes is None else np.array(rows.boxes, np.float32).reshape(-1, 4)[order],
        landmarks=None if rows.landmarks is None else np.stack(rows.landmarks)[order],
        uncropped=rows.uncropped,
        expected=(Expected({name: COUNTS[name] for name in classes}, True, "the authors' release", KNOWN),),
        differences=_incomplete(train, len(classes)),
        warnings=kept.warnings,
        notes=tuple(notes),
        by_folder=rows.by_folder,
        aside=rows.aside,
        label_files=tuple(rows.label_files),
    )


def _incomplete(train: int, classes: int) -> tuple[str, ...]:
    """A line where this is only a part of AffectNet, with the known copy that it is closest to."""
    full = FULL if classes == len(EMOTIONS) else FULL - _total("contempt")
    explained = sum(_train_slack(name) for name in EMOTIONS[:classes])
    if full - explained <= train <= full + 1:
        return ()
    closest = min(REPACKS, key=lambda count: abs(count - train))
    hint = f" (the number of {REPACKS[closest]})" if abs(closest - train) <= CLOSE * closest else ""
    return (f"this is not the full AffectNet: {full:,} training images expected, found {train:,}{hint}",)


def _total(name: str) -> int:
    return COUNTS[name][0]


def _train_slack(name: str, known: Mapping[tuple[str, str, int], str] = KNOWN) -> int:
    """How many training images of a class some copies lack for a known reason."""
    return max([0, *(_total(name) - count for label, part, count in known if (label, part) == (name, "train"))])
