"""Packed images in MXNet's record format, read without MXNet.

A record file is a run of records, each a magic number (uint32), a word with a continuation flag in its upper three bits
and a length in the lower 29, and the payload, padded to four bytes. Data that holds the magic number itself is stored
in pieces, cut there. The index file names each record's offset, `key<TAB>offset`. A payload begins with a header
(uint32 flag, float32 label, two uint64); a flag above 0 says how many float32 labels follow; the rest is the image.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.textfile import lines, whole

MAGIC = 0xCED7230A
LENGTH_BITS = 29
MOST_LABELS = 64
_WORDS, _HEADER = struct.Struct("<II"), struct.Struct("<IfQQ")


@dataclass(frozen=True)
class Record:
    """Labels and image (encoded bytes) of one record."""

    labels: tuple[float, ...]
    image: bytes


class Damaged(Exception):
    """A record is not one; the message says why, without its place."""


def parse_index(text: str, where: str, size: int) -> dict[int, int]:
    """Key to offset of `<key><TAB><offset>` lines, for a record file of `size` bytes. Raises DataError."""
    offsets: dict[int, int] = {}
    for line, content in lines(text, where):
        fields = content.split("\t")
        if len(fields) != 2:
            raise DataError(f"{where} line {line}: {content[:60]!r} is not '<key><TAB><offset>'")
        key = whole(fields[0], where, line, range(1 << 40), "key")
        if key in offsets:
            raise DataError(f"{where} line {line}: key {key} is there twice")
        offsets[key] = whole(fields[1], where, line, range(max(size - _WORDS.size, 0)), "offset")
    if not offsets:
        raise DataError(f"{where}: no lines; copy the file again")
    return offsets


def read_record(path: Path, offset: int) -> Record:
    """The record at `offset`. Raises OSError, also where there is no record."""
    with path.open("rb") as file:
        try:
            return parse_record(_payload(file, offset))
        except Damaged as error:
            raise OSError(f"record at byte {offset}: {error}") from error


def read_labels(file: BinaryIO, offset: int) -> tuple[float, ...]:
    """The labels of the record at `offset`, without reading its image. Raises Damaged."""
    _, length = _frame(file, offset)
    head = file.read(min(length, _HEADER.size + 4 * MOST_LABELS))
    return parse_record(head).labels


def parse_record(payload: bytes) -> Record:
    """A payload, or the beginning of one, as labels and image. Raises Damaged."""
    if len(payload) < _HEADER.size:
        raise Damaged(f"{len(payload)} bytes are no record")
    flag, label, _, _ = _HEADER.unpack_from(payload)
    if flag == 0:
        return Record((label,), payload[_HEADER.size :])
    end = _HEADER.size + 4 * flag
    if flag > MOST_LABELS or end > len(payload):
        raise Damaged(f"{flag} labels do not fit into it")
    return Record(struct.unpack_from(f"<{flag}f", payload, _HEADER.size), payload[end:])


def _payload(file: BinaryIO, offset: int) -> bytes:
    """The payload at `offset`, its pieces put together again around the magic numbers they were cut at."""
    pieces = []
    first, length = _frame(file, offset)
    flag = first
    while True:
        data = file.read(length)
        if len(data) < length:
            raise Damaged("the file ends in it; is it cut short?")
        pieces.append(data)
        if flag in (0, 3):
            break
        file.seek(-length % 4, os.SEEK_CUR)
        flag, length = _frame(file, file.tell())
        if flag not in (2, 3):
            raise Damaged("its pieces are out of order")
    if first not in (0, 1):
        raise Damaged("it is a piece of another one")
    return struct.pack("<I", MAGIC).join(pieces)


def _frame(file: BinaryIO, offset: int) -> tuple[int, int]:
    """Continuation flag (0 whole, 1 first, 2 middle, 3 last piece) and length of the record or piece at `offset`."""
    file.seek(offset)
    words = file.read(_WORDS.size)
    if len(words) < _WORDS.size:
        raise Damaged("the file ends before it; is it cut short?")
    magic, word = _WORDS.unpack(words)
    if magic != MAGIC:
        raise Damaged("no record begins there; do record and index file belong together?")
    return word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
