"""CK+ as Ada-CM and ReMoP test on it: 636 frames of posed expressions, of people no training set has seen.

Source: Lucey et al., CVPR Workshops 2010. A sequence goes from a neutral face to the peak of an expression; 327 of 593
have an emotion. The papers say "the first and last frame of each sequence" in seven classes; the only choice that makes
636 is the last frames of the 309 sequences that are not contempt, and the first frames of all 327 as neutral. Inferred,
so `neutral_from` has the other reading too. First and last are by the order of file names: numbers may start anywhere.
Frames show head and shoulders; the face is cut out by the landmarks, which go from brow to chin: hence the margin.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.listing import Expected, ListedSet, Listing, Options
from ferbench.bench.data.reading.names import canonical
from ferbench.bench.data.reading.tree import first_folder, image_names, nothing_found, subfolders
from ferbench.bench.data.sets.ckplus.files import hulls, read_emotions, read_landmarks, sequences
from ferbench.validation import Option

NAME = "ckplus"
ACCESS = "CK+ is given out under a signed agreement, see https://www.jeffcohn.net/Resources/"
CLASSES = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
TREES = ("CK+", "CKPlus", "CK_plus", "cohn-kanade-plus")
IMAGES = ("cohn-kanade-images", "extended-cohn-kanade-images")
EMOTIONS = ("Emotion", "Emotion_labels")
LANDMARKS = ("Landmarks",)
# Sequences with an emotion, as quoted by others; three times these are the counts of the CK+48 re-pack.
SEQUENCES = dict(anger=45, contempt=18, disgust=59, fear=25, happiness=69, sadness=28, surprise=83)
ALL_SEQUENCES, SUBJECTS = 593, 123
REFUSED = {
    "CK+48": "is the CK+48 re-pack: the last three frames of each sequence and no neutral ones",
    "ckextended.csv": "is a re-pack of 48 x 48 pixels with a random split that has the same people in several parts",
}


def scan_ckplus(root: Path, options: Options) -> Listing:
    """The authors' tree at `root`; options: neutral_from and use. Raises DataError, also for other re-packs."""
    bases = [base for base in (root, *(first_folder(root, [name]) for name in TREES)) if base is not None]
    for base in bases:
        images, emotions = _nested(base, IMAGES), _nested(base, EMOTIONS)
        if images is not None and emotions is not None:
            return _listing(base, images, emotions, options)
        if images is not None:
            raise DataError(f"{base}: {images.name} without the folder Emotion; unpack Emotion_labels.zip beside it")
    raise _refusal(root, bases)


def _nested(base: Path, names: tuple[str, ...]) -> Path | None:
    """The folder called one of `names` that holds the sequences; archives may unpack one into another."""
    folder: Path | None = base
    found = None
    while folder is not None:
        folder = first_folder(folder, names)
        found = folder or found
        if found is not None and sequences(found):
            return found
    return None


def _listing(base: Path, images: Path, emotions: Path, options: Options) -> Listing:
    labels = read_emotions(emotions)
    if not labels:
        raise DataError(f"{emotions}: no emotion files; copy the folder again")
    rows: list[tuple[str, int]] = []
    differences = []
    for sequence, name in labels.items():
        frames = image_names(images / sequence) if (images / sequence).is_dir() else []
        if len(frames) < 2:
            differences.append(f"sequence {sequence} has an emotion and {len(frames)} images")
            continue
        if name != "contempt" or options["neutral_from"] == "all_327":
            rows.append((f"{sequence}/{frames[0]}", CLASSES.index("neutral")))
        if name != "contempt":
            rows.append((f"{sequence}/{frames[-1]}", CLASSES.index(name)))
    rows.sort()
    ids = [path for path, _ in rows]
    landmarks = read_landmarks(_nested(base, LANDMARKS), ids)
    part = PARTS.index(str(options["use"]))
    return Listing(
        dataset=NAME,
        root=base,
        layout=f"official tree; first and last frames, neutral ones from {options['neutral_from']}",
        ids=np.array(ids, np.str_),
        paths=np.array([f"{images.relative_to(base).as_posix()}/{path}" for path in ids], np.str_),
        parts=np.full(len(rows), part, np.int8),
        labels=np.array([label for _, label in rows], np.int64),
        classes=CLASSES,
        boxes=None if landmarks is None else hulls(landmarks),
        landmarks=landmarks,
        uncropped=True,
        subjects=np.array([int(path[1:4]) for path in ids], np.int64),
        expected=(_expected(str(options["neutral_from"]), part),),
        differences=tuple(differences),
        warnings=_totals(images),
        aside={images.relative_to(base).as_posix(): "of the sequences only first and last frames are taken"},
        watched=tuple(path for path in sorted(emotions.rglob("*_emotion.txt")) if path.is_file()),
        notes=("the 636-image protocol is inferred from its total: the papers do not state it",),
    )


def _expected(neutral_from: str, part: int) -> Expected:
    labelled = {name: count for name, count in SEQUENCES.items() if name != "contempt"}
    neutral = sum((SEQUENCES if neutral_from == "all_327" else labelled).values())
    counts = {}
    for name in CLASSES:
        row: list[int | None] = [0] * len(PARTS)
        row[part] = labelled.get(name, neutral)
        counts[name] = (row[0], row[1], row[2])
    return Expected(counts, measured=False, source="a list by others")


def _totals(images: Path) -> tuple[str, ...]:
    """Warnings where sequences or people are not as many as published."""
    found = sequences(images)
    people = len({sequence.partition("/")[0] for sequence in found})
    lines = []
    if len(found) != ALL_SEQUENCES:
        lines.append(f"{len(found):,} sequences, the paper says {ALL_SEQUENCES}")
    if people != SUBJECTS:
        lines.append(f"{people:,} people, the paper says {SUBJECTS}")
    return tuple(lines)


def _refusal(root: Path, bases: list[Path]) -> DataError:
    needs = f"the protocol needs the authors' tree (cohn-kanade-images and Emotion); {ACCESS}"
    for base in bases:
        if not base.is_dir():
            continue
        if (base / "ckextended.csv").is_file():
            return DataError(f"{base / 'ckextended.csv'} {REFUSED['ckextended.csv']}: {needs}")
        for folder in (base, first_folder(base, ["CK+48"])):
            words = {canonical(name) for name in subfolders(folder)} if folder is not None else set()
            if {"contempt", "anger"} <= words:
                return DataError(f"{folder} {REFUSED['CK+48']}: {needs}")
    return nothing_found(root, "CK+", "cohn-kanade-images/S005/001/*.png and Emotion/S005/001/*_emotion.txt", ACCESS)


CKPLUS_SET = ListedSet(
    name=NAME,
    summary="CK+: 636 first and last frames of posed sequences, seven classes, for testing; signed agreement",
    root_env="FERBENCH_CKPLUS_ROOT",
    scan=scan_ckplus,
    access=ACCESS,
    scan_options={
        "neutral_from": Option(
            "all_327", "first frames of all labelled sequences, or not of contempt", ("all_327", "non_contempt_309")
        ),
        "use": Option("test", "all images for testing (cross-data-set) or for training (folds)", ("test", "train")),
    },
    defaults={"margin": 20},
)
