"""A prepared data set in the making that survives being killed: the next attempt decodes only what is not there yet.

Beside the folder to be, under a name of its own, lie images.npy, filled image by image through the file (a memory map
of it would count as the process's memory, and a full disk would kill the process), and rows.npy, a record per image
which says that its pixels are safely there. The lock on the folder keeps a second process waiting, and is free again
when the first dies.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench import locks
from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import load_prepared, writing
from ferbench.bench.data.preparing.decode import MODES, Decoded
from ferbench.bench.files import FileError

LOOK_S = 0.1  # between looks at a lock that another process holds
FORGOTTEN_S = 7 * 24 * 3600.0  # after a week without a change nobody comes back to an attempt
FLUSH_BYTES, FLUSH_S = 256 * 2**20, 10.0  # pixels, and seconds, between two waits for the disk
ROW = np.dtype(
    [
        ("done", "u1"), ("mode", "u1"), ("turned", "u1"), ("width", "<i4"), ("height", "<i4"), ("digest", "u1", (16,)),
        ("thumbnail", "u1", (256,)), ("matrix", "<f4", (2, 3)),
    ]
)  # fmt: skip

Shape = tuple[int, int, int, int]


class Partial:
    """images.npy [N, S, S, C] and its rows on disk, open for writing; `store` is called from one thread."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        self._image_bytes = math.prod(shape[1:])
        self.rows: NDArray[Any] = self._open_rows()
        self._offset = self._open_images()
        self._file = os.open(folder / "images.npy", os.O_WRONLY)
        self._waiting: list[tuple[int, NDArray[Any]]] = []
        self._unflushed, self._flushed_at = 0, time.monotonic()

    def pending(self) -> NDArray[np.int64]:
        """Rows that are still to be decoded."""
        return np.flatnonzero(self.rows["done"] == 0)

    def store(self, row: int, decoded: Decoded) -> None:
        """Write an image; it counts as done only after the next `flush`. Raises OSError on a full disk."""
        data = decoded.pixels.data.cast("B")
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], self._offset + row * self._image_bytes + written)
        record = np.zeros((), ROW)
        record["done"], record["mode"] = 1, MODES.index(decoded.mode)
        record["width"], record["height"] = decoded.width, decoded.height
        record["turned"], record["thumbnail"] = decoded.turned, decoded.thumbnail
        record["digest"], record["matrix"] = np.frombuffer(decoded.digest, np.uint8), decoded.matrix
        self._waiting.append((row, record))
        self._unflushed += self._image_bytes
        if self._unflushed >= FLUSH_BYTES or time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Wait until the pixels are on the disk, then note that they are."""
        os.fsync(self._file)
        for row, record in self._waiting:
            self.rows[row] = record
        assert isinstance(self.rows, np.memmap)
        self.rows.flush()
        self._waiting.clear()
        self._unflushed, self._flushed_at = 0, time.monotonic()

    def close(self) -> None:
        """Keep what was stored, whole or not."""
        if self._file >= 0:
            with suppress(OSError):  # a full disk: what was flushed before stays
                self.flush()
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_rows(self) -> NDArray[Any]:
        path = self.folder / "rows.npy"
        if path.exists():
            with suppress(ValueError, OSError, EOFError):
                rows: NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
                if rows.shape == self.shape[:1] and rows.dtype == ROW:
                    return rows
        fresh: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=ROW, shape=self.shape[:1])
        return fresh

    def _open_images(self) -> int:
        """Make sure that images.npy has its header and length; returns where the first pixel lies."""
        path = self.folder / "images.npy"
        kept = path.stat().st_size if path.exists() else 0
        with path.open("r+b" if kept else "w+b") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            offset = file.tell()
            length = offset + math.prod(self.shape)
            if kept != length:  # new, or of another shape
                file.truncate(length)
                self.rows["done"] = 0
        return offset


@contextmanager
def partial_work(folder: Path, dataset: str, shape: Shape) -> Iterator[Partial | None]:
    """The work that will become `folder`, alone; None where another process finished it while this one waited.

    On any error, and when the process is killed, what was decoded stays for the next attempt.
    """
    work = folder.parent / f".{folder.name}.partial"
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep_forgotten(folder.parent, dataset, work)
    with alone(folder):
        if finished(folder, dataset):
            yield None
            return
        with writing(folder):
            _check_room(work, shape)
            work.mkdir(exist_ok=True)
            partial = Partial(work, shape)
        with partial:
            yield partial


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock on `path`, waiting for whoever holds it now; it is free again when its holder dies."""
    while True:
        with _held(path.parent / f".{path.name}.lock") as free:
            if free:
                yield
                return
        time.sleep(LOOK_S)


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    with ExitStack() as stack:
        try:
            with writing(lock):
                free = stack.enter_context(locks.held(lock))
        except FileError as error:
            raise DataError(str(error)) from error
        yield free


def finished(folder: Path, dataset: str) -> bool:
    """Whether a whole prepared copy lies at `folder`."""
    if not folder.is_dir():
        return False
    with suppress(DataError):
        load_prepared(folder, dataset)
        return True
    return False


def _check_room(work: Path, shape: Shape) -> None:
    """OSError where the disk has no room for what is still to be written."""
    there = work / "images.npy"
    used = there.stat().st_blocks * 512 if there.exists() else 0
    if math.prod(shape) - used > shutil.disk_usage(work.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sweep_forgotten(parent: Path, dataset: str, mine: Path) -> None:
    """Remove attempts at `dataset` that nobody came back to: of other files, or under other options."""
    for leftover in parent.glob(f".{dataset}-*.partial"):
        with suppress(OSError):
            if leftover != mine and time.time() - (leftover / "rows.npy").stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(leftover, ignore_errors=True)
