"""Which process is at a run: the lock on its folder, and who holds it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ferbench.bench import locks
from ferbench.bench.files import FileError
from ferbench.bench.training import processes
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import LOCK


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold the run's lock; False when another process holds it. It is free again when its holder dies.

    Of the processes of one torchrun the first holds it for all. Raises RunError where the folder cannot be written.
    """
    if processes.rank() > 0:
        yield processes.agreed(False)
        return
    with _held(folder) as free:
        yield processes.agreed(free)


def holder(folder: Path) -> str:
    """Who said last that it is at the run: its process, its machine and since when."""
    return locks.holder(folder / LOCK) or "another process"


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    said = f"process {os.getpid()} on {socket.gethostname()}, {records.now()}"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = stack.enter_context(locks.held(folder / LOCK, said))
        except OSError as error:
            reason = f"cannot write {folder}: {error.strerror}; choose another --results folder"
            raise records.RunError(reason) from error
        except FileError as error:
            raise records.RunError(str(error)) from error
        yield free
