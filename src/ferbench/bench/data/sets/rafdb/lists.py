"""RAF-DB's text files, parsed strictly: label lists, bounding boxes, manual landmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.textfile import columns_of, csv_rows, lines, number, text_of, whole

PARTITION = "EmoLabel/list_patition_label.txt"  # spelt as the authors do
KAGGLE_LISTS = ("train_labels.csv", "test_labels.csv")
MOST_FIELDS = 3  # name, code and, in some lists, a coarse label
_NAME = re.compile(r"[\w.-]+\.jpg", re.ASCII)
_ORIGINAL = re.compile(r"((?:train|test)_\d{4,5})(?:_aligned)?\.(?:jpg|png)", re.ASCII)


@dataclass(frozen=True)
class Row:
    """A line of a label list: file name and code as written."""

    name: str
    code: int


def parse_list(text: str, where: str, codes: range) -> list[Row]:
    """`<name>.jpg <code>` per line, perhaps with a third field, which is left out. Raises DataError."""
    rows = []
    for line, content in lines(text, where):
        fields = content.split()
        if not 2 <= len(fields) <= MOST_FIELDS or not _NAME.fullmatch(fields[0]):
            raise DataError(f"{where} line {line}: {content[:60]!r} is not '<name>.jpg <code>'")
        rows.append(Row(fields[0], whole(fields[1], where, line, codes, "code")))
    if not rows:
        raise DataError(f"{where}: no lines; copy the file again")
    return rows


def original_name(name: str) -> str | None:
    """`train_00001.jpg` for that name and for its aligned image, None for names of another form."""
    match = _ORIGINAL.fullmatch(name)
    return f"{match[1]}.jpg" if match else None


def check_against_folders(text: str, where: str, folder_of: Mapping[str, int]) -> list[str]:
    """Differences between a re-pack's list (columns image and label, codes from 1) and its class folders."""
    rows = csv_rows(text, where)
    _, header = next(rows, (1, []))
    image, label = columns_of(header, ("image", "label"), where)
    wrong = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{where} line {line}: {len(cells)} fields, expected {len(header)}")
        code = whole(cells[label], where, line, range(1, 8), "label")
        if folder_of.get(cells[image], code - 1) != code - 1:
            wrong.append(cells[image])
    return [f"{len(wrong):,} labels in {where} are not those of the folders, first {wrong[0]}"] if wrong else []


def read_boxes(tree: Path, stems: Sequence[str]) -> NDArray[np.float32] | None:
    """[N, 4] boxes in the original images, NaN where an image has no file; None without the folder."""
    folder = tree / "Annotation" / "boundingbox"
    if not folder.is_dir():
        return None
    boxes = np.full((len(stems), 4), np.nan, np.float32)
    for row, stem in enumerate(stems):
        path = folder / f"{stem}_boundingbox.txt"
        if path.is_file():
            boxes[row] = parse_box(text_of(path), str(path))
    return boxes


def parse_box(text: str, where: str) -> list[float]:
    """One line `x1 y1 x2 y2`."""
    fields = text.split()
    if len(fields) != 4:
        raise DataError(f"{where}: {len(fields)} numbers, expected x1 y1 x2 y2")
    return [number(field, where, 1, "box") for field in fields]


def read_landmarks(tree: Path, stems: Sequence[str]) -> NDArray[np.float32] | None:
    """[N, 5, 2] manual landmarks in the original images, NaN where an image has no file; None without the folder."""
    folder = tree / "Annotation" / "manual"
    if not folder.is_dir():
        return None
    points = np.full((len(stems), 5, 2), np.nan, np.float32)
    for row, stem in enumerate(stems):
        path = folder / f"{stem}_manu_attri.txt"
        if path.is_file():
            points[row] = parse_manual(text_of(path), str(path))
    return points


def parse_manual(text: str, where: str) -> list[list[float]]:
    """The five landmarks of a manual annotation; gender, race and age group on the lines after them are left out."""
    rows = [(line, content.split()) for line, content in lines(text, where)]
    if len(rows) < 5 or any(len(fields) != 2 for _, fields in rows[:5]):
        raise DataError(f"{where}: expected five lines of x and y, then gender, race and age group")
    return [[number(field, where, line, "landmark") for field in fields] for line, fields in rows[:5]]
