"""SFEW 2.0: film stills with one of seven expressions, as frames or as the faces its authors cut out and aligned.

Source: Dhall et al., ICCV Workshops 2011; split 2.0 of the EmotiW 2015 challenge. The test labels are not public, so
papers report on the validation part, and so does this reader unless told otherwise. Results hang on the alignment: the
two releases are not comparable with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.preparing.decode import BadImage, header
from ferbench.bench.data.reading.listing import Expected, ListedSet, Listing, Options
from ferbench.bench.data.reading.tree import (
    archives_in,
    class_folders,
    first_folder,
    image_names,
    nothing_found,
    subfolders,
)
from ferbench.validation import Option

NAME = "sfew"
ACCESS = "SFEW is given out under the EmotiW licence, see https://users.cecs.anu.edu.au/~few_group/AFEW.html"
CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
TREES = ("SFEW 2.0", "SFEW_2.0", "SFEW2.0", "SFEW_2", "SFEW")
FOLDERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "aligned": {
        "train": ("Train_Aligned_Faces", "Train_Aligned"),
        "valid": ("Val_Aligned_Faces_new", "Val_Aligned_Faces", "Val_Aligned"),
    },
    "frames": {"train": ("Train",), "valid": ("Val", "Valid")},
}
# As quoted by others; each row adds up to the published total (958 + 436 frames, 891 + 431 aligned faces).
COUNTS = {
    "frames": ((178, 66, 98, 198, 150, 172, 96), (77, 23, 47, 73, 86, 73, 57)),
    "aligned": ((178, 52, 78, 184, 144, 161, 94), (77, 23, 46, 72, 84, 73, 56)),
}
SMALLEST_FRAME = 400  # pixels; frames are 720 wide, aligned faces 143


def scan_sfew(root: Path, options: Options) -> Listing:
    """The copy at `root`; option release: frames, aligned or auto (aligned, where both are there). Raises DataError."""
    bases = [base for base in (root, *(first_folder(root, [name]) for name in TREES)) if base is not None]
    wanted = str(options["release"])
    for release in ("aligned", "frames") if wanted == "auto" else (wanted,):
        for base in bases:
            folders = _part_folders(base, release)
            if folders is not None:
                return _listing(base, folders, release, wanted)
    raise _refusal(root, bases, wanted)


def _part_folders(base: Path, release: str) -> dict[str, Path] | None:
    """The folder of each part that holds the class folders; None unless both parts are there.

    An archive unpacked in place nests its folders: Train/Train_Aligned_Faces/Angry and the like.
    """
    found = {}
    for part, names in FOLDERS[release].items():
        for parent in (base, first_folder(base, FOLDERS["frames"][part])):
            folder = first_folder(parent, names) if parent is not None else None
            below = _class_level(folder) if folder is not None else None
            if below is not None and part not in found:
                found[part] = below
    return found if len(found) == 2 else None


def _class_level(folder: Path) -> Path | None:
    """`folder`, or the one folder in it, and so on, down to where class folders are; None where there are none."""
    for _ in range(3):
        if class_folders(folder, {}) is not None:
            return folder
        inside = subfolders(folder)
        if len(inside) != 1:
            return None
        folder /= inside[0]
    return None


def _listing(base: Path, folders: Mapping[str, Path], release: str, wanted: str) -> Listing:
    rows = []
    for part, folder in folders.items():
        found = class_folders(folder, {})
        assert found is not None
        unknown = sorted(set(found[1]) - set(CLASSES))
        if unknown:
            raise DataError(f"{folder}: a folder for {', '.join(unknown)}, which is no class of SFEW")
        for name, directory in found[1].items():
            where = (folder / directory).relative_to(base).as_posix()
            for file in image_names(folder / directory):
                rows.append((part, f"{part}/{name}/{file}", f"{where}/{file}", CLASSES.index(name)))
    if not rows:
        raise DataError(f"{base}: the class folders in {', '.join(map(str, folders.values()))} hold no images")
    rows.sort()
    kind, notes = _kind(base / rows[0][2], release, wanted)
    counts = {name: (train, valid, None) for name, train, valid in zip(CLASSES, *COUNTS[kind], strict=True)}
    return Listing(
        dataset=NAME,
        root=base,
        layout=f"{'aligned faces' if kind == 'aligned' else 'film frames'} in class folders",
        ids=np.array([f"{kind}/{row[1]}" for row in rows], np.str_),
        paths=np.array([row[2] for row in rows], np.str_),
        parts=np.array([PARTS.index(row[0]) for row in rows], np.int8),
        labels=np.array([row[3] for row in rows], np.int64),
        classes=CLASSES,
        uncropped=kind == "frames",
        by_folder=True,
        aside=_aside(base, set(folders.values())),
        expected=(Expected(counts, measured=False, source="a list by others"),),
        notes=notes,
    )


def _aside(base: Path, used: set[Path]) -> dict[str, str]:
    """Folders of the other release, and those of the test part, whose labels are not public."""
    known = {name.casefold() for names in FOLDERS.values() for part in names.values() for name in part}
    aside = {}
    for name in subfolders(base):
        folder = base / name
        if name.casefold().startswith("test"):
            aside[name] = "the test labels are not public"
        elif name.casefold() in known and not any(folder == taken or folder in taken.parents for taken in used):
            aside[name] = "the other release; see option release"
    return aside


def _kind(first: Path, release: str, wanted: str) -> tuple[str, tuple[str, ...]]:
    """Which release the images are of: folders that are called Train and Val may hold either, so their size decides."""
    try:
        width, height, _ = header(first.read_bytes())
    except BadImage:
        return release, ()
    small = max(width, height) < SMALLEST_FRAME
    if release == "frames" and small:
        if wanted == "frames":
            raise DataError(f"{first} has {width} x {height} pixels: these are aligned faces; take release=aligned")
        return "aligned", (f"taken for aligned faces by their size, {width} x {height}",)
    if release == "aligned" and not small:
        return release, (f"{first.name} has {width} x {height} pixels, more than the authors' aligned faces",)
    return release, ()


def _refusal(root: Path, bases: list[Path], wanted: str) -> DataError:
    """Why nothing was recognised: class folders that are still packed, or another release, or nothing at all."""
    for base in bases:
        for release in FOLDERS:
            if release != wanted and _part_folders(base, release) is not None:
                return DataError(f"{base} holds the {release} release alone; take release={release}")
        for name in (name for names in FOLDERS.values() for part in names.values() for name in part):
            folder = first_folder(base, [name])
            packed = archives_in(folder) if folder is not None else []
            if packed:
                return DataError(f"{folder}: {', '.join(packed[:3])} must be unpacked first (ferbench unpacks nothing)")
    expected = "Train_Aligned_Faces/Angry.. and Val_Aligned_Faces_new/Angry.., or Train/Angry.. and Val/Angry.."
    return nothing_found(root, "SFEW 2.0", expected, ACCESS)


SFEW_SET = ListedSet(
    name=NAME,
    summary="SFEW 2.0: film stills, seven expressions, 958 training and 436 validation frames; licence from ANU",
    root_env="FERBENCH_SFEW_ROOT",
    scan=scan_sfew,
    access=ACCESS,
    scan_options={
        "release": Option("auto", "whole frames, or faces aligned by the authors", ("auto", "frames", "aligned")),
    },
    defaults={"test_parts": "valid", "channels": "rgb"},
)
