"""Adience's layouts, generated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ferbench.bench.data.sets.adience.folds import AGE_GROUPS
from ferbench.bench.data.sets.adience.reader import FOLDS, PREFIX, TREES
from ferbench.bench.data.sets.fake import Faker, save_face

HEADER = "user_id original_image face_id age gender x y dx dy tilt_ang fiducial_yaw_angle fiducial_score"
STRAYS = ("None", "35", "(38, 48)", "")


def _tree(out: Path, kind: str, images: int, size: int) -> None:
    """`images` faces of each age group and a few of no group, five people in each fold."""
    ages = [f"({low}, {high})" for low, high in AGE_GROUPS.values() for _ in range(images)] + list(STRAYS)
    rows: list[list[str]] = [[] for _ in range(FOLDS)]
    for number, age in enumerate(ages):
        fold = number % FOLDS
        user, image, face = (
            f"{30601258 + 5 * fold + number // FOLDS % 5}@N{fold:02d}",
            f"{number:08d}_o.jpg",
            number % 7,
        )
        gender = ("f", "m", "u", "f", "m", "m")[number % 6]
        rows[fold].append("\t".join((user, image, str(face), age, gender, *"0 0 60 60 0 0 12".split())))
        save_face(out / kind / user / f"{PREFIX[kind]}.{face}.{image}", number // images % 8, number, (size, size))
    for fold, lines in enumerate(rows):
        for name in (f"fold_{fold}_data.txt", f"fold_frontal_{fold}_data.txt"):
            text = "\r\n".join(("\t".join(HEADER.split()), *lines)) + "\r\n"
            (out / name).write_bytes(text.encode())


def aligned(out: Path, images: int) -> None:
    """Faces aligned by landmarks, with the fold files beside them."""
    _tree(out, "aligned", images, 96)


def faces(out: Path, images: int) -> None:
    """Faces that were only turned upright."""
    _tree(out, "faces", images, 96)


def nested(out: Path, images: int) -> None:
    """The tree inside a folder of the archive's name, twice."""
    _tree(out / TREES[0] / TREES[0], "aligned", images, 96)


LAYOUTS: Mapping[str, Faker] = {"aligned": aligned, "faces": faces, "nested": nested}
