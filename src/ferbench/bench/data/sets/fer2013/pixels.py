"""fer2013.csv: labels from one pass over the table, pixels from the strict parser of the same file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.names import FER2013
from ferbench.bench.data.reading.pixel_table import pixel_rows
from ferbench.bench.data.reading.textfile import whole


def read_images(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int8], list[NDArray[np.uint8]]]:
    """Labels [N], parts [N] and images [48, 48] each, in the order of the rows (80 MB in all). Raises DataError."""
    rows = [(part, pixels) for part, pixels in pixel_rows(path)]
    labels = list(_labels(path))
    if not rows or len(labels) != len(rows):
        raise DataError(f"{path}: no rows; copy the file again")
    return (
        np.array(labels, np.int64),
        np.array([part for part, _ in rows], np.int8),
        [pixels for _, pixels in rows],
    )


def _labels(path: Path) -> Iterator[int]:
    """The emotion of each row; the file has passed the parser of pixels, so that it is whole text with a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [cell.strip().casefold() for cell in next(reader, [])]
        if "emotion" not in header:
            raise DataError(f"{path} line 1: no column emotion; FERPlus's labels are read as `ferplus`")
        column = header.index("emotion")
        for cells in reader:
            if cells:
                yield whole(cells[column], str(path), reader.line_num, range(len(FER2013)), "emotion")
