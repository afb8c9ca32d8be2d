"""AffectNet's older release: original images of any size, and two csv files with box, landmarks and expression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.preparing.geometry import five_points
from ferbench.bench.data.reading.names import AFFECTNET, AFFECTNET_OTHERS
from ferbench.bench.data.reading.textfile import columns_of, csv_file, note, number, whole
from ferbench.bench.data.reading.tree import clean_path, first_folder
from ferbench.bench.data.sets.affectnet.rows import Rows

COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip
LISTS = "Manually_Annotated_file_lists"
IMAGES = "Manually_Annotated_Images"
FILES = {"training.csv": "train", "validation.csv": "valid"}
LANDMARKS = 68
_NAN = float("nan")


@dataclass(frozen=True)
class Face:
    """A row: path below the image folder, code, box x1, y1, x2, y2 and five landmarks [5, 2] (NaN where not given)."""

    path: str
    code: int
    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]


def read_csv_release(base: Path) -> Rows | None:
    """The rows of training.csv and validation.csv, None where they are not there. Raises DataError."""
    lists = first_folder(base, [LISTS]) or base
    if not (lists / "training.csv").is_file():
        return None
    images = first_folder(base, [IMAGES])
    if images is None and first_folder(base, ["Manually_Annotated"]):
        images = first_folder(base / "Manually_Annotated", [IMAGES])
    prefix = f"{images.relative_to(base).as_posix()}/" if images is not None else ""
    rows = Rows(base, "csv release, original images", boxes=[], landmarks=[], uncropped=True)
    assert rows.boxes is not None and rows.landmarks is not None
    for name, part in FILES.items():
        path = lists / name
        if not path.is_file():
            raise DataError(f"{path} is missing, but training.csv is there: get both")
        rows.label_files.append(note(path))
        for face in parse_rows(csv_file(path), str(path)):
            if face.code in AFFECTNET_OTHERS:
                rows.others += 1
                continue
            rows.add(prefix + face.path, PARTS.index(part), face.code)
            rows.boxes.append(face.box)
            rows.landmarks.append(face.landmarks)
    if not rows.paths:
        raise DataError(f"{lists}: no row has one of the eight expressions; copy the files again")
    return rows


def parse_rows(rows: Iterator[tuple[int, list[str]]], where: str) -> Iterator[Face]:
    """The rows of one file, with or without a header. Raises DataError with the line."""
    positions: Sequence[int] = range(len(COLUMNS))
    width = len(COLUMNS)
    for place, (line, cells) in enumerate(rows):
        if place == 0 and COLUMNS[0].casefold() in [cell.casefold() for cell in cells]:
            positions, width = columns_of(cells, COLUMNS, where), len(cells)
            continue
        if len(cells) != width:
            raise DataError(
                f"{where} line {line}: {len(cells)} fields, expected {width} ({', '.join(COLUMNS[:3])}, ...)"
            )
        path, x, y, wide, high, landmarks, expression = (cells[position] for position in positions[:7])
        yield Face(
            clean_path(path, f"{where} line {line}"),
            whole(expression, where, line, range(len(AFFECTNET) + len(AFFECTNET_OTHERS)), "expression"),
            _box([x, y, wide, high], where, line),
            _landmarks(landmarks, where, line),
        )


def _box(cells: list[str], where: str, line: int) -> tuple[float, float, float, float]:
    """Corners of a box given as corner and size; NaN where it is empty or has no area."""
    if any(cell.upper() in ("", "NULL", "NAN") for cell in cells):
        return _NAN, _NAN, _NAN, _NAN
    x, y, wide, high = (number(cell, where, line, "face box") for cell in cells)
    return (x, y, x + wide, y + high) if wide > 0 and high > 0 else (_NAN, _NAN, _NAN, _NAN)


def _landmarks(cell: str, where: str, line: int) -> NDArray[np.float32]:
    """Five points of the 68 written as `x;y;x;y;...`; NaN where none are written."""
    if cell.upper() in ("", "NULL", "NAN"):
        return np.full((5, 2), np.nan, np.float32)
    fields = cell.split(";")
    try:
        values = np.array([float(field) for field in fields])
    except ValueError as error:
        raise DataError(f"{where} line {line}: the landmarks are not numbers") from error
    if len(values) != 2 * LANDMARKS or not (np.abs(values) < 1e9).all():
        raise DataError(f"{where} line {line}: {len(values)} landmark numbers, expected {2 * LANDMARKS} finite ones")
    return five_points(values.reshape(LANDMARKS, 2)).astype(np.float32)
