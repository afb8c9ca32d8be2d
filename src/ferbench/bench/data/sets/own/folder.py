"""Images of your own in class folders: train/<class>/, valid/<class>/, test/<class>/, or <class>/ alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.listing import ListedSet, Listing, Options
from ferbench.bench.data.reading.parts import part_folders
from ferbench.bench.data.reading.tree import nothing_found, subfolders, walk_images
from ferbench.bench.data.sets.own.free_classes import CODES_OPTION, Classes, order_classes

NAME = "folder"
ACCESS = "a data set of your own: one folder per class, named after it"


def scan_folder(root: Path, options: Options) -> Listing:
    """Class folders at `root`, in parts or not; option codes: what numbers for names mean. Raises DataError.

    Images may lie deeper in a class folder. Without folders for parts every image is of the training part.
    """
    parts = part_folders(root)
    split = "train" in parts
    if not split and parts:
        there = ", ".join(folder.name for folder in parts.values())
        raise DataError(f"{root} has {there} but no folder train")
    rows: list[tuple[int, str, str]] = []  # part, class word, path
    for part, folder in (parts if split else {"train": root}).items():
        for word in subfolders(folder) if folder.is_dir() else ():
            where = (folder / word).relative_to(root).as_posix()
            rows += [(PARTS.index(part), word, f"{where}/{path}") for path in walk_images(folder / word)]
    if not rows:
        raise nothing_found(root, "class folders", "train/<class>/ and test/<class>/, or <class>/", ACCESS)
    classes = order_classes({word for _, word, _ in rows}, str(options["codes"]), str(root))
    _check_twins(root, {(part, word) for part, word, _ in rows}, classes)
    return Listing(
        dataset=NAME,
        root=root,
        layout="class folders in parts" if split else "class folders",
        ids=np.array([path for _, _, path in rows], np.str_),
        parts=np.array([part for part, _, _ in rows], np.int8),
        labels=np.array([classes.of[word] for _, word, _ in rows], np.int64),
        classes=classes.names,
        warnings=classes.warnings,
        notes=_notes({part for part, _, _ in rows}),
        by_folder=True,
    )


def _check_twins(root: Path, folders: set[tuple[int, str]], classes: Classes) -> None:
    """DataError where two folders of one part are one class: rather a slip than meant."""
    seen: dict[tuple[int, int], str] = {}
    for part, word in sorted(folders):
        first = seen.setdefault((part, classes.of[word]), word)
        if first != word:
            name = classes.names[classes.of[word]]
            raise DataError(f"{root}: folders {first!r} and {word!r} of one part are both {name}; rename one")


def _notes(parts: set[int]) -> tuple[str, ...]:
    if PARTS.index("test") in parts:
        return ()
    other = "test_parts=valid, or " if PARTS.index("valid") in parts else ""
    return (f"no test part: choose {other}a kfold split, or test on another data set",)


FOLDER_SET = ListedSet(
    name=NAME,
    summary="images of your own in class folders: train/<class>/ and test/<class>/, or <class>/ alone",
    root_env="FERBENCH_FOLDER_ROOT",
    scan=scan_folder,
    access=ACCESS,
    scan_options={"codes": CODES_OPTION},
)
