"""Whether the images of a prepared copy are still those that were decoded."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import Prepared, load_prepared
from ferbench.bench.data.preparing.checks.fingerprint import image_digests
from ferbench.bench.data.reading.reader import Progress

ALWAYS_BYTES = 256 * 2**20  # images up to which a copy is looked at whenever it is opened: a quarter of a second
CHUNK = 1024
_SEEN: set[tuple[Path, int]] = set()  # copies found intact by this process, and when their images were last written


def check_images(prepared: Prepared, reader: str, threads: int = 2, progress: Progress | None = None) -> None:
    """DataError, with the first few, where stored images are not those that were decoded.

    reader: what to prepare the copy with again
    """
    changed = changed_images(prepared, threads, progress)
    if len(changed):
        root = prepared.meta.get("root", "PATH")
        first = ", ".join(map(str, prepared.index["ids"][changed[:3]]))
        raise DataError(
            f"{len(changed):,} images of the prepared copy {prepared.folder} are not as they were decoded "
            f"(first {first}): run `ferbench prepare {reader} --verify --root {root}` to make it again"
        )


def check_opened(prepared: Prepared, reader: str) -> None:
    """The same for a copy that is opened, once per process and unless it is large (then `prepare --verify` does it)."""
    if prepared.images.nbytes <= ALWAYS_BYTES and _stamp(prepared.folder) not in _SEEN:
        check_images(prepared, reader)
        believe(prepared.folder)


def believe(folder: Path) -> None:
    """Look at the images of this copy no more: this process has just written or checked them."""
    _SEEN.add(_stamp(folder))


def _stamp(folder: Path) -> tuple[Path, int]:
    return folder, (folder / "images.npy").stat().st_mtime_ns


def remove_changed(folder: Path, dataset: str, *, verify: bool, threads: int = 2) -> tuple[str, ...]:
    """Remove a prepared copy whose images have changed, so that it is made again; lines for the report.

    verify: look at the images of a large copy too. Nothing is done where there is no copy, or one that cannot be opened
    (which is made again in any case).
    """
    try:
        prepared = load_prepared(folder, dataset)
    except DataError:
        return ()
    if not verify and prepared.images.nbytes > ALWAYS_BYTES:
        return ()
    changed = changed_images(prepared, threads)
    if len(changed):
        shutil.rmtree(folder)
        return (f"{len(changed):,} images of the prepared copy were not as they had been decoded: decoded again",)
    believe(folder)
    return (f"verified: all {len(prepared.images):,} images of the prepared copy are as they were decoded",) * verify


def changed_images(prepared: Prepared, threads: int = 2, progress: Progress | None = None) -> NDArray[np.int64]:
    """Rows whose stored pixels are not those of their digests; images that could not be read have none."""
    total = len(prepared.images)
    readable = prepared.index.get("readable", np.ones(total, np.bool_))
    wrong = np.zeros(total, np.bool_)

    def look(start: int) -> None:
        rows = slice(start, start + CHUNK)
        wrong[rows] = (image_digests(prepared.images[rows]) != prepared.index["digests"][rows]).any(axis=1)

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, total, CHUNK)
        for start, _ in zip(starts, pool.map(look, starts), strict=True):
            if progress is not None:
                progress(min(start + CHUNK, total), total)
    return np.flatnonzero(wrong & readable)
