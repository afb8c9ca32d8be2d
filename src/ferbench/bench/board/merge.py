"""Results folders of several machines brought together: nothing is overwritten, nothing damaged is let in, none hidden.

A run is a folder named by its settings, so the same run may have been finished twice. Where the two agree in every
number and prediction, one is kept; where they do not, the second is kept beside the first, under the name that a run by
other code has, and the board says which one counts. Only whole runs are taken: each is read as strictly as `verify`
reads it, and its checkpoint is held against its digest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ferbench.bench import files
from ferbench.bench.board.remembered import FOLDER, remember
from ferbench.bench.board.verify import verify_run
from ferbench.bench.tables.counting.predictions import read_predictions
from ferbench.bench.tables.counting.stored import read_stored
from ferbench.bench.tables.running.claims import claimed, holder
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import ASIDE, FAILURE, RECORD, finished
from ferbench.errors import UserError
from ferbench.protocols import ProtocolError, load_protocol

CHECKPOINT, PREDICTIONS = "checkpoint.pt", "predictions.npz"
PASSING = (FAILURE, "progress.json", "checkpoint.damaged.pt")  # what a machine notes for itself


@dataclass(frozen=True)
class Merged:
    """What became of a run, or of a protocol: `what` in a word or two, `why` for people."""

    name: str
    what: str  # new, equal, different, to continue, left, refused; protocol, for one that is remembered
    why: str = ""


def merge(source: Path, target: Path) -> Iterator[Merged]:
    """Bring what is in `source` into `target`, both results folders; the source stays as it is. Raises RunError."""
    if not (source / "runs").is_dir():
        raise records.RunError(f"{source}: no results folder: it has no runs/")
    if source.resolve() == target.resolve():
        raise records.RunError(f"{source}: cannot be merged into itself")
    for folder in sorted(path for path in (source / "runs").iterdir() if path.is_dir()):
        try:
            yield _merge_run(folder, target / "runs" / folder.name)
        except UserError as error:
            yield Merged(folder.name, "refused", str(error))
    for path in sorted((source / FOLDER).glob("*/protocol.toml")):
        yield from _merge_protocol(path, target)


def _merge_run(folder: Path, into: Path) -> Merged:
    """One run. Raises UserError for one that is damaged."""
    contents = _contents(folder)
    if not contents:
        return Merged(folder.name, "left", "holds no run")
    if not (folder / RECORD).exists():
        return _merge_begun(folder, into, contents)
    if wrong := verify_run(folder).wrong:
        raise records.RunError("; ".join(wrong))
    if read_stored(folder) is None:
        raise records.RunError("its record is not of a finished run")
    _check_checkpoint(folder)
    with claimed(into) as free:
        if not free:
            return Merged(folder.name, "left", f"{holder(into)} is at it; merge again later")
        if not finished(into):
            _clear(into)
            _copy(contents, into)
            return Merged(folder.name, "new", _said(folder))
        if _same(folder, into):
            lacking = [path for path in contents if not (into / path.name).exists()]
            _copy(lacking, into)
            names = ", ".join(path.name for path in lacking)
            return Merged(folder.name, "equal", f"the same in both{f'; {names} was lacking' if names else ''}")
        for known in sorted(into.parent.glob(f"{folder.name.partition(ASIDE)[0]}{ASIDE}*")):
            if finished(known) and _same(folder, known):
                return Merged(folder.name, "equal", f"the same as {known.name}")
        aside = _aside(into, folder)
        _copy(contents, aside)
        return Merged(folder.name, "different", f"{_said(into)}; {_said(folder)}; the second is kept as {aside.name}")


def _merge_begun(folder: Path, into: Path, contents: list[Path]) -> Merged:
    """A run that is not finished goes on where it was taken furthest."""
    if not (folder / CHECKPOINT).exists():
        return Merged(folder.name, "left", "nothing of it was saved yet")
    step = _step(folder)
    with claimed(into) as free:
        if not free:
            return Merged(folder.name, "left", f"{holder(into)} is at it; merge again later")
        if finished(into):
            return Merged(folder.name, "left", f"saved after step {step} there, and finished here")
        here = _step(into) if (into / CHECKPOINT).exists() else 0
        if here >= step:
            return Merged(folder.name, "left", f"saved after step {step} there, and after step {here} here")
        _copy(contents, into)
    return Merged(folder.name, "to continue", f"saved after step {step}")


def _contents(folder: Path) -> list[Path]:
    """The files of a run, its record last. Raises RunError for what no run holds."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name not in PASSING]
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise records.RunError(f"{path.name} is no file")
    return sorted(paths, key=lambda path: path.name == RECORD)


def _check_checkpoint(folder: Path) -> None:
    path = folder / CHECKPOINT
    if path.exists():
        with files.open_regular(path) as file:
            try:
                files.check_seal(file)
            except files.FileError as error:
                raise records.RunError(f"{path.name}: {error}; delete it to merge the rest") from error


def _step(folder: Path) -> int:
    """The step after which the run was saved. Raises RunError."""
    spec = records.read_json(folder / "spec.json")
    if folder.name != (name := records.run_id(spec)):
        raise records.RunError(f"its settings are those of {name}")
    return int(records.load_checkpoint(folder / CHECKPOINT, records.spec_hash(spec))["step"])


def _same(one: Path, other: Path) -> bool:
    """Whether two finished folders of a run hold the same numbers, answers and predictions, bit for bit."""
    first, second = (records.read_json(folder / RECORD) for folder in (one, other))
    if any(first.get(key) != second.get(key) for key in ("metrics", "evidence", "evaluated")):
        return False
    if not ((one / PREDICTIONS).exists() and (other / PREDICTIONS).exists()):
        return True
    told, retold = (read_predictions(folder / PREDICTIONS) for folder in (one, other))
    return told.scores.keys() == retold.scores.keys() and all(
        np.array_equal(values, retold.scores[rule]) for rule, values in told.scores.items()
    )


def _said(folder: Path) -> str:
    record: dict[str, Any] = records.read_json(folder / RECORD)
    parts = [f"overall {float(record['metrics']['last']['overall']):.4f}"]
    parts += [f"{word} {record[key]}" for word, key in (("on", "host"), ("at", "finished_at"), ("by code", "code"))
              if key in record]  # fmt: skip
    return " ".join(parts)


def _aside(into: Path, folder: Path) -> Path:
    """A name beside `into` that no run has yet."""
    made = str(records.read_json(folder / RECORD).get("code", "unknown"))[:16]
    name, number = f"{into.name.partition(ASIDE)[0]}{ASIDE}{made}", 1
    while (path := into.with_name(name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def _clear(folder: Path) -> None:
    """Remove what an unfinished run has left: the finished one brings files of its own."""
    for path in _contents(folder):
        path.unlink()


def _copy(paths: list[Path], folder: Path) -> None:
    """Each whole or not at all, in this order."""
    for path in paths:
        with files.open_regular(path) as source:
            records.write(folder / path.name, partial(shutil.copyfileobj, source))


def _merge_protocol(path: Path, target: Path) -> Iterator[Merged]:
    try:
        protocol = load_protocol(path)
        there = target / FOLDER / protocol.name / "protocol.toml"
        if not there.exists():
            remember(protocol, target)
            yield Merged(protocol.name, "protocol", f"version {protocol.version}")
        elif load_protocol(there).hash != protocol.hash:
            why = f"version {protocol.version} differs from the one that lies here, which is kept"
            yield Merged(protocol.name, "protocol", why)
    except ProtocolError as error:
        yield Merged(path.parent.name, "refused", str(error))
