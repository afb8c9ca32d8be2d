"""What a user's FERPlus folder holds: which layout, which label files, which images, and a cheap hash of it all.

Two layouts are known, at the root, in its `data` folder (where Microsoft's repository keeps the label files) or in its
`fer2013` folder (where the contest's archive unpacks):
    folders  FER2013Train, FER2013Valid, FER2013Test with 48 x 48 PNGs, label.csv in each and/or fer2013new.csv
    csv      fer2013.csv (or icml_face_data.csv) with the pixels and fer2013new.csv with names and votes, row by row
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.preparing.cache import FORMAT
from ferbench.bench.data.sets.ferplus.csv import VoteTable, parse_label_csv, parse_new_csv

FOLDERS = ("FER2013Train", "FER2013Valid", "FER2013Test")  # in the order of PARTS
SOURCES = ("label_csv", "new_csv")
LABELS_URL = "https://github.com/microsoft/FERPlus"

# SHA-256 of the label files in microsoft/FERPlus
MICROSOFT = {
    "fer2013new.csv": "9206e20d62f56475939f516847d61753e4860caeac9718b560129541b776fc2c",
    "FER2013Train/label.csv": "a82c40c825505cd30e139195c246bc38f8ac39de0e8968cbf15e1dab7837658c",
    "FER2013Valid/label.csv": "aad6298bed23cad816550362c2c00ae49b99513c7cae7d49651f347afd9ab860",
    "FER2013Test/label.csv": "425142295cc23872651271be9f45a99dac11af426f948d1b60967c8845b7bdf2",
}


@dataclass(frozen=True)
class LabelFile:
    """A label file as read: its name as in MICROSOFT, where it lies, its content and the content's SHA-256."""

    name: str
    path: Path
    data: bytes
    sha256: str

    @property
    def known(self) -> bool:
        """Whether it is byte for byte the one Microsoft published."""
        return MICROSOFT[self.name] == self.sha256


@dataclass(frozen=True)
class Source:
    """A recognised copy.

    folders:     per part, the folder of PNGs; None where it is missing and in the csv layout
    pixels:      the file with the pixels in the csv layout, else None
    label_files: those that are there; the three label.csv only together
    files:       image file name -> (bytes, modification time in ns), per part; empty in the csv layout
    hash:        changes when an image is added, removed, resized or touched, or a label file's content changes
    """

    root: Path
    folders: tuple[Path | None, ...]
    pixels: Path | None
    label_files: tuple[LabelFile, ...]
    files: tuple[dict[str, tuple[int, int]], ...]
    hash: str

    @property
    def layout(self) -> str:
        """One of "folders", "csv"."""
        return "folders" if self.pixels is None else "csv"

    def tables(self) -> dict[str, list[VoteTable]]:
        """The label files parsed, by source: three for label_csv, one for new_csv, a key only where they are there."""
        found: dict[str, list[VoteTable]] = {}
        for file in self.label_files:
            if file.name == "fer2013new.csv":
                found["new_csv"] = [parse_new_csv(file.data, str(file.path))]
            else:
                part = FOLDERS.index(file.name.split("/")[0])
                found.setdefault("label_csv", []).append(parse_label_csv(file.data, str(file.path), part))
        return found


def find_source(root: Path) -> Source:
    """Recognise the copy at `root`; DataError says what was expected where nothing fits."""
    with reading(root):
        return _find_source(root)


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn the system's refusal to read the user's files into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error


def _find_source(root: Path) -> Source:
    if not root.is_dir():
        raise DataError(
            f"no such folder: {root}; --root (or FERBENCH_FERPLUS_ROOT) must name the folder that holds FERPlus"
        )
    bases = [root, root / "data", root / "fer2013"]
    label_files = _label_files(bases)
    folders = tuple(_first([base / name for base in bases], Path.is_dir) for name in FOLDERS)
    files = tuple(_png_files(folder) for folder in folders)
    if any(files):
        pixels = None
    else:
        pixels = _first([base / name for base in bases for name in ("fer2013.csv", "icml_face_data.csv")], Path.is_file)
        folders = (None,) * len(PARTS)
        if pixels is None:
            raise DataError(
                f"no FERPlus images in {root}: expected {', '.join(FOLDERS)} with PNGs, or fer2013.csv, "
                "and the label files beside them"
            )
        if not any(file.name == "fer2013new.csv" for file in label_files):
            raise DataError(f"{pixels} has no FER+ labels: put fer2013new.csv from {LABELS_URL} beside it")
    if not label_files:
        raise DataError(f"no label files in {root}: get label.csv per folder or fer2013new.csv from {LABELS_URL}")
    return Source(root, folders, pixels, label_files, files, _hash(pixels, label_files, files))


def _label_files(bases: list[Path]) -> tuple[LabelFile, ...]:
    found = []
    for name in MICROSOFT:
        path = _first([base / name for base in bases], Path.is_file)
        if path is not None:
            data = path.read_bytes()
            found.append(LabelFile(name, path, data, hashlib.sha256(data).hexdigest()))
    per_part = [file.name for file in found if file.name.endswith("/label.csv")]
    if 0 < len(per_part) < len(PARTS):
        missing = [f"{folder}/label.csv" for folder in FOLDERS if f"{folder}/label.csv" not in per_part]
        raise DataError(f"{' and '.join(missing)} missing in {bases[0]}, but {per_part[0]} is there: get all three")
    return tuple(found)


def _png_files(folder: Path | None) -> dict[str, tuple[int, int]]:
    """Size and modification time of each PNG, by name."""
    if folder is None:
        return {}
    with os.scandir(folder) as entries:
        stats = {entry.name: entry.stat() for entry in entries if entry.name.endswith(".png")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _hash(
    pixels: Path | None, label_files: tuple[LabelFile, ...], files: tuple[dict[str, tuple[int, int]], ...]
) -> str:
    digest = hashlib.sha256(f"ferplus format {FORMAT}\n".encode())
    for file in label_files:
        digest.update(f"{file.name} {file.sha256}\n".encode())
    if pixels is not None:
        digest.update(f"{pixels.name} {pixels.stat().st_size} {pixels.stat().st_mtime_ns}\n".encode())
    for folder, stats in zip(FOLDERS, files, strict=True):
        for name in sorted(stats):
            digest.update(f"{folder}/{name} {stats[name][0]} {stats[name][1]}\n".encode())
    return digest.hexdigest()


def _first(paths: list[Path], test: Callable[[Path], bool]) -> Path | None:
    return next((path for path in paths if test(path)), None)
