"""The four CSV files a FERPlus copy may hold, parsed strictly: a damaged line is named, never guessed at.

label.csv                     no header: name, face box, ten counts; one file per part
fer2013new.csv                header: Usage, Image name, ten counts; rows in the order of fer2013.csv
fer2013.csv, icml_face_data.csv   header with emotion, Usage and pixels in any order; 48 x 48 grey values per row
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.ferplus_labels import COLUMNS

SIDE = 48
USAGES = ("Training", "PublicTest", "PrivateTest")  # in the order of faceset.PARTS
MOST_VOTES = 10
_COUNT = re.compile(r"\s*\d{1,3}\s*", re.ASCII)
_NAME = re.compile(r"[\w.-]+\.png", re.ASCII)


@dataclass(frozen=True)
class VoteTable:
    """One label file, row by row.

    names: [R] file names, "" where the file names no image
    parts: [R] int8, index into faceset.PARTS
    votes: [R, 10] uint8, in the order of COLUMNS
    """

    names: list[str]
    parts: NDArray[np.int8]
    votes: NDArray[np.uint8]

    def keys(self) -> list[tuple[int, str]]:
        """Part and name of every row, in order."""
        return list(zip(self.parts.tolist(), self.names, strict=True))


def parse_label_csv(data: bytes, where: str, part: int) -> VoteTable:
    """Microsoft's headerless label.csv of one part; `where` names the file in errors."""
    names: list[str] = []
    votes: list[list[int]] = []
    for line, row in _rows(io.BytesIO(data), where):
        if len(row) != 2 + len(COLUMNS):
            raise DataError(f"{where} line {line}: {len(row)} fields, expected a name, a box and {len(COLUMNS)} counts")
        names.append(_name(row[0], where, line))
        votes.append(_counts(row[2:], where, line))
    return _table(names, [part] * len(names), votes, where)


def parse_new_csv(data: bytes, where: str) -> VoteTable:
    """fer2013new.csv; the columns are found by their names, so their order does not matter."""
    rows = _rows(io.BytesIO(data), where)
    columns = _header(rows, where, ("usage", "image name", *(name.lower() for name in COLUMNS)))
    names: list[str] = []
    parts: list[int] = []
    votes: list[list[int]] = []
    for line, row in rows:
        cells = _cells(row, columns, where, line)
        parts.append(_part(cells[0], where, line))
        names.append(_name(cells[1], where, line) if cells[1].strip() else "")
        votes.append(_counts(cells[2:], where, line))
    return _table(names, parts, votes, where)


def pixel_rows(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Part and image [48, 48] of each row of fer2013.csv or icml_face_data.csv, one row in memory at a time."""
    with path.open("rb") as file:
        rows = _rows(file, path.name)
        columns = _header(rows, path.name, ("usage", "pixels"), optional=("emotion",))
        for line, row in rows:
            usage, pixels = _cells(row, columns, path.name, line)
            yield _part(usage, path.name, line), _pixels(pixels, path.name, line)


def _rows(file: BinaryIO, where: str) -> Iterator[tuple[int, list[str]]]:
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


def _header(
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


def _cells(row: list[str], columns: list[int], where: str, line: int) -> list[str]:
    """The wanted cells of a row; `columns` ends with the number of cells a row must have."""
    *positions, width = columns
    if len(row) != width:
        raise DataError(f"{where} line {line}: {len(row)} fields, expected {width}; is the file cut short?")
    return [row[position] for position in positions]


def _name(cell: str, where: str, line: int) -> str:
    if not _NAME.fullmatch(cell.strip()):
        raise DataError(f"{where} line {line}: {cell[:40]!r} is no image name (expected e.g. 'fer0000000.png')")
    return cell.strip()


def _part(cell: str, where: str, line: int) -> int:
    if cell.strip() not in USAGES:
        raise DataError(f"{where} line {line}: Usage {cell[:40]!r} is none of {', '.join(USAGES)}")
    return USAGES.index(cell.strip())


def _counts(cells: list[str], where: str, line: int) -> list[int]:
    """Ten vote counts; ten taggers voted, so a larger number says that this is another kind of file."""
    counts = [int(cell) if _COUNT.fullmatch(cell) else -1 for cell in cells]
    if min(counts) < 0 or sum(counts) > MOST_VOTES:
        raise DataError(
            f"{where} line {line}: {','.join(cells)[:60]!r} are not the counts of {MOST_VOTES} votes "
            f"({', '.join(COLUMNS)})"
        )
    return counts


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


def _table(names: list[str], parts: list[int], votes: list[list[int]], where: str) -> VoteTable:
    if not names:
        raise DataError(f"{where}: no rows; copy the file again")
    return VoteTable(names, np.array(parts, dtype=np.int8), np.array(votes, dtype=np.uint8))
