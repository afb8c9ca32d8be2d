"""The prepared form of a data set: each image decoded once, memory-mapped afterwards.

A prepared data set is a folder `<cache>/<data set>-<hash of its source>/` with
    images.npy  [N, H, W, C] uint8, opened as a read-only memory map
    index.npz   arrays about the images (ids, parts, digests, votes, ...), numbers and text only, never pickled objects
    meta.json   format, source, layout, number of images, and what the reader wishes to remember
It knows nothing of label rules, so one folder serves every option of a reader.

Nothing in it can change unseen: meta.json holds a digest of itself and of index.npz, and index.npz one of each image.
The first two are looked at whenever the folder is opened, the images by `intact.py`.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.checks.fingerprint import image_digests, pixel_fingerprint
from ferbench.bench.files import FileError, read_json

FORMAT = 2  # raise when the meaning of a stored array changes: older folders are then decoded again
ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True)
class Prepared:
    """An open prepared data set.

    images: [N, H, W, C] uint8, read-only memory map
    index:  arrays by name; `ids` [N] str, `parts` [N] int8 and `digests` [N, 16] uint8 are always there
    meta:   what meta.json holds; `pixels` is the fingerprint of all images
    checked: what was found when the images were held against their digests, one line each
    made:    whether it was made by the call that returned it
    """

    folder: Path
    images: NDArray[np.uint8]
    index: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]
    checked: tuple[str, ...] = ()
    made: bool = False


@dataclass
class Draft:
    """A prepared data set being written: fill `images`, then set `index` and `meta`."""

    images: NDArray[np.uint8]
    index: dict[str, NDArray[Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def cache_root() -> Path:
    """Where prepared data sets lie: $FERBENCH_CACHE, else ~/.cache/ferbench."""
    named = os.environ.get("FERBENCH_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "ferbench"


def load_prepared(folder: Path, dataset: str, reader: str = "") -> Prepared:
    """Open the folder that `write_prepared` made; DataError where it is missing, damaged or of another format.

    reader: which reader to prepare it with again, where its name is not that of the data set
    """
    root = "PATH"
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if not isinstance(meta, dict) or (meta.get("dataset"), meta.get("format")) != (dataset, FORMAT):
            raise ValueError(f"meta.json is not of a {dataset} data set in format {FORMAT}")
        root = str(meta.get("root", root))
        if meta.pop("digest", None) != _digest_of(meta):
            raise ValueError("meta.json has been changed")
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        packed = (folder / "index.npz").read_bytes()
        if hashlib.sha256(packed).hexdigest() != meta["index_sha256"]:
            raise ValueError("index.npz has been changed")
        with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
            index = dict(stored)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != meta["images"]:
            raise ValueError(f"images.npy holds {images.dtype} {images.shape}, expected {meta['images']} uint8 images")
        if any(len(index[name]) != len(images) for name in ("ids", "parts", "digests")):
            raise ValueError("index.npz and images.npy differ in length")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make the JSON, NumPy and zip readers raise all sorts
        raise DataError(
            f"prepared {dataset} at {folder} cannot be read ({_one_line(error)}): "
            f"run `ferbench prepare {reader or dataset} --root {root}` to make it again"
        ) from error
    return Prepared(folder, images, index, meta)


@contextmanager
def write_prepared(folder: Path, dataset: str, shape: tuple[int, int, int, int]) -> Iterator[Draft]:
    """Write a prepared data set with images of `shape` [N, H, W, C]; it appears at `folder` only when complete.

    Two processes may write the same folder at once: each works under a name of its own, and the first to finish wins.
    """
    work = _beside(folder)
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep_abandoned(folder)
            # Writing to a memory map on a full disk would kill the process.
            if math.prod(shape) > shutil.disk_usage(folder.parent).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            work.mkdir()
            images = np.lib.format.open_memmap(work / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        draft = Draft(images)
        yield draft
        with writing(folder):
            images.flush()
            index = draft.index if "digests" in draft.index else draft.index | {"digests": image_digests(images)}
            seal(work, dataset, index, draft.meta)
            put_in_place(work, folder, dataset)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def seal(work: Path, dataset: str, index: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write index.npz and meta.json beside the images in `work`, with what tells a later change."""
    arrays: dict[str, Any] = dict(index)
    np.savez(work / "index.npz", **arrays)
    with (work / "index.npz").open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    known = {"dataset": dataset, "format": FORMAT, "images": len(index["ids"])}
    write_meta(work, {**known, **meta, "pixels": pixel_fingerprint(index["digests"]), "index_sha256": sha256})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write near `path` into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {path.parent} ({error.strerror or error}): "
            "make room there, or name another folder in FERBENCH_CACHE"
        ) from error


def _beside(path: Path) -> Path:
    """A name of our own next to `path`, for work that is renamed to `path` when done."""
    return path.parent / f".{path.name}-{uuid.uuid4().hex}"


def put_in_place(work: Path, folder: Path, dataset: str) -> None:
    """Rename `work` to `folder`; a damaged or older one there goes first, as a full folder cannot be renamed over."""
    aside = _beside(folder)
    if folder.exists():
        with suppress(DataError):
            load_prepared(folder, dataset)
            return
        os.replace(folder, aside)
    try:
        os.replace(work, folder)
    except OSError:
        if not folder.exists():  # else another process has put the same in place just now
            raise
    shutil.rmtree(aside, ignore_errors=True)


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write meta.json, whole or not at all."""
    work = _beside(folder / "meta.json")
    with writing(folder):
        work.write_text(json.dumps({**meta, "digest": _digest_of(meta)}, indent=1) + "\n", encoding="utf-8")
        os.replace(work, folder / "meta.json")


def _digest_of(meta: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what meta.json says."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _sweep_abandoned(folder: Path) -> None:
    """Remove what killed runs left behind, but not what another process may be writing now."""
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(leftover, ignore_errors=True)


def remember(dataset: str, folder: Path) -> None:
    """Note beside `folder` that it is the copy of `dataset` to use where no root is given."""
    note = folder.parent / f"{dataset}.json"
    work = _beside(note)
    with writing(folder):
        work.write_text(json.dumps({"folder": folder.name}) + "\n", encoding="utf-8")
        os.replace(work, note)


def recall(dataset: str, cache: Path | None = None) -> Path | None:
    """The folder last remembered for `dataset` in `cache` (default: cache_root()), None where there is none."""
    cache = cache or cache_root()
    try:
        folder = cache / str(read_json(cache / f"{dataset}.json")["folder"])
    except (FileError, KeyError):
        return None
    return folder if folder.is_dir() else None
