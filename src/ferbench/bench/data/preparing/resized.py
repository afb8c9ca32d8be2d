"""A prepared copy at another size, kept beside it: for data sets that are decoded at one size of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import Prepared, load_prepared, write_prepared
from ferbench.bench.data.preparing.checks.intact import check_opened
from ferbench.bench.data.preparing.partial import finished
from ferbench.bench.data.preparing.stored_form import LARGEST, SMALLEST
from ferbench.bench.data.reading.reader import Progress

CHUNK = 256


def resized(
    prepared: Prepared, dataset: str, size: int, *, threads: int = 2, progress: Progress | None = None
) -> NDArray[np.uint8]:
    """Images [N, size, size, C] of a prepared copy, bilinear, made on the first call; its own where they fit.

    Raises DataError for a size out of range.
    """
    if size in (0, prepared.images.shape[1]):
        return prepared.images
    if not SMALLEST <= size <= LARGEST:
        raise DataError(f"option 'size' for {dataset} must be 0 or {SMALLEST} to {LARGEST}, not {size}")
    folder = prepared.folder.with_name(f"{prepared.folder.name}-{size}px")
    if not finished(folder, dataset):
        count, *_, channels = prepared.images.shape
        with write_prepared(folder, dataset, (count, size, size, channels)) as draft:
            _fill(prepared.images, draft.images, threads, progress)
            draft.index = {name: prepared.index[name] for name in ("ids", "parts")}
            draft.meta = {"root": prepared.meta["root"], "resized from": prepared.folder.name}
    smaller = load_prepared(folder, dataset)
    check_opened(smaller, dataset)
    return smaller.images


def _fill(source: NDArray[np.uint8], target: NDArray[np.uint8], threads: int, progress: Progress | None) -> None:
    size = target.shape[1]

    def work(start: int) -> int:
        stop = min(start + CHUNK, len(source))
        for row in range(start, stop):
            pixels = source[row, :, :, 0] if source.shape[3] == 1 else source[row]
            smaller = Image.fromarray(np.asarray(pixels)).resize((size, size), Image.Resampling.BILINEAR)
            target[row] = np.asarray(smaller).reshape(target.shape[1:])
        return stop

    with ThreadPoolExecutor(threads) as pool:
        for done in pool.map(work, range(0, len(source), CHUNK)):
            if progress is not None:
                progress(done, len(source))
