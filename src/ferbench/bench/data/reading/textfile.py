"""Label files read line by line, strictly: whatever the bytes are, the outcome is rows or a DataError with the line."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.cells import plain
from ferbench.bench.data.reading.report import LabelFileNote
from ferbench.bench.files import FileError, open_regular, read_bytes

MOST_BYTES = 2**31  # of a label file that is read whole
LONGEST_LINE = 100_000  # characters; AffectNet's rows with 68 landmarks are near 2,000


def text_of(path: Path) -> str:
    """The content of a text file (UTF-8, with or without a byte order mark)."""
    try:
        return decode(read_bytes(path, MOST_BYTES), str(path))
    except FileError as error:
        raise DataError(str(error)) from error


def decode(data: bytes, where: str) -> str:
    """`data` as UTF-8 text; DataError for anything else."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where} line {line}: not UTF-8 text; is this the label file?") from error
    if "\0" in text:
        raise DataError(f"{where} line {text[: text.index(chr(0))].count(chr(10)) + 1}: not a text file")
    return text


def lines(text: str, where: str) -> Iterator[tuple[int, str]]:
    """Number and content of each line that is not blank."""
    for number, line in enumerate(io.StringIO(text), start=1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{where} line {number}: longer than {LONGEST_LINE:,} characters; is this the label file?")
        if line.strip():
            yield number, line.strip()


def csv_rows(text: str, where: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line number and cells, without surrounding blanks, of each row that is not blank."""
    yield from _csv_rows(io.StringIO(text, newline=""), where, delimiter)


def separator(text: str) -> str:
    """What parts the cells of a table: a comma, or what its first line has instead (a semicolon, a tab)."""
    first = text.lstrip().partition("\n")[0]
    return next((mark for mark in (",", ";", "\t") if mark in first), ",")


def csv_file(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The same from a file that may be large: one row in memory at a time."""
    with opened(path) as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
        yield from _csv_rows(file, str(path))


def opened(path: Path) -> BinaryIO:
    """A label file open for reading. Raises DataError for a pipe or a device."""
    try:
        return open_regular(path)
    except FileError as error:
        raise DataError(str(error)) from error


def _csv_rows(file: TextIO, where: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except UnicodeDecodeError as error:
        raise DataError(f"{where} after line {reader.line_num}: not UTF-8 text; is this the label file?") from error
    except csv.Error as error:
        raise DataError(f"{where} line {reader.line_num}: {error}") from error


def columns_of(header: Sequence[str], wanted: Iterable[str], where: str) -> list[int]:
    """Positions of the `wanted` columns in a header, in any case; DataError where one is missing or there twice."""
    names = [cell.strip().casefold() for cell in header]
    wanted = list(wanted)
    wrong = [name for name in wanted if names.count(name.casefold()) != 1]
    if wrong:
        raise DataError(f"{where} line 1: expected one column each of {', '.join(wanted)}; wrong: {', '.join(wrong)}")
    return [names.index(name.casefold()) for name in wanted]


def whole(cell: str, where: str, line: int, allowed: range, what: str) -> int:
    """A whole number among `allowed`, written in plain digits (a minus sign, and .0 as some tools write it, pass)."""
    text = plain(cell)
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18) or int(text) not in allowed:
        raise DataError(f"{where} line {line}: {what} {cell[:40]!r} is not a whole number in {_span(allowed)}")
    return int(text)


def number(cell: str, where: str, line: int, what: str) -> float:
    """A finite number."""
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9 or "_" in cell:  # also refuses NaN and infinity
        raise DataError(f"{where} line {line}: {what} {cell[:40]!r} is not a number")
    return value


def note(path: Path, known: Iterable[str] = ()) -> LabelFileNote:
    """The file's SHA-256, and whether it is one of the published versions `known`, where any is known."""
    versions = set(known)
    with opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return LabelFileNote(str(path), digest, digest in versions if versions else None)


def _span(allowed: range) -> str:
    return f"{allowed.start} to {allowed.stop - 1}"
