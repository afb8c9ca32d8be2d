"""Where the face is in each image: from the data set, from the user's faces.csv, or from a detector, cached.

faces.csv lies in the root: a header with `path,x1,y1,x2,y2`, in pixels of the image file (turned upright as its EXIF
orientation says, unless the data set has boxes of its own), and optionally ten more columns `p1x,p1y,...,p5x,p5y` (left
eye, right eye, nose, left and right corner of the mouth). A row with empty cells says that there is no face. What a
detector found is kept in the cache in the same form, with a column `faces` that counts what it saw; of several
faces the largest is taken.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import writing
from ferbench.bench.data.preparing.decode import MOST_BYTES, BadImage, strict_limits, to_rgb
from ferbench.bench.data.preparing.faces.detect import Detector, Face, load_detector
from ferbench.bench.data.preparing.partial import alone
from ferbench.bench.data.reading.listing import Listing
from ferbench.bench.data.reading.reader import Progress
from ferbench.bench.data.reading.textfile import columns_of, csv_rows, number, text_of
from ferbench.bench.files import FileError, read_bytes

USER_FILE = "faces.csv"
BOX = ("x1", "y1", "x2", "y2")
POINTS = tuple(f"p{point}{axis}" for point in range(1, 6) for axis in "xy")
CHUNK = 32  # images between two writes of what a detector found

Values = NDArray[np.float32]  # [14]: box, five points; NaN where unknown
Rows = Mapping[str, tuple[Values, int]]  # path -> values, and how many faces were seen


@dataclass(frozen=True)
class Faces:
    """boxes [N, 4] and landmarks [N, P, 2] as in Listing; where they come from; lines for the report."""

    boxes: NDArray[np.float32] | None
    landmarks: NDArray[np.float32] | None
    source: str
    notes: tuple[str, ...] = ()


def source_key(listing: Listing, faces: str) -> str:
    """What tells one source of boxes from another: the file's content, the detector's version. Raises DataError."""
    if faces == "csv":
        return f"csv {hashlib.sha256(_user_file(listing).read_bytes()).hexdigest()}"
    if faces in ("haar", "mtcnn"):
        detector = load_detector(faces)
        return f"{detector.name} {detector.version}"
    return faces


def find_faces(
    listing: Listing, faces: str, cache: Path, key: str, threads: int = 2, progress: Progress | None = None,
    *, close_up: bool = False,
) -> Faces:  # fmt: skip
    """Boxes and landmarks of a listing from `faces`, a value of the option of that name. Raises DataError.

    key: a hash of the listing and its files, which the cache of detections is named after
    close_up: whether the images are small and filled by one face each
    """
    if faces == "none":
        return Faces(None, None, "none")
    if faces == "dataset":
        return Faces(listing.boxes, listing.landmarks, "the data set" if listing.boxes is not None else "none")
    if faces == "csv":
        path = _user_file(listing)
        rows = parse_faces(text_of(path), str(path))
        known = set(map(str, listing.ids)) | {listing.path(row) for row in range(len(listing.ids))}
        strangers = [name for name in rows if name not in known]
        note = f"{path.name}: {len(strangers):,} paths are no images of this copy"
        return _table(listing, rows, path.name, (f"{note}, first {strangers[0][:60]!r}",) if strangers else ())
    return _detected(listing, load_detector(faces, close_up), cache, key, threads, progress)


def parse_faces(text: str, where: str) -> dict[str, tuple[Values, int]]:
    """The content of a faces.csv; `where` names it in errors. A path that comes twice counts as it comes last."""
    rows = csv_rows(text, where)
    _, header = next(rows, (1, []))
    has_points = POINTS[0] in [cell.casefold() for cell in header]
    positions = columns_of(header, ("path", *BOX, *(POINTS if has_points else ())), where)
    counted = [place for place, cell in enumerate(header) if cell.casefold() == "faces"]
    found: dict[str, tuple[Values, int]] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{where} line {line}: {len(cells)} fields, expected {len(header)}")
        values = np.full(4 + len(POINTS), np.nan, np.float32)
        for place, position in enumerate(positions[1:]):
            if cells[position]:
                values[place] = number(cells[position], where, line, header[position])
        if np.isfinite(values[:4]).any() and not (values[0] < values[2] and values[1] < values[3]):
            raise DataError(f"{where} line {line}: a box needs x1 < x2 and y1 < y2, in pixels")
        seen = number(cells[counted[0]], where, line, "faces") if counted else float(np.isfinite(values[0]))
        found[cells[positions[0]]] = values, int(seen)
    return found


def _user_file(listing: Listing) -> Path:
    path = listing.root / USER_FILE
    if not path.is_file():
        raise DataError(f"faces=csv: no {path}; write it with a header {','.join(('path', *BOX))}")
    return path


def _table(listing: Listing, rows: Rows, source: str, notes: tuple[str, ...]) -> Faces:
    """The rows in the listing's order, found by id or by path."""
    table = np.full((len(listing.ids), 4 + len(POINTS)), np.nan, np.float32)
    for position, name in enumerate(listing.ids):
        row = rows.get(str(name)) or rows.get(listing.path(position))
        if row is not None:
            table[position] = row[0]
    points = table[:, 4:].reshape(-1, 5, 2)
    return Faces(table[:, :4].copy(), points if np.isfinite(points).any() else None, source, notes)


def _detected(
    listing: Listing, detector: Detector, cache: Path, key: str, threads: int, progress: Progress | None
) -> Faces:
    """Detections from the cache file, which is completed first; a killed detection goes on where it was."""
    label = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in detector.version)
    path = cache / f"faces-{listing.dataset}-{key[:12]}-{detector.name}-{label}.csv"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path):
            rows = _kept(path)
            waiting = [row for row, name in enumerate(listing.ids) if str(name) not in rows]
            if waiting:
                _detect_into(path, listing, waiting, detector, threads, progress)
                rows = parse_faces(text_of(path), str(path))
    seen = np.array([rows[str(name)][1] for name in listing.ids])
    notes = (
        f"{detector.name} {detector.version}: one face in {int((seen == 1).sum()):,} images, none in "
        f"{int((seen == 0).sum()):,}, several in {int((seen > 1).sum()):,} (the largest is taken)",
    )
    return _table(listing, rows, f"{detector.name} {detector.version}", notes)


def _detect_into(
    path: Path, listing: Listing, waiting: list[int], detector: Detector, threads: int, progress: Progress | None
) -> None:
    """Append a row for each of the `waiting` images, a chunk at a time."""
    total = len(listing.ids)
    with path.open("a", newline="", encoding="utf-8") as file, strict_limits(), ThreadPoolExecutor(threads) as pool:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(("path", *BOX, *POINTS, "faces"))
        for start in range(0, len(waiting), CHUNK):
            chunk = waiting[start : start + CHUNK]
            results = pool.map(lambda row: _look(listing, row, detector), chunk)
            for row, (values, seen) in zip(chunk, results, strict=True):
                cells = ["" if np.isnan(value) else f"{value:.2f}" for value in values]
                writer.writerow((str(listing.ids[row]), *cells, seen))
            file.flush()
            if progress is not None:
                progress(total - len(waiting) + start + len(chunk), total)


def _kept(path: Path) -> Rows:
    """What an earlier attempt wrote; a line that was cut short when it was killed is cut off, a damaged file goes."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    try:
        return parse_faces(text_of(path), str(path))
    except DataError:
        path.unlink()
        return {}


def _look(listing: Listing, row: int, detector: Detector) -> tuple[Values, int]:
    """The largest face of an image, and how many there are; an unreadable image has none."""
    values = np.full(4 + len(POINTS), np.nan, np.float32)
    try:
        data = listing.read(row) if listing.read else read_bytes(listing.root / listing.path(row), MOST_BYTES)
        found = [
            face
            for face in detector.find(to_rgb(data, turn=listing.upright))
            if np.isfinite(face.box).all() and face.area >= 1
        ]
    except (BadImage, OSError, FileError):
        return values, 0
    if found:
        largest: Face = max(found, key=lambda face: face.area)
        values[:4] = largest.box
        if largest.landmarks is not None:
            values[4:] = largest.landmarks.reshape(-1)
    return values, len(found)
