"""AffectNet: some 290,000 faces from the web with one of eight expressions each, given by one annotator.

Source: Mollahosseini, Hasani and Mahoor, IEEE Trans. Affective Computing 2019. Readers `affectnet7` (without contempt)
and `affectnet8` share one prepared copy; codes are the authors' 0 to 7. The official test set is not public: papers
test on the 500 validation images per class, which is part `valid` here and the default of `test_parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.cells import REPEATED, folded
from ferbench.bench.data.reading.listing import Column, Labelling, ListedSet, Listing, Options
from ferbench.bench.data.reading.names import AFFECTNET, AFFECTNET_OTHERS, EMOTIONS
from ferbench.bench.data.reading.parts import part_folders
from ferbench.bench.data.reading.textfile import csv_file
from ferbench.bench.data.reading.tree import class_folders, first_folder, image_names, nothing_found, subfolders
from ferbench.bench.data.sets.affectnet.csv import read_csv_release
from ferbench.bench.data.sets.affectnet.npy import read_leaf_arrays, read_npy_release
from ferbench.bench.data.sets.affectnet.rows import Rows, access, to_listing
from ferbench.validation import Option

TREES = ("AffectNet", "AffectNet-8", "split")
SEVEN = EMOTIONS[:7]
_PARTS_TOO = {"train_class": "train", "val_class": "valid"}


def scan_affectnet(root: Path, options: Options) -> Listing:
    """The copy at `root`, in any layout; options: landmarks. Raises DataError."""
    bases = [base for base in (root, *(first_folder(root, [name]) for name in TREES)) if base is not None]
    for base in bases if root.is_dir() else ():
        _refuse_repacks(base)
        for rows in (
            read_csv_release(base),
            read_npy_release(base, landmarks=bool(options["landmarks"])),
            read_leaf_arrays(base),
            _folders(base),
        ):
            if rows is not None:
                return to_listing(rows, options.get("repeated"))
    raise nothing_found(
        root, "AffectNet", "Manually_Annotated_file_lists/training.csv, train_set/annotations/*_exp.npy, "
        "or class folders in train/ and val/", access(),
    )  # fmt: skip


def _refuse_repacks(base: Path) -> None:
    """DataError for copies whose labels are not AffectNet's, or not to be told from others'."""
    for tree in (base, first_folder(base, ["YOLO_format"])):
        train = first_folder(tree, ["train"]) if tree is not None else None
        if train is not None and first_folder(train, ["images"]) and first_folder(train, ["labels"]):
            raise DataError(
                f"{tree} is the YOLO re-pack of a part of AffectNet: 25,262 images in a split of its own, with codes "
                f"in alphabetical order: not comparable with any paper; {access()}"
            )
    labels = base / "labels.csv"
    if labels.is_file():
        _, header = next(csv_file(labels), (1, []))
        if "pth" in header:
            raise DataError(
                f"{labels} holds the predictions of a model, not the annotators' labels: results on it must not be "
                f"called AffectNet's; {access()}"
            )


def _folders(base: Path) -> Rows | None:
    """train/<class>/ and val/<class>/, class folders as codes 0 to 7 or as words."""
    rows = Rows(base, "", by_folder=True)
    kinds = set()
    order = {name: code for code, name in AFFECTNET.items()}
    for part, folder in part_folders(base, _PARTS_TOO).items():
        classes = class_folders(folder, AFFECTNET)
        if classes is None:
            continue
        kinds.add(classes[0])
        for name, directory in classes[1].items():
            for file in image_names(folder / directory):
                rows.add(f"{folder.name}/{directory}/{file}", PARTS.index(part), order[name])
        no_class = (name for name in subfolders(folder) if folded(name) in AFFECTNET_OTHERS.values())
        rows.aside |= {f"{folder.name}/{name}": "none, uncertain or no face" for name in no_class}
    if not rows.paths:
        return None
    rows.layout = f"class folders ({' and '.join(sorted(kinds))}), a re-pack"
    if "digits" in kinds:
        rows.notes.append("digits are read as the authors' codes (0 neutral, 1 happiness, 2 sadness, 3 surprise, ...)")
    return rows


def _seven(labelling: Labelling, columns: Mapping[str, Column], options: Options) -> Labelling:
    return labelling.only(SEVEN)


def _eight(labelling: Labelling, columns: Mapping[str, Column], options: Options) -> Labelling:
    if "contempt" not in labelling.classes:
        raise DataError("affectnet8: this copy has no contempt images; use affectnet7")
    return replace(labelling, labels=labelling.labels.astype(np.int64))


def _reader(classes: int) -> ListedSet:
    counted = "283,901 training and 3,500" if classes == 7 else "287,651 training and 4,000"
    return ListedSet(
        name=f"affectnet{classes}",
        summary=f"AffectNet, {classes} expressions: {counted} validation faces; on request from its authors",
        root_env="FERBENCH_AFFECTNET_ROOT",
        scan=scan_affectnet,
        access=access(),
        scan_options={
            "landmarks": Option(False, "read the landmarks of the npy release too (a file each): for crop=align"),
            "repeated": REPEATED,
        },
        relabel=_seven if classes == 7 else _eight,
        defaults={"channels": "rgb", "test_parts": "valid"},
        family="affectnet",
    )


AFFECTNET7, AFFECTNET8 = _reader(7), _reader(8)
