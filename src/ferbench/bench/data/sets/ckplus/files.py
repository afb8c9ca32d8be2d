"""CK+'s text files, parsed strictly: an emotion code per sequence, 68 landmarks per frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.names import CKPLUS
from ferbench.bench.data.reading.textfile import lines, number, text_of
from ferbench.bench.data.reading.tree import subfolders

LANDMARKS = 68
SUBJECT = re.compile(r"S\d{3}", re.ASCII)
SEQUENCE = re.compile(r"\d{3}", re.ASCII)


def sequences(folder: Path) -> list[str]:
    """`S005/001` and so on: the folders of sequences below `folder`, sorted; files between them are passed over."""
    return [
        f"{subject}/{name}"
        for subject in subfolders(folder)
        if SUBJECT.fullmatch(subject)
        for name in subfolders(folder / subject)
        if SEQUENCE.fullmatch(name)
    ]


def read_emotions(folder: Path) -> dict[str, str]:
    """Sequence to class name, for the sequences that have an emotion file."""
    found = {}
    for sequence in sequences(folder):
        files = sorted(path for path in (folder / sequence).iterdir() if path.name.endswith("_emotion.txt"))
        files = [path for path in files if not path.name.startswith(".")]
        if len(files) > 1:
            raise DataError(f"{folder / sequence}: {len(files)} emotion files, expected one")
        if files:
            found[sequence] = parse_emotion(text_of(files[0]), str(files[0]))
    return found


def parse_emotion(text: str, where: str) -> str:
    """One code from 1 to 7, written as a float ("   3.0000000e+00"), as its class name."""
    rows = list(lines(text, where))
    if len(rows) != 1:
        raise DataError(f"{where}: {len(rows)} lines, expected one emotion code")
    value = number(rows[0][1], where, rows[0][0], "emotion")
    if value not in CKPLUS or value == 0:
        raise DataError(
            f"{where}: emotion {value:g} is none of {', '.join(f'{k}={v}' for k, v in CKPLUS.items() if k)}"
        )
    return CKPLUS[int(value)]


def read_landmarks(folder: Path | None, images: Sequence[str]) -> NDArray[np.float32] | None:
    """[N, 68, 2] landmarks of `images` (paths such as S005/001/S005_001_00000001.png), NaN without a file."""
    if folder is None:
        return None
    points = np.full((len(images), LANDMARKS, 2), np.nan, np.float32)
    for row, image in enumerate(images):
        path = folder / f"{image.rpartition('.')[0]}_landmarks.txt"
        if path.is_file():
            points[row] = parse_landmarks(text_of(path), str(path))
    return points if np.isfinite(points).any() else None


def hulls(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 4] the smallest box x1, y1, x2, y2 around each image's landmarks [N, P, 2], NaN where they are unknown."""
    return np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)


def parse_landmarks(text: str, where: str) -> list[list[float]]:
    """68 lines of x and y."""
    rows = [(line, content.split()) for line, content in lines(text, where)]
    if len(rows) != LANDMARKS or any(len(fields) != 2 for _, fields in rows):
        raise DataError(f"{where}: expected {LANDMARKS} lines of x and y")
    return [[number(field, where, line, "landmark") for field in fields] for line, fields in rows]
