"""What the machines of a cluster are told: everything a run needs, in plain values, and what must lie where it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import ferbench
from ferbench.errors import UserError
from ferbench.validation import Value

SENT = 2**30  # bytes of a data set's images, or of a weight file, up to which it travels; larger ones must lie there
SOURCES = (".py", ".toml", ".csv", ".json")


class ClusterError(UserError):
    """A cluster that cannot be reached or used."""


@dataclass(frozen=True)
class Data:
    """A data set under its options. sent: the object store's reference, None for one that must lie on the machine."""

    reader: str
    options: Mapping[str, Value]
    identity: Mapping[str, str]
    sent: Any = None


@dataclass(frozen=True)
class Weights:
    """A weight file by its hash. path: where the file lies on the command's machine, and must lie where not sent."""

    sha256: str
    path: str
    sent: Any = None


@dataclass(frozen=True)
class Setup:
    """The same for all runs of a command.

    protocol: its name, or files by name where it is one of the user's own; plugins: source by file name, or None for a
    module that must be installed; data: by `faces_key`; mode: graph, deterministic, compile; save_every_s: seconds
    between checkpoints that come home
    """

    id: str
    protocol: str
    files: Mapping[str, bytes]
    preset: str
    variant: str | None
    plugins: Mapping[str, bytes | None]
    data: Mapping[str, Data]
    weights: Mapping[str, Weights]
    mode: tuple[str, bool, str]
    threads: int | None
    save_every_s: float


@dataclass(frozen=True)
class Order:
    """One run, by names: its folder's, the selector of the cell that it is or that needs it, its seed.

    identity, code: the spec's hash and the method's digest; again: train anew what other code made; weights_too: a
    record alone is not enough, for other runs start here; needs: names of the runs it starts from or is scored by;
    trained_by: of the one whose network it is
    """

    run: str
    title: str
    cell: str
    seed: int
    identity: str
    code: str
    again: bool = False
    weights_too: bool = False
    needs: tuple[str, ...] = ()
    trained_by: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a run on a machine: finished, failed (for good), waiting (for a run that is not finished), busy
    (another process is at it), stopped."""

    run: str
    state: str
    said: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


@cache
def source_hash() -> str:
    """16 hex digits of all that the installed package holds: equal ones do the same."""
    folder, total = Path(ferbench.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in SOURCES:
            total.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]
