"""FERPlus images into the memory map: PNGs on a few threads, or pixel rows of a CSV file one by one."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.pixel_table import SIDE, USAGES, pixel_rows
from ferbench.bench.data.reading.reader import Progress
from ferbench.bench.data.sets.ferplus.csv import VoteTable
from ferbench.bench.data.sets.ferplus.source import FOLDERS

CHUNK = 128
NAMED = 3  # images an error names before it only counts

Key = tuple[int, str]  # part, file name
_DAMAGED = (OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)


def decode_pngs(
    folders: Sequence[Path | None],
    keys: Sequence[Key],
    images: NDArray[np.uint8],
    *,
    threads: int = 2,
    progress: Progress | None = None,
) -> None:
    """Read the PNG of each key into images [N, 48, 48, 1]; DataError names the damaged and those of another size."""
    damaged: list[str] = []
    foreign: list[str] = []

    def decode(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(keys))):
            part, name = keys[row]
            path = Path(str(folders[part]), name)
            try:
                with Image.open(io.BytesIO(path.read_bytes())) as image:
                    if (image.size, image.mode) == ((SIDE, SIDE), "L"):
                        images[row, :, :, 0] = np.asarray(image)
                    else:
                        foreign.append(f"{FOLDERS[part]}/{name} is {image.width}x{image.height} {image.mode}")
            except _DAMAGED:
                damaged.append(f"{FOLDERS[part]}/{name}")

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, len(keys), CHUNK)
        for start, _ in zip(starts, pool.map(decode, starts), strict=True):
            if progress is not None:
                progress(min(start + CHUNK, len(keys)), len(keys))
    if damaged:
        raise DataError(f"{few('damaged image', damaged)}; copy again, or delete and prepare with --partial")
    if foreign:
        raise DataError(f"{few(f'image that is not {SIDE}x{SIDE} grey (L)', foreign)}; use the original FER2013 images")


def decode_csv(
    path: Path, table: VoteTable, keys: Sequence[Key], images: NDArray[np.uint8], progress: Progress | None = None
) -> None:
    """Fill images [N, 48, 48, 1] from fer2013.csv, whose rows are those of fer2013new.csv (`table`) in the same order.

    The names in `table` are taken literally: they are not row numbers. A name's first row gives the image.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    rows = zip_longest(pixel_rows(path), zip(table.parts.tolist(), table.names, strict=True))
    done = 0
    for number, (pixels, named) in enumerate(rows, start=1):
        if pixels is None or named is None:
            longer = "fer2013new.csv" if pixels is None else path.name
            raise DataError(f"{longer} is longer than the other file ({number - 1} rows): copy both again, complete")
        if pixels[0] != named[0]:
            raise DataError(
                f"{path.name} row {number} is {USAGES[pixels[0]]}, in fer2013new.csv {USAGES[named[0]]}: "
                "the rows do not match; use the original fer2013.csv in its original order"
            )
        row = row_of.pop((named[0], named[1]), None)
        if row is not None:
            images[row, :, :, 0] = pixels[1]
            done += 1
            if progress is not None and (done % CHUNK == 0 or not row_of):
                progress(done, len(keys))


def few(what: str, found: list[str]) -> str:
    """`3 damaged images: a, b, c`, naming no more than a few."""
    named = ", ".join(sorted(found)[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{len(found)} x {what}: {named}{more}"
