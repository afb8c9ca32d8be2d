"""Which process is at a run: the system's lock on its folder, and who holds it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ferbench.bench.training import processes
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import LOCK

try:
    import fcntl
except ImportError:  # Windows: no locks, so one process at a time
    fcntl = None  # type: ignore[assignment]

LOCKS = fcntl is not None
_LONGEST = 200  # bytes of what a holder says of itself


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold the run's lock; False when another process holds it. The system frees it when a process dies.

    Of the processes of one torchrun the first holds it for all. Raises RunError where the folder cannot be written, or
    where its file system keeps no locks.
    """
    if processes.rank() > 0:
        yield processes.agreed(False)
        return
    descriptor = _open(folder)
    try:
        free = _lock(descriptor, folder)
        if free:
            with suppress(OSError):  # it only tells others who is here
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, {records.now()}".encode(), 0)
        yield processes.agreed(free)
    finally:
        os.close(descriptor)


def holder(folder: Path) -> str:
    """Who said last that it is at the run: its process, its machine and since when."""
    with suppress(OSError):
        descriptor = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            said = os.read(descriptor, _LONGEST).decode(errors="replace")
        finally:
            os.close(descriptor)
        if said:
            return said
    return "another process"


def _open(folder: Path) -> int:
    """The lock file of the folder, both made where they are not there; never a pipe, a device or a link."""
    flags = os.O_RDWR | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, flags, 0o666)
    except OSError as error:
        raise records.RunError(f"cannot write {folder}: {error.strerror}; choose another --results folder") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise records.RunError(f"{folder / LOCK}: is no regular file; remove it")
    return descriptor


def _lock(descriptor: int, folder: Path) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise records.RunError(
            f"{folder}: its file system keeps no locks ({error.strerror}), so two processes could spoil one run; "
            "choose a --results folder on another disk"
        ) from error
    return True
