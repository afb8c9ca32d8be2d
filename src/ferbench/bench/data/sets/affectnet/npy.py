"""AffectNet's newer release: cropped images, and four small .npy files of annotations for each; LEAF's arrays.

Files from strangers are read as numbers and text only: an array of pickled objects, which could run any program, is
refused. Reading 290,000 small files takes minutes on a cold disk, so what they say is kept in the cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.preparing.cache import cache_root, writing
from ferbench.bench.data.preparing.geometry import five_points
from ferbench.bench.data.reading.names import AFFECTNET, AFFECTNET_OTHERS
from ferbench.bench.data.reading.textfile import number, whole
from ferbench.bench.data.reading.tree import clean_path, first_folder, image_names
from ferbench.bench.data.sets.affectnet.rows import Rows

SETS = {"train_set": "train", "val_set": "valid"}
LANDMARKS = 68
MOST_BYTES = 64 * 2**10  # of a scalar's or a landmark's file
_EXPRESSION = re.compile(r"(\d{1,12})_exp\.npy", re.ASCII)


def read_npy_release(base: Path, *, landmarks: bool) -> Rows | None:
    """train_set/ and val_set/ with images/ and annotations/, None where they are not there. Raises DataError."""
    folders = {part: first_folder(base, [name]) for name, part in SETS.items()}
    if folders["train"] is None or first_folder(folders["train"], ["annotations"]) is None:
        return None
    rows = Rows(base, "npy release, cropped images", landmarks=[] if landmarks else None)
    for part, folder in folders.items():
        if folder is None:
            raise DataError(f"{base}: train_set is there, but not val_set: get both")
        _read_set(base, folder, PARTS.index(part), rows)
    return rows


def _read_set(base: Path, folder: Path, part: int, rows: Rows) -> None:
    """Add one part's images: each annotation, whether or not its image is there."""
    annotations, images = first_folder(folder, ["annotations"]), first_folder(folder, ["images"])
    if annotations is None or images is None:
        raise DataError(f"{folder}: expected the folders images and annotations")
    names = {name.rpartition(".")[0]: name for name in image_names(images)}
    numbers, codes = _expressions(annotations)
    without = set(names) - set(map(str, numbers.tolist()))
    if without:
        rows.notes.append(f"{folder.name}: {len(without):,} images without an annotation are left out")
    prefix = images.relative_to(base).as_posix()
    for position, code in zip(numbers.tolist(), codes.tolist(), strict=True):
        if code in AFFECTNET_OTHERS:
            rows.others += 1
            continue
        rows.add(f"{prefix}/{names.get(str(position), f'{position}.jpg')}", part, code)
        if rows.landmarks is not None:
            rows.landmarks.append(read_landmarks(annotations / f"{position}_lnd.npy"))


def _expressions(annotations: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the annotated images, ascending, and their codes; from the cache where no file has changed."""
    with os.scandir(annotations) as entries:
        found = sorted(
            (int(match[1]), entry.name, entry.stat())
            for entry in entries
            if (match := _EXPRESSION.fullmatch(entry.name))
        )
    if not found:
        raise DataError(f"{annotations}: no <number>_exp.npy files; copy the folder again")
    digest = hashlib.sha256(str(annotations.resolve()).encode())
    for _, name, entry in found:
        digest.update(f"{name} {entry.st_size} {entry.st_mtime_ns}\n".encode())
    kept = cache_root() / f"affectnet-annotations-{digest.hexdigest()[:16]}.npy"
    table = _cached(kept, len(found))
    if table is None:
        codes = [read_expression(annotations / name) for _, name, _ in found]
        table = np.stack([np.array([position for position, _, _ in found], np.int64), np.array(codes, np.int64)])
        with writing(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
            work = kept.with_name(f".{kept.name}-{uuid.uuid4().hex}")
            with work.open("wb") as file:
                np.save(file, table)
            os.replace(work, kept)
    if len(np.unique(table[0])) < table.shape[1]:
        raise DataError(f"{annotations}: two annotation files have the same number (leading zeros?)")
    return table[0], table[1]


def _cached(path: Path, length: int) -> NDArray[np.int64] | None:
    try:
        table: NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.shape == (2, length) and table.dtype == np.int64 else None


def read_expression(path: Path) -> int:
    """The code in an `_exp.npy`: a single number, mostly written as text. Raises DataError."""
    return whole(_scalar(_array(path), path), str(path), 1, range(len(AFFECTNET) + len(AFFECTNET_OTHERS)), "expression")


def read_landmarks(path: Path) -> NDArray[np.float32]:
    """Five points [5, 2] of the 68 in a `_lnd.npy`; NaN where the file is not there. Raises DataError."""
    if not path.is_file():
        return np.full((5, 2), np.nan, np.float32)
    array = _array(path)
    if array.size != 2 * LANDMARKS:
        raise DataError(f"{path}: {array.size} numbers, expected {2 * LANDMARKS}")
    values = [number(str(value), str(path), 1, "landmark") for value in array.ravel().tolist()]
    return five_points(np.array(values).reshape(LANDMARKS, 2)).astype(np.float32)


def read_leaf_arrays(base: Path) -> Rows | None:
    """training.npy and validation.npy of the LEAF code (file name and code in columns), images in align/."""
    files = {part: base / f"{name}.npy" for name, part in (("training", "train"), ("validation", "valid"))}
    if not all(path.is_file() for path in files.values()):
        return None
    rows = Rows(base, "arrays of the LEAF code, aligned images")
    prefix = "align/" if (base / "align").is_dir() else ""
    for part, path in files.items():
        table = _array(path, most=2**30)
        if table.ndim != 2 or table.shape[1] < 2 or table.dtype.kind not in "US":
            raise DataError(
                f"{path}: expected a table of text with file name and code, not {table.dtype} {table.shape}"
            )
        for line, (name, code) in enumerate(_texts(table[:, :2], path), start=1):
            label = whole(code, str(path), line, range(len(AFFECTNET)), "expression")
            rows.add(prefix + clean_path(name, f"{path} row {line}"), PARTS.index(part), label)
    return rows


def _array(path: Path, most: int = MOST_BYTES) -> NDArray[Any]:
    """The array in a .npy file of numbers or text. Raises DataError, also for pickled objects."""
    if path.stat().st_size > most:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes: not one of AffectNet's annotation files")
    return parse_array(path.read_bytes(), str(path))


def parse_array(data: bytes, where: str) -> NDArray[Any]:
    """The array in the bytes of a .npy file; DataError for anything that is not one, or not numbers or text."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header makes NumPy raise whatever its parser of Python literals does
        why = "pickled objects, which ferbench never loads" if "pickle" in str(error) else "not a whole .npy file"
        raise DataError(f"{where}: {why}; get the file again from the authors") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "USiuf":
        raise DataError(f"{where}: not an array of numbers or text; get the file again from the authors")
    return array


def _scalar(array: NDArray[Any], path: Path) -> str:
    if array.size != 1:
        raise DataError(f"{path}: {array.size} values, expected one")
    return _texts(array.reshape(1, 1), path)[0][0]


def _texts(array: NDArray[Any], path: Path) -> list[list[str]]:
    """A table [R, C] as text."""
    try:
        return [[value.decode() if isinstance(value, bytes) else str(value) for value in row] for row in array.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text") from error
