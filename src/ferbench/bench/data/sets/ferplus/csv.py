"""The two label files of a FERPlus copy, parsed strictly: a damaged line is named, never guessed at.

label.csv        no header: name, face box, ten counts; one file per part
fer2013new.csv   header: Usage, Image name, ten counts; rows in the order of fer2013.csv
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.pixel_table import cells, header, part_of, rows
from ferbench.bench.data.sets.ferplus.labels import COLUMNS

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
    for line, row in rows(io.BytesIO(data), where):
        if len(row) != 2 + len(COLUMNS):
            raise DataError(f"{where} line {line}: {len(row)} fields, expected a name, a box and {len(COLUMNS)} counts")
        names.append(_name(row[0], where, line))
        votes.append(_counts(row[2:], where, line))
    return _table(names, [part] * len(names), votes, where)


def parse_new_csv(data: bytes, where: str) -> VoteTable:
    """fer2013new.csv; the columns are found by their names, so their order does not matter."""
    lines = rows(io.BytesIO(data), where)
    columns = header(lines, where, ("usage", "image name", *(name.lower() for name in COLUMNS)))
    names: list[str] = []
    parts: list[int] = []
    votes: list[list[int]] = []
    for line, row in lines:
        usage, name, *counts = cells(row, columns, where, line)
        parts.append(part_of(usage, where, line))
        names.append(_name(name, where, line) if name.strip() else "")
        votes.append(_counts(counts, where, line))
    return _table(names, parts, votes, where)


def _name(cell: str, where: str, line: int) -> str:
    if not _NAME.fullmatch(cell.strip()):
        raise DataError(f"{where} line {line}: {cell[:40]!r} is no image name (expected e.g. 'fer0000000.png')")
    return cell.strip()


def _counts(cells: list[str], where: str, line: int) -> list[int]:
    """Ten vote counts; ten taggers voted, so a larger number says that this is another kind of file."""
    counts = [int(cell) if _COUNT.fullmatch(cell) else -1 for cell in cells]
    if min(counts) < 0 or sum(counts) > MOST_VOTES:
        raise DataError(
            f"{where} line {line}: {','.join(cells)[:60]!r} are not the counts of {MOST_VOTES} votes "
            f"({', '.join(COLUMNS)})"
        )
    return counts


def _table(names: list[str], parts: list[int], votes: list[list[int]], where: str) -> VoteTable:
    if not names:
        raise DataError(f"{where}: no rows; copy the file again")
    return VoteTable(names, np.array(parts, dtype=np.int8), np.array(votes, dtype=np.uint8))
