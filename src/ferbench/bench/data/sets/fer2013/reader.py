"""FER2013 with its own labels, one per image; FERPlus (`ferplus`) are other people's votes on the same pixels.

Source: Goodfellow et al., ICONIP 2013. The labels are about 65 % right by the authors' own estimate. PublicTest is the
validation part and PrivateTest the test part; re-packs in class folders have both as one test folder of 7,178.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.listing import Expected, ListedSet, Listing, Options
from ferbench.bench.data.reading.names import FER2013
from ferbench.bench.data.reading.parts import part_folders
from ferbench.bench.data.reading.tree import class_folders, first_folder, image_names, nothing_found
from ferbench.bench.data.sets.fer2013.pixels import read_images

NAME = "fer2013"
ACCESS = "FER2013 is the data of the 2013 contest on Kaggle, whose rules you accept there"
CLASSES = tuple(FER2013.values())
TABLES = ("fer2013.csv", "icml_face_data.csv")
# Counted: training. As quoted by others: the two test parts, apart and together.
TRAIN = (3995, 436, 4097, 7215, 4830, 3171, 4965)
PUBLIC = (467, 56, 496, 895, 653, 415, 607)
PRIVATE = (491, 55, 528, 879, 594, 416, 626)


def scan_fer2013(root: Path, options: Options) -> Listing:
    """The copy at `root`: a table of pixels or class folders; no options. Raises DataError."""
    bases = [base for base in (root, first_folder(root, ["fer2013"])) if base is not None]
    for base in bases:
        for name in TABLES:
            if (base / name).is_file():
                return _table(base / name)
    for base in bases:
        listing = _folders(base)
        if listing is not None:
            return listing
    if any((base / "train.csv").is_file() for base in bases):
        raise DataError(f"{root}: train.csv and test.csv are the contest's files without test labels; get fer2013.csv")
    raise nothing_found(root, "FER2013", "fer2013.csv, icml_face_data.csv, or train/angry.. and test/angry..", ACCESS)


def _table(path: Path) -> Listing:
    """Rows of the table in their order, which is that of the FERPlus labels."""
    labels, parts, pixels = read_images(path)
    return Listing(
        dataset=NAME,
        root=path.parent,
        layout=f"pixels in {path.name}",
        ids=np.array([f"row{row:05d}" for row in range(len(labels))], np.str_),
        parts=parts,
        labels=labels,
        classes=CLASSES,
        read=lambda row: pixels[row],
        containers=(path,),
        expected=(
            Expected(
                {name: (count, None, None) for name, count in zip(CLASSES, TRAIN, strict=True)}, True, "the contest"
            ),
            Expected(
                {name: (None, *counts) for name, *counts in zip(CLASSES, PUBLIC, PRIVATE, strict=True)},  # type: ignore[misc]
                False,
                "a list by others",
            ),
        ),
    )


def _folders(base: Path) -> Listing | None:
    """train/<class>/ and test/<class>/, with or without validation/<class>/."""
    found = part_folders(base)
    if "train" not in found or "test" not in found:
        return None
    rows: list[tuple[int, int, str]] = []
    for part, folder in found.items():
        classes = class_folders(folder, FER2013)
        for name, directory in classes[1].items() if classes is not None else ():
            if name not in CLASSES:
                raise DataError(f"{folder}: a folder for {name}, which is no class of FER2013")
            files = image_names(folder / directory)
            rows += [(PARTS.index(part), CLASSES.index(name), f"{folder.name}/{directory}/{file}") for file in files]
    if not rows:
        return None
    merged = "valid" not in found
    test = [public + private for public, private in zip(PUBLIC, PRIVATE, strict=True)] if merged else PRIVATE
    train = {name: (count, None, None) for name, count in zip(CLASSES, TRAIN, strict=True)}
    others = {name: (None, None, count) for name, count in zip(CLASSES, test, strict=True)}
    return Listing(
        dataset=NAME,
        root=base,
        layout="class folders, a re-pack",
        ids=np.array([path for _, _, path in rows], np.str_),
        parts=np.array([part for part, _, _ in rows], np.int8),
        labels=np.array([label for _, label, _ in rows], np.int64),
        classes=CLASSES,
        expected=(Expected(train, True, "the contest"), Expected(others, False, "a list by others")),
        notes=("PublicTest and PrivateTest are one test part in this re-pack",) if merged else (),
        by_folder=True,
    )


FER2013_SET = ListedSet(
    name=NAME,
    summary="FER2013: 35,887 grey 48 x 48 faces, seven classes, one label each; needs your copy",
    root_env="FERBENCH_FER2013_ROOT",
    scan=scan_fer2013,
    access=ACCESS,
    defaults={"channels": "grey"},
)
