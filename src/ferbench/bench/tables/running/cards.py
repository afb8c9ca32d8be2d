"""Which GPU does a process take? One that no other process of ferbench on this machine has, of those that it may use.

A card is taken by a lock that its process holds until it ends. Where all are taken they are shared, and that is said:
no two processes meet on the first card by accident.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from ferbench.bench import locks
from ferbench.bench.files import FileError
from ferbench.bench.terminal import complain
from ferbench.bench.training import processes

_held: dict[str, ExitStack] = {}  # of this process


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = said.split(",") if said else list(map(str, range(torch.cuda.device_count())))
    return names[: torch.cuda.device_count()]


def take(number: int) -> list[str]:
    """At most so many cards that no other process has, from now on this one's."""
    taken: list[str] = []
    for name in gpus():
        if len(taken) < number and (name in _held or _lock(name)):
            taken.append(name)
    return taken


def release() -> None:
    """Let go of all cards."""
    while _held:
        _held.popitem()[1].close()


def free() -> int:
    """How many cards no other process has at the moment."""
    before = set(_held)
    found = take(len(gpus()))
    for name in set(_held) - before:
        _held.pop(name).close()
    return len(found)


def for_workers(jobs: int) -> Sequence[str]:
    """Cards for so many processes, which take them in turn; none without a GPU."""
    found, every = take(jobs), gpus()
    if len(found) < jobs and every:
        _say_shared(f"{jobs} processes share {len(found or every)} of {len(every)} GPUs")
    return found or every


def settle() -> None:
    """Have this process train on a card of its own; nothing for one that was given one, or has no GPU."""
    if not torch.cuda.is_available() or processes.several() or _held:
        return
    every = gpus()
    if found := take(1):
        torch.cuda.set_device(every.index(found[0]))
    else:
        torch.cuda.set_device(number := os.getpid() % len(every))
        _say_shared(f"GPU {every[number]} is shared with another process of ferbench: all {len(every)} are taken")


def _say_shared(line: str) -> None:
    complain(f"warning: {line}; CUDA_VISIBLE_DEVICES chooses otherwise")


def _folder() -> Path:
    """This user's, on this machine."""
    return Path(tempfile.gettempdir()) / f"ferbench-gpus-{getpass.getuser()}"


def _lock(name: str) -> bool:
    stack = ExitStack()
    with suppress(OSError, FileError):  # where no lock can be made, cards are taken in turn
        _folder().mkdir(mode=0o700, exist_ok=True)
        if not stack.enter_context(locks.held(_folder() / name.replace("/", "_"))):
            return False
    _held[name] = stack
    return True
