"""Protocols of the user's own: a results folder keeps a copy of each that was reproduced into it.

So its board has their lines whoever asks for it, also on another machine and after the original has moved.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

from ferbench.bench.training.recording import records
from ferbench.protocols import Protocol, load_protocol, protocol_names

FOLDER = "protocols"


def known_protocols(results: Path) -> list[Protocol]:
    """All that come with the package, and those that `results` remembers. Raises ProtocolError for a damaged copy."""
    shipped = [load_protocol(name) for name in protocol_names()]
    return shipped + [load_protocol(path) for path in sorted((results / FOLDER).glob("*/protocol.toml"))]


def remember(protocol: Protocol, results: Path) -> None:
    """Keep the files of a protocol that does not come with the package, in place of an older copy."""
    if protocol.name in protocol_names():
        return
    source, target = protocol.path.parent, results / FOLDER / protocol.name
    if source.resolve() == target.resolve():
        return
    names = {f"{prefix}{table.id}.csv" for table in protocol.tables for prefix in ("table", "")}
    for path in [*(source / name for name in sorted(names) if (source / name).is_file()), protocol.path]:
        records.write(target / path.name, partial(_write, path.read_bytes()))


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
