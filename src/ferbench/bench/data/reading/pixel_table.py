"""FER2013's tables of pixels, parsed strictly: fer2013.csv and icml_face_data.csv hold a 48 x 48 grey face per row.

The header names emotion, Usage and pixels in any order. A damaged line is named, never guessed at.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError

SIDE = 48
USAGES = ("Training", "PublicTest", "PrivateTest")  # in the order of faceset.PARTS


def pixel_rows(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Part and image [48, 48] of each row of fer2013.csv or icml_face_data.csv, one row in memory at a time."""
    with path.open("rb") as file:
        lines = rows(file, path.name)
        columns = header(lines, path.name, ("usage", "pixels"), optional=("emotion",))
        for line, row in lines:
            usage, pixels = cells(row, columns, path.name, line)
            yield part_of(usage, path.name, line), _pixels(pixels, path.name, line)


def rows(file: BinaryIO, where: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not blank."""
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(f"{where} after line {reader.line_num}: not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{where} line {reader.line_num}: {error}") from error


def header(
    rows: Iterator[tuple[int, list[str]]], where: str, wanted: Iterable[str], optional: Iterable[str] = ()
) -> list[int]:
    """Positions of the `wanted` columns; no column may be missing, unknown or there twice."""
    wanted = list(wanted)
    header = [cell.strip().lower() for _, row in islice(rows, 1) for cell in row]
    missing = [name for name in wanted if name not in header]
    unknown = [repr(name[:40]) for name in header if name not in wanted and name not in optional]
    if missing or unknown or len(set(header)) < len(header):
        raise DataError(
            f"{where} line 1: expected the columns {', '.join(wanted)}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(unknown[:4])}" if unknown else "")
            + ("" if missing or unknown else "; one is there twice")
        )
    return [header.index(name) for name in wanted] + [len(header)]


def cells(row: list[str], columns: list[int], where: str, line: int) -> list[str]:
    """The wanted cells of a row; `columns` ends with the number of cells a row must have."""
    *positions, width = columns
    if len(row) != width:
        raise DataError(f"{where} line {line}: {len(row)} fields, expected {width}; is the file cut short?")
    return [row[position] for position in positions]


def part_of(cell: str, where: str, line: int) -> int:
    if cell.strip() not in USAGES:
        raise DataError(f"{where} line {line}: Usage {cell[:40]!r} is none of {', '.join(USAGES)}")
    return USAGES.index(cell.strip())


def _pixels(cell: str, where: str, line: int) -> NDArray[np.uint8]:
    try:
        pixels = np.fromstring(cell, dtype=np.int64, sep=" ")
    except ValueError:
        pixels = np.array([-1])
    if pixels.size and (pixels.min() < 0 or pixels.max() > 255):
        raise DataError(f"{where} line {line}: pixels must be whole numbers from 0 to 255")
    if pixels.size != SIDE * SIDE:
        raise DataError(f"{where} line {line}: {pixels.size} pixels, expected {SIDE * SIDE}; is the file cut short?")
    return pixels.astype(np.uint8).reshape(SIDE, SIDE)
