"""A listing against the disk, before anything is decoded: paths stay inside the root, files are there and not empty."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.preparing.cache import FORMAT
from ferbench.bench.data.reading.listing import Expected, Listing
from ferbench.bench.data.reading.tree import Spelling, clean_path
from ferbench.validation import Value

MOST_BYTES = 256 * 2**20  # no image file of a face data set is that large
NAMED = 3


@dataclass(frozen=True)
class Files:
    """What the disk says of a listing's images.

    missing, empty: rows without a file, rows whose file has no bytes
    stamps:         [N, 2] int64 bytes and modification time in ns (-1 where missing), or of the containers
    respelt:        row -> path, where the listing spells it in another letter case or Unicode form
    """

    missing: NDArray[np.int64]
    empty: NDArray[np.int64]
    stamps: NDArray[np.int64]
    respelt: Mapping[int, str] = field(default_factory=dict)

    def lost(self) -> NDArray[np.int64]:
        """Rows that have no image."""
        return np.union1d(self.missing, self.empty)


def look_at_files(listing: Listing) -> Files:
    """Stat every file of a listing. Raises DataError for a path that leaves the root or a file that is none."""
    none = np.empty(0, np.int64)
    if listing.read is not None:
        stats = [path.stat() for path in listing.containers]
        return Files(none, none, np.array([(entry.st_size, entry.st_mtime_ns) for entry in stats], np.int64))
    root = os.path.realpath(listing.root)
    inside: dict[str, str | None] = {}  # folder -> where it really is, None where it is not there
    stamps = np.full((len(listing.ids), 2), -1, np.int64)
    spelling, respelt = Spelling(listing.root), {}

    def stamp(row: int, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if folder not in inside:
            inside[folder] = _real_folder(root, folder)
        real = inside[folder]
        entry = None if real is None else _stat(root, os.path.join(real, name), path)
        if entry is not None:
            stamps[row] = entry.st_size, entry.st_mtime_ns
        return entry is not None

    for row in range(len(stamps)):
        path = clean_path(listing.path(row), f"{listing.dataset}: image {row}")
        if not stamp(row, path) and (other := spelling.find(path)) is not None and stamp(row, other):
            respelt[row] = other
    sizes = stamps[:, 0]
    if sizes.max() > MOST_BYTES:
        raise DataError(f"{listing.root}: {listing.path(int(sizes.argmax()))} has {sizes.max():,} bytes: no face image")
    return Files(np.flatnonzero(sizes < 0), np.flatnonzero(sizes == 0), stamps, respelt)


def respelt(listing: Listing, files: Files) -> Listing:
    """The listing with the paths under which its files were found, and a note where they are others."""
    if not files.respelt:
        return listing
    paths = [files.respelt.get(row, listing.path(row)) for row in range(len(listing.ids))]
    row, path = next(iter(files.respelt.items()))
    note = (
        f"{len(files.respelt):,} images were found under another spelling (letter case or Unicode form) than in the "
        f"list, first {path!a} for {listing.path(row)!a}"
    )
    return replace(listing, paths=np.array(paths, np.str_), notes=(*listing.notes, note))


def _real_folder(root: str, folder: str) -> str | None:
    real = os.path.realpath(os.path.join(root, folder))
    _hold_inside(root, real, folder)
    return real if os.path.isdir(real) else None


def _stat(root: str, path: str, shown: str) -> os.stat_result | None:
    try:
        entry = os.lstat(path)
        if stat.S_ISLNK(entry.st_mode):
            _hold_inside(root, os.path.realpath(path), shown)
            entry = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(entry.st_mode):
        raise DataError(f"{path} is not a file, but an image is listed there")
    return entry


def _hold_inside(root: str, real: str, shown: str) -> None:
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        raise DataError(
            f"{shown} is a link to {real}, outside {root}: copy it there, or name the real folder as --root"
        )


def file_differences(listing: Listing, files: Files) -> list[str]:
    """A line for each part with missing or empty images."""
    lines = []
    for rows, what in ((files.missing, "missing image"), (files.empty, "zero-byte image")):
        for code, part in enumerate(PARTS):
            mine = rows[listing.parts[rows] == code]
            if len(mine):
                lines.append(few(f"{what} of {part}", [listing.path(int(row)) for row in mine[:NAMED]], len(mine)))
    return lines


def few(what: str, first: list[str], count: int) -> str:
    """`3 x damaged image: a, b, c`, naming no more than a few of `count`."""
    more = f" and {count - NAMED:,} more" if count > NAMED else ""
    return f"{count:,} x {what}: {', '.join(first[:NAMED])}{more}"


def count_table(labels: NDArray[np.int64], parts: NDArray[np.int8], classes: int) -> NDArray[np.int64]:
    """[classes, parts] images with each label."""
    kept = labels >= 0
    flat = np.bincount(labels[kept] * len(PARTS) + parts[kept], minlength=classes * len(PARTS))
    return flat.reshape(classes, len(PARTS)).astype(np.int64)


def compare_counts(listing: Listing) -> tuple[list[str], list[str], list[str]]:
    """Differences, warnings and notes from holding the labels against the expected counts."""
    found = count_table(listing.labels, listing.parts, len(listing.classes))
    differences: list[str] = []
    warnings: list[str] = []
    notes: list[str] = []
    for expected in listing.expected:
        swapped = _swapped(listing, found, expected)
        for name, counts in expected.counts.items():
            for part, wanted in zip(PARTS, counts, strict=True):
                here = int(found[listing.classes.index(name), PARTS.index(part)])
                if wanted is None or here == wanted:
                    continue
                line = f"{part} {name}: {here:,} images, {expected.source} says {wanted:,}"
                if (name, part, here) in expected.known:
                    notes.append(f"{line}: {expected.known[name, part, here]}")
                else:
                    (differences if expected.measured else warnings).append(line + swapped)
    return differences, warnings, notes


def _swapped(listing: Listing, found: NDArray[np.int64], expected: Expected) -> str:
    """A hint where the counts are the right ones for other classes: then the codes are of another order."""
    wanted = np.array([[-1 if count is None else count for count in counts] for counts in expected.counts.values()])
    known = (wanted >= 0).all(axis=0)
    here = found[[listing.classes.index(name) for name in expected.counts]][:, known]
    other = sorted(here.tolist()) == sorted(wanted[:, known].tolist()) and (here != wanted[:, known]).any()
    return " (classes in another order?)" if other else ""


def source_hash(listing: Listing, files: Files, decoding: Mapping[str, Value]) -> str:
    """SHA-256 (hex) that changes when a file is touched, a row or column changes, or images are decoded otherwise."""
    digest = hashlib.sha256(f"{listing.dataset} format {FORMAT} {sorted(decoding.items())}\n".encode())
    digest.update("\n".join((listing.layout, str(listing.uncropped), *listing.classes)).encode())
    columns = {
        "ids": listing.ids, "paths": listing.paths, "parts": listing.parts, "labels": listing.labels,
        "boxes": listing.boxes, "landmarks": listing.landmarks, "subjects": listing.subjects, "votes": listing.votes,
        "stamps": files.stamps, **{f"column {name}": column for name, column in listing.columns.items()},
    }  # fmt: skip
    for name, column in columns.items():
        if column is not None:
            digest.update(f"{name} {column.dtype} {column.shape}\n".encode())
            digest.update(column.tobytes())
    return digest.hexdigest()


def stored_expected(listing: Listing) -> dict[str, list[int | None]]:
    """class name -> images per part, of the first expectation, for the report's table."""
    return {name: list(counts) for name, counts in listing.expected[0].counts.items()} if listing.expected else {}
