"""Adience: age and gender of unfiltered faces from photo albums, in five folds that share no person.

Source: Eidinger, Enbar and Hassner, IEEE TIFS 2014. There is no test set: either one fold is it (`test_fold`), or a
kfold split takes each in turn (`own_folds`). SSFER shuffles images instead, so that people are in training and test.
The boxes in the fold files belong to the original photographs and not to the crops, and are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.cells import REPEATED, once
from ferbench.bench.data.reading.listing import Column, Expected, Labelling, ListedSet, Listing, Options
from ferbench.bench.data.reading.textfile import note, text_of
from ferbench.bench.data.reading.tree import first_folder, nothing_found
from ferbench.bench.data.sets.adience.folds import AGE_GROUPS, GENDERS, Face, nearest_group, parse_fold
from ferbench.validation import Option

NAME = "adience"
ACCESS = "Adience is given out by form, see https://talhassner.github.io/home/projects/Adience/Adience-data.html"
TREES = (
    "AdienceBenchmarkGenderAndAgeClassification",
    "AdienceBenchmarkOfUnfilteredFacesForGenderAndAgeClassification",
    "Adience",
)
FOLDS = 5
PREFIX = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}
ROWS = (4484, 3730, 3894, 3446, 3816)
MEASURED_FOLDS = 2  # the first two were counted in the real files
# As quoted by others: images with one of the eight exact age groups.
AGES = (2488, 2140, 2293, 1642, 5004, 2119, 825, 867)


def scan_adience(root: Path, options: Options) -> Listing:
    """The copy at `root`; options: images (faces, aligned or auto) and frontal. Raises DataError."""
    name = "fold_frontal_{}_data.txt" if options["frontal"] else "fold_{}_data.txt"
    for base in _bases(root):
        paths = [base / name.format(fold) for fold in range(FOLDS)]
        there = [path for path in paths if path.is_file()]
        if there and len(there) < FOLDS:
            lost = ", ".join(path.name for path in paths if path not in there)
            raise DataError(f"{base} has {there[0].name} but not {lost}: get all five")
        if there:
            return _listing(base, paths, str(options["images"]), bool(options["frontal"]), options.get("repeated"))
    raise nothing_found(root, "Adience", f"{name.format(0)} to {name.format(4)}, and aligned/ or faces/", ACCESS)


def _bases(root: Path) -> list[Path]:
    """The root and the folders an archive may unpack into, one in the other."""
    bases = [root]
    for _ in range(2):
        folder = first_folder(bases[-1], TREES)
        if folder is not None:
            bases.append(folder)
    return bases


def _listing(base: Path, paths: list[Path], wanted: str, frontal: bool, repeated: object) -> Listing:
    kinds = [kind for kind in PREFIX if wanted in ("auto", kind) and (base / kind).is_dir()]
    if not kinds:
        folders = " or ".join(f"{kind}/" for kind in PREFIX if wanted in ("auto", kind))
        raise DataError(f"{base} has fold files but no {folders}; unpack the images beside them")
    folds = [parse_fold(text_of(path), str(path)) for path in paths]
    flat = [(face, fold) for fold, rows in enumerate(folds) for face in rows]
    names = [f"{face.user}/{face.name}" for face, _ in flat]
    said = [(face.age, face.gender) for face, _ in flat]
    kept = once(names, said, repeated, "the fold files")
    faces = {names[row]: flat[row] for row in kept.rows}
    ids = sorted(faces)
    groups = list(AGE_GROUPS)
    users = {user: number for number, user in enumerate(sorted({face.user for face, _ in faces.values()}))}
    differences, warnings = ([], []) if frontal else _row_counts(folds)
    columns: dict[str, Column] = {
        "folds": np.array([faces[name][1] for name in ids], np.int64),
        "age": np.array([faces[name][0].age for name in ids], np.str_),
        "gender": np.array([faces[name][0].gender for name in ids], np.str_),
    }
    return Listing(
        dataset=NAME,
        root=base,
        layout=f"{kinds[0]}/ with {'frontal ' if frontal else ''}fold files",
        ids=np.array([f"{kinds[0]}/{name}" for name in ids], np.str_),
        paths=np.array([_path(kinds[0], faces[name][0]) for name in ids], np.str_),
        parts=np.zeros(len(ids), np.int8),
        labels=np.array([groups.index(age) if (age := faces[name][0].age) in groups else -1 for name in ids], np.int64),
        classes=tuple(groups),
        subjects=np.array([users[faces[name][0].user] for name in ids], np.int64),
        columns=columns,
        expected=() if frontal else (_expected(),),
        differences=(*differences, *_shared_users(folds)),
        warnings=(*warnings, *kept.warnings),
        notes=kept.notes,
        aside={other: "see option images" for other in PREFIX if other != kinds[0]},
        label_files=tuple(map(note, paths)),
    )


def _path(kind: str, face: Face) -> str:
    return f"{kind}/{face.user}/{PREFIX[kind]}.{face.name}"


def _expected() -> Expected:
    return Expected(
        {name: (count, 0, 0) for name, count in zip(AGE_GROUPS, AGES, strict=True)},
        measured=False,
        source="a list by others",
    )


def _row_counts(folds: list[list[Face]]) -> tuple[list[str], list[str]]:
    """Differences and warnings: a public copy of the fold files is cut short."""
    lines: tuple[list[str], list[str]] = ([], [])
    for fold, (rows, wanted) in enumerate(zip(folds, ROWS, strict=True)):
        if len(rows) != wanted:
            lines[fold >= MEASURED_FOLDS].append(f"fold {fold} has {len(rows):,} rows, the authors' has {wanted:,}")
    return lines


def _shared_users(folds: list[list[Face]]) -> list[str]:
    """A difference where a person is in two folds, which the authors' folds do not have."""
    seen: dict[str, int] = {}
    shared = {face.user for fold, rows in enumerate(folds) for face in rows if seen.setdefault(face.user, fold) != fold}
    return [f"{len(shared):,} people are in more than one fold, first {min(shared)}"] if shared else []


def relabel_adience(labelling: Labelling, columns: Mapping[str, Column], options: Options) -> Labelling:
    """Age or gender as the classes, the strays where asked for, and one fold as the test part."""
    if options["task"] == "gender":
        classes, words = tuple(GENDERS.values()), [GENDERS.get(str(word), "") for word in columns["gender"]]
    else:
        classes, words = tuple(AGE_GROUPS), [str(age) for age in columns["age"]]
    strays = sum(bool(word) and word not in classes for word in words)
    if options["task"] == "age" and options["strays"] == "nearest":
        words = list(map(nearest_group, words))
    position = {name: code for code, name in enumerate(classes)}
    fold = int(options["test_fold"])
    if not -1 <= fold < FOLDS:
        raise DataError(f"option 'test_fold' for {NAME} must be 0 to {FOLDS - 1}, or -1 for none, not {fold}")
    notes = [f"{strays:,} images have an age that is none of the eight groups: {options['strays']}"] if strays else []
    return replace(
        labelling,
        classes=classes,
        labels=np.array([position.get(word, -1) for word in words], np.int64),
        parts=np.where(columns["folds"] == fold, PARTS.index("test"), PARTS.index("train")).astype(np.int8),
        notes=tuple(notes),
    )


ADIENCE_SET = ListedSet(
    name=NAME,
    summary="Adience: 19,370 faces from photo albums, age or gender, five folds without a person in two; by form",
    root_env="FERBENCH_ADIENCE_ROOT",
    scan=scan_adience,
    access=ACCESS,
    scan_options={
        "images": Option("auto", "faces aligned by landmarks, or only turned upright", ("auto", "aligned", "faces")),
        "frontal": Option(False, "the fold files of nearly frontal faces"),
        "repeated": REPEATED,
    },
    open_options={
        "task": Option("gender", "what the classes are", ("gender", "age")),
        "strays": Option("drop", "ages that are none of the eight groups: leave out, or nearest", ("drop", "nearest")),
        "test_fold": Option(-1, "fold that is the test part, 0 to 4; -1: none, for kfold splits"),
    },
    relabel=relabel_adience,
    defaults={"channels": "rgb"},
)
