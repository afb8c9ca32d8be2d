"""What index.npz of a prepared FERPlus holds, written and read in one place.

ids            [N] str    `FER2013Train/fer0000000.png`, sorted by part, then name, in either layout
parts          [N] int8   index into faceset.PARTS
digests        [N, 16] uint8  of each image's pixels
same_pixels    [N] int64  index of the first image with exactly the same pixels
near_copies    [N] int64  index of the first image that shows the same picture, mirrored or not
<source>_rows  [R] int64  image of each named row of the label file (a name may be there twice)
<source>_votes [R, 10] uint8  its votes, in the order of ferplus_labels.COLUMNS
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.sets.ferplus.csv import VoteTable
from ferbench.bench.data.sets.ferplus.decode import Key
from ferbench.bench.data.sets.ferplus.labels import COLUMNS
from ferbench.bench.data.sets.ferplus.source import FOLDERS, LABELS_URL, SOURCES

Index = Mapping[str, NDArray[Any]]


def build_index(keys: Sequence[Key], tables: Mapping[str, list[VoteTable]]) -> dict[str, NDArray[Any]]:
    """The index but for what needs the images; rows without a name or an image are left out."""
    image_of = {key: image for image, key in enumerate(keys)}
    index: dict[str, NDArray[Any]] = {
        "ids": np.array([image_id(key) for key in keys]),
        "parts": np.array([part for part, _ in keys], dtype=np.int8),
    }
    for source, parsed in tables.items():
        named = [key for table in parsed for key in table.keys()]
        images = np.array([image_of.get(key, -1) for key in named], dtype=np.int64)
        index[f"{source}_rows"] = images[images >= 0]
        index[f"{source}_votes"] = np.concatenate([table.votes for table in parsed])[images >= 0]
    return index


def image_id(key: Key) -> str:
    """The stable name of an image: the path Microsoft's script gives it."""
    return f"{FOLDERS[key[0]]}/{key[1]}"


def sources_in(index: Index) -> list[str]:
    """The label files this copy holds, as values of the option `source`."""
    return [source for source in SOURCES if f"{source}_rows" in index]


def row_votes(index: Index, source: str) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Image [R] and votes [R, 10] of each named row; DataError where this copy has no such label file."""
    if source not in sources_in(index):
        there = " and ".join(sources_in(index))
        wanted = "label.csv of each folder" if source == "label_csv" else "fer2013new.csv"
        raise DataError(
            f"source={source} needs {wanted}, and this copy of FERPlus has only {there}: "
            f"choose source={there}, or get the file from {LABELS_URL} and prepare again"
        )
    return index[f"{source}_rows"], index[f"{source}_votes"]


def image_votes(index: Index, source: str) -> NDArray[np.uint8]:
    """[N, 10] votes per image: those of a name's first row, none for an image that no row names."""
    rows, votes = row_votes(index, source)
    images, first = np.unique(rows, return_index=True)
    per_image = np.zeros((len(index["parts"]), len(COLUMNS)), dtype=np.uint8)
    per_image[images] = votes[first]
    return per_image
