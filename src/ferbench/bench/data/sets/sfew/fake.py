"""SFEW's layouts, generated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ferbench.bench.data.sets.fake import Faker, save_face, write_lines

FOLDERS = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
FRAME, ALIGNED = (720, 576), (143, 181)


def _part(folder: Path, first: int, each: int, size: tuple[int, int]) -> None:
    for label, name in enumerate(FOLDERS):
        for number in range(first, first + each):
            stem = f"Film{number % 5}_{number // 60:03d}{number % 60:02d}{label}"
            save_face(folder / name / f"{stem}.png", label, number, size)


def aligned(out: Path, images: int) -> None:
    """The authors' archives of aligned faces, unpacked side by side."""
    _part(out / "Train_Aligned_Faces", 0, images, ALIGNED)
    _part(out / "Val_Aligned_Faces_new", 100_000, max(images // 3, 1), ALIGNED)


def frames(out: Path, images: int) -> None:
    """Whole frames in Train and Val, and a Test part without labels."""
    _part(out / "Train", 0, images, FRAME)
    _part(out / "Val", 100_000, max(images // 3, 1), FRAME)
    save_face(out / "Test" / "Film_test.png", 0, 200_000, FRAME)


def nested(out: Path, images: int) -> None:
    """Aligned archives unpacked into the frames' folders, each inside a folder of its own name."""
    base = out / "SFEW_2.0"
    _part(base / "Train" / "Train_Aligned_Faces" / "Train_Aligned_Faces", 0, images, ALIGNED)
    _part(base / "Val" / "Val_Aligned_Faces" / "Val_Aligned_Faces", 100_000, max(images // 3, 1), ALIGNED)


def plain(out: Path, images: int) -> None:
    """A re-pack: aligned faces in folders that are called Train and Val, and a list of its own."""
    _part(out / "Train", 0, images, ALIGNED)
    _part(out / "Val", 100_000, max(images // 3, 1), ALIGNED)
    write_lines(out / "sfew_2.0_labels.csv", ["image_name,label,emotion,original_split"])


LAYOUTS: Mapping[str, Faker] = {"aligned": aligned, "frames": frames, "nested": nested, "plain": plain}
