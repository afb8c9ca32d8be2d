"""What a reader tells of the user's copy before an image is decoded, and what a data set declares about itself.

A data set on this framework is one file with a `ListedSet`. Its `scan` recognises the copy at a root and returns a
`Listing`: columns of equal length, one row per image, in a fixed order. Everything after that is shared: paths are
checked, images verified and decoded once into the cache (`prepare_listing`), counts held against the published ones,
duplicates and subjects looked for, the report written, and the prepared copy opened as a `FaceSet` (`open_listed`).

To add a data set:
1. `scan(root, options) -> Listing`: accepts the folder itself or one above it (`Listing.root` given as root must give
   the same listing); `tree.py` lists images and class folders, `textfile.py` reads label files line by
   line, `names.py` turns codes and words into canonical class names. Where nothing fits raise DataError with what was
   expected; recognise unsuitable re-packs and say why they are refused.
2. A `ListedSet`, with a line of `sets/readers.py` that says where it is.
3. `relabel`, only where options change labels, parts or classes without another look at the files.
4. A generator of a tiny tree in each layout, `fake_<data set>.py`, listed in `fakes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.report import LabelFileNote
from ferbench.validation import Option, Value

Column = NDArray[Any]
Options = Mapping[str, Value]
Read = Callable[[int], "bytes | NDArray[np.uint8]"]
PartNames = ("train", "valid", "test", "train+valid", "train+test", "valid+test", "train+valid+test")


@dataclass(frozen=True)
class Expected:
    """Published images per class and part.

    counts:   class name -> images per part, in the order of PARTS; None where the source does not say
    measured: True: counted on the real files, and a copy with other counts is refused unless --partial is given;
              False: hearsay, so a difference is only warned of
    source:   where the numbers stand, in a few words
    known:    (class name, part, images) -> why some copies have this number instead; then it is a note
    """

    counts: Mapping[str, tuple[int | None, int | None, int | None]]
    measured: bool
    source: str
    known: Mapping[tuple[str, str, int], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """N images of a recognised copy, in a fixed order (the same for the same files, whatever the file system's).

    dataset:     the reader's name, or its family's
    root:        folder that `paths` are relative to: the recognised base, which may lie below the --root given
    layout:      name of the recognised layout or re-pack, for the report: "official tree", "class folders (digits)"
    ids:         [N] str, unique: what split files list. The path, or better a name that is the same in every layout,
                 so that a seed draws the same split from each
    parts:       [N] int8, index into PARTS
    labels:      [N] int64, index into `classes`, -1 for none
    classes:     canonical names (`names.py`); () for a set without any labels
    paths:       [N] str, relative to `root`, "/" between folders; None: the ids are the paths
    read:        where images are no files of their own (records, rows of a table): encoded bytes or decoded pixels
                 ([H, W] or [H, W, 3] uint8) of image i; called from several threads; then `paths` is not used
    containers:  files that `read` takes the images from: their sizes and times tell whether the copy changed
    boxes:       [N, 4] float32 x1, y1, x2, y2 in pixels of the image file, rows of NaN where unknown
    landmarks:   [N, P, 2] float32 x, y in pixels of the image file, NaN where unknown; P = 5 (left eye, right eye,
                 nose, left and right corner of the mouth, as seen in the picture) or 68 (the iBUG order)
    subjects:    [N] int64 identity, -1 where unknown
    votes:       [N, K] float32, per class
    uncropped:   whether images show more than the face, so that crop=auto cuts the box out
    columns:     further columns by name (age, gender, other label sets): numbers or text, length N; a column `folds`
                 (int64, the data set's own cross-validation) becomes FaceSet.folds
    expected:    published counts to hold the labels against
    differences: what makes this another copy than the published one: refused unless --partial, one line each
    warnings:    what may be wrong, never refused, one line each
    notes:       what else the user should know, one line each
    label_files: label files read, with their hashes
    watched:     further files that labels come from, too many to name in the report
    by_folder:   whether folders alone say which image is what: one with images that is left out is then a difference
    aside:       folder -> why images in it or below are left out on purpose
    """

    dataset: str
    root: Path
    layout: str
    ids: NDArray[np.str_]
    parts: NDArray[np.int8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    paths: NDArray[np.str_] | None = None
    read: Read | None = None
    containers: tuple[Path, ...] = ()
    boxes: NDArray[np.float32] | None = None
    landmarks: NDArray[np.float32] | None = None
    subjects: NDArray[np.int64] | None = None
    votes: NDArray[np.float32] | None = None
    uncropped: bool = False
    columns: Mapping[str, Column] = field(default_factory=dict)
    expected: tuple[Expected, ...] = ()
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    label_files: tuple[LabelFileNote, ...] = ()
    watched: tuple[Path, ...] = ()
    by_folder: bool = False
    aside: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the columns to their lengths, so that a reader's slip is found before hours of decoding."""
        size = len(self.ids)
        if size == 0:
            raise DataError(f"{self.dataset}: no images in {self.root} ({self.layout})")
        optional = (self.paths, self.boxes, self.landmarks, self.subjects, self.votes)
        for column in (self.parts, self.labels, *optional, *self.columns.values()):
            assert column is None or len(column) == size, f"{self.dataset}: a column has {len(column)} of {size} rows"
        assert self.labels.max() < max(len(self.classes), 1), f"{self.dataset}: a label beyond the classes"
        unique, counts = np.unique(self.ids, return_counts=True)
        if len(unique) < size:
            twice = unique[counts > 1]
            raise DataError(f"{self.root}: {len(twice)} images are listed more than once, first {str(twice[0])!r}")

    @property
    def upright(self) -> bool:
        """Whether images are turned as their EXIF orientation says: not where boxes are in pixels as stored."""
        return self.boxes is None and self.landmarks is None

    def path(self, row: int) -> str:
        """Path of an image relative to the root."""
        return str(self.ids[row] if self.paths is None else self.paths[row])

    def take(self, rows: NDArray[np.int64]) -> Listing:
        """The listing of some of the images, in the order of `rows`. `read` is asked for the positions of before."""
        read = self.read

        def moved(row: int) -> bytes | NDArray[np.uint8]:
            assert read is not None
            return read(int(rows[row]))

        optional = ("paths", "boxes", "landmarks", "subjects", "votes")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in ("ids", "parts", "labels")},
            **{name: getattr(self, name)[rows] for name in optional if getattr(self, name) is not None},
            columns={name: column[rows] for name, column in self.columns.items()},
            read=moved if read is not None else None,
        )


@dataclass(frozen=True)
class Labelling:
    """What is open to options after preparation; `relabel` returns a changed one (`dataclasses.replace`).

    labels: [N] int64 into `classes`, -1: neither trained nor tested on; parts: [N] int8; votes: [N, K] float32
    notes:  lines for the report
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    parts: NDArray[np.int8]
    votes: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    def only(self, classes: tuple[str, ...]) -> Labelling:
        """The same with `classes` alone and in that order; images of other classes have no label."""
        position = {name: code for code, name in enumerate(classes)}
        table = np.array([position.get(name, -1) for name in self.classes] + [-1], dtype=np.int64)
        votes = self.votes
        if votes is not None:
            votes = votes[:, [self.classes.index(name) for name in classes]]
        return Labelling(classes, table[self.labels], self.parts, votes, self.notes)


@dataclass(frozen=True)
class ListedSet:
    """A data set on this framework.

    root_env:     environment variable that may name the user's copy
    family:       `dataset` of its listings where several readers share one prepared copy; "": the reader's name
    scan:         recognise the copy; gets `scan_options` resolved. Raises DataError
    access:       who to ask for it, printed where nothing is found: never a link to an unofficial copy
    scan_options: options that change what is listed: part of what a prepared copy is
    open_options: options that `relabel` alone looks at
    relabel:      (labelling as listed, columns by name with `ids` and `subjects`, open options) -> labelling
    defaults:     other defaults of COMMON options
    unlabelled:   whether images of a training part that have no label are trained on, as unlabelled ones
    """

    name: str
    summary: str
    root_env: str
    scan: Callable[[Path, Options], Listing]
    access: str
    scan_options: Mapping[str, Option] = field(default_factory=dict)
    open_options: Mapping[str, Option] = field(default_factory=dict)
    relabel: Callable[[Labelling, Mapping[str, Column], Options], Labelling] | None = None
    defaults: Options = field(default_factory=dict)
    family: str = ""
    unlabelled: bool = False

    @property
    def prepared_name(self) -> str:
        """The name its prepared copies bear."""
        return self.family or self.name

    @property
    def options(self) -> Mapping[str, Option]:
        """All options, the data set's own first."""
        common = {
            key: Option(self.defaults.get(key, option.default), option.help, option.choices)
            for key, option in (DECODE_OPTIONS | OPEN_OPTIONS).items()
        }
        return {**self.scan_options, **self.open_options, **common}


# How images are decoded: with the scan options they say which prepared copy is meant.
DECODE_OPTIONS: dict[str, Option] = {
    "size": Option(0, "pixels a side of the stored images, 16 to 512; 0: their own where all share one, else 224"),
    "resize": Option(
        "square", "to a square: squeeze, pad with black, or cut the centre out", ("square", "pad", "centre_crop")
    ),
    "faces": Option(
        "dataset",
        "face boxes and landmarks from the data set, from faces.csv in the root, or from a detector",
        ("dataset", "csv", "haar", "mtcnn", "none"),
    ),
    "crop": Option(
        "auto",
        "whole image, the face box, or aligned by five landmarks; auto: the box where images show more than a face",
        ("auto", "none", "box", "align"),
    ),
    "margin": Option(0, "added to the box on each side, in percent of its width and height, 0 to 200"),
    "channels": Option("auto", "stored channels; auto: grey where all images are grey", ("auto", "grey", "rgb")),
}
DEDUPE = Option(
    "none",
    "pixel-identical images: none keeps all, within keeps one in train and one in test, cross also drops from train "
    "what is in test; near is cross for near copies too (mirrored, saved again, cut a little otherwise)",
    ("none", "within", "cross", "near"),
)
OPEN_OPTIONS: dict[str, Option] = {
    "train_parts": Option("train", "official parts to train on", PartNames),
    "test_parts": Option("test", "official parts to test on", PartNames),
    "dedupe": DEDUPE,
}


def part_codes(names: str) -> list[int]:
    """Indices into PARTS of "train+valid" and the like."""
    return [PARTS.index(name) for name in names.split("+")]
