"""Data sets of a user's own, generated: class folders, a table, images without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ferbench.bench.data.reading.names import EMOTIONS
from ferbench.bench.data.sets.fake import Faker, save_face, write_lines

CLASSES = EMOTIONS[:7]


def _fill(
    folder: Path, names: Mapping[int, str], images: int, first: int = 0, size: tuple[int, int] = (64, 64)
) -> None:
    for label, name in names.items():
        for number in range(first, first + images):
            save_face(folder / name / f"{number:05d}.png", label, number, size)


def folder(out: Path, images: int) -> None:
    """train/, valid/ and test/ with class folders in words."""
    words = {label: name.capitalize() for label, name in enumerate(CLASSES)}
    for part, each, first in (("train", images, 0), ("valid", images // 3, 100_000), ("test", images // 3, 200_000)):
        _fill(out / part, words, max(each, 1), first)


def flat(out: Path, images: int) -> None:
    """Class folders alone."""
    _fill(out, dict(enumerate(CLASSES)), images)


def digits(out: Path, images: int) -> None:
    """Class folders that are called after AffectNet's codes, in train and test."""
    codes = {label: str(label) for label in range(len(CLASSES))}
    _fill(out / "train", codes, images)
    _fill(out / "test", codes, max(images // 3, 1), 100_000)


def faces(out: Path, images: int) -> None:
    """Images of several sizes in several folders, without labels."""
    for number in range(7 * images):
        save_face(out / f"album{number % 3}" / f"{number:05d}.jpg", number % 7, number, (80 + number % 3 * 16, 96))


def table(out: Path, images: int) -> None:
    """labels.csv with every column there can be, and the images it lists."""
    rows = ["path,label,part,x1,y1,x2,y2,subject," + ",".join(CLASSES)]
    for part, each, first in (("train", images, 0), ("test", max(images // 3, 1), 100_000)):
        for label, name in enumerate(CLASSES):
            for number in range(first, first + each):
                path = f"images/{part}{label}_{number}.png"
                save_face(out / path, label, number, (64, 64))
                votes = ",".join(str(8 if other == label else int(other == (label + 1) % 7)) for other in range(7))
                rows.append(f"{path},{name},{part},8,8.5,56,60,person{part}{number % 4},{votes}")
    write_lines(out / "labels.csv", rows)


def bare_table(out: Path, images: int) -> None:
    """labels.csv of paths and RAF-DB-like codes, without a header."""
    rows = []
    for label in range(7):
        for number in range(images):
            save_face(out / f"{label}_{number}.png", label, number, (64, 64))
            rows.append(f"{label}_{number}.png,{label + 1}")
    write_lines(out / "labels.csv", rows)


FOLDER: Mapping[str, Faker] = {"parts": folder, "flat": flat, "digits": digits}
FACES: Mapping[str, Faker] = {"folders": faces}
CSV: Mapping[str, Faker] = {"table": table, "bare": bare_table}
