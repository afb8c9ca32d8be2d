"""Rows of a RAF-DB copy, whatever the layout: stable names, published counts, the lists with artificial noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.cells import once
from ferbench.bench.data.reading.listing import Column, Expected, Listing
from ferbench.bench.data.reading.names import RAFDB, RAFDB_COMPOUND
from ferbench.bench.data.reading.report import LabelFileNote
from ferbench.bench.data.reading.textfile import text_of
from ferbench.bench.data.sets.rafdb.lists import Row, original_name, parse_list

NAME = "rafdb"
NOISE = ("none", "noise01", "noise02", "noise03")
# Counted in the authors' list: train, valid, test.
COUNTS = {
    "surprise": (1290, 0, 329), "fear": (281, 0, 74), "disgust": (717, 0, 160), "happiness": (4772, 0, 1185),
    "sadness": (1982, 0, 478), "anger": (705, 0, 162), "neutral": (2524, 0, 680),
}  # fmt: skip
COMPOUND_TOTALS = (3162, 792)  # train and test, as quoted by others


def read_rows(path: Path, codes: Mapping[int, str], first: int = 1) -> list[Row]:
    return parse_list(text_of(path), str(path), range(first, first + len(codes)))


def stable_ids(paths: list[str], names: list[str], parts: list[int]) -> tuple[list[str], list[str]]:
    """Original names where all have one, else the paths; and what does not fit between names and parts."""
    moved = [
        original_name(name) or name
        for name, part in zip(names, parts, strict=True)
        if name.startswith(tuple(f"{other}_" for other in PARTS if other != PARTS[part]))
    ]
    lines = [f"{len(moved):,} images are in another part than their names say, first {moved[0]}"] if moved else []
    originals = [original_name(name) for name in names]
    found = [name for name in originals if name is not None]
    return (found if len(found) == len(names) and len(set(found)) == len(found) else paths), lines


def rafdb_listing(
    root: Path, layout: str, ids: list[str], paths: list[str], parts: list[int], labels: list[int],
    codes: Mapping[int, str], label_files: tuple[LabelFileNote, ...], differences: Sequence[str] = (),
    repeated: object = "",
) -> Listing:  # fmt: skip
    """The listing, sorted by part and name, so that every layout has the same order; an image that is listed twice
    once, where its rows agree or as `repeated` says."""
    kept = once(ids, list(zip(labels, parts, strict=True)), repeated, "the list")
    order = sorted(kept.rows, key=lambda row: (parts[row], ids[row]))
    totals = tuple(sum(parts[row] == PARTS.index(name) for row in order) for name in ("train", "test"))
    warnings = list(kept.warnings)
    if codes is RAFDB_COMPOUND and totals != COMPOUND_TOTALS:
        warnings.append(f"{totals[0]:,} train and {totals[1]:,} test images, others quote 3,162 and 792")
    expected = Expected(COUNTS, measured=True, source="the authors' list")
    return Listing(
        dataset=NAME,
        root=root,
        layout=layout,
        ids=np.array([ids[row] for row in order], dtype=np.str_),
        paths=np.array([paths[row] for row in order], dtype=np.str_),
        parts=np.array([parts[row] for row in order], dtype=np.int8),
        labels=np.array([labels[row] for row in order], dtype=np.int64),
        classes=tuple(codes.values()),
        expected=(expected,) if codes is RAFDB else (),
        differences=tuple(differences),
        warnings=tuple(warnings),
        notes=kept.notes,
        label_files=label_files,
    )


def with_noise(tree: Path, listing: Listing) -> Listing:
    """The listing with the label lists of artificial noise that the EAC code ships, where they lie beside the list."""
    columns: dict[str, Column] = {}
    files: list[Path] = []
    for name in NOISE[1:]:
        for path in (tree / "EmoLabel" / f"{name}.txt", tree / f"{name}.txt"):
            if path.is_file() and name not in columns:
                codes = {original_name(row.name) or row.name: row.code - 1 for row in read_rows(path, RAFDB)}
                lost = [image for image in listing.ids if str(image) not in codes]
                if lost:
                    raise DataError(f"{path}: {len(lost):,} images have no label in it, first {str(lost[0])!r}")
                columns[name] = np.array([codes[str(image)] for image in listing.ids], dtype=np.int64)
                files.append(path)
    return replace(listing, columns=columns, watched=tuple(files))
