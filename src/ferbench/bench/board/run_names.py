"""Which run or runs a name on the command line means: a folder, a run's name, a part of it, or cells of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferbench.bench.board.frame import existing
from ferbench.bench.board.remembered import FOLDER
from ferbench.bench.tables.counting.stored import read_stored
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.records import RunError
from ferbench.protocols import Cell, ProtocolError, protocol_names, select

LEAST = 4  # characters of a name's end


@dataclass(frozen=True)
class Listed:
    """One run of a results folder, finished or not; what cannot be read of it is empty.

    short: the shortest end of its name, from its hash on, that no other run has.
    """

    folder: Path
    short: str
    state: str  # finished, to continue, begun, damaged
    spec: dict[str, Any]
    record: Mapping[str, Any]
    why: str = ""  # damaged


def find_folder(name: str, results: Path) -> Path | None:
    """The folder of the run that `name` means: a path, a run's name, or the beginning or end of one alone.

    None where no run is called so. Raises RunError where several are.
    """
    for folder in (results / "runs" / name, Path(name)):
        if (folder / "spec.json").is_file():
            return folder
    if "/" in name or len(name) < LEAST:
        return None
    names = _names(results)
    found = [known for known in names if known.endswith(name)] or [known for known in names if known.startswith(name)]
    if len(found) > 1:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise RunError(f"'{name}' may be {len(found)} runs of {results / 'runs'} ({shown}); give more of the name")
    return results / "runs" / found[0] if found else None


def find_cells(target: str, results: Path) -> list[Cell]:
    """The cells of `PAPER[/TABLE[/ROW[/COLUMN]]]`, PAPER one that the results folder remembers, too."""
    name, _, rest = target.partition("/")
    own = results / FOLDER / name
    if name not in protocol_names() and (own / "protocol.toml").is_file():
        return select(f"{own}/{rest}")
    return select(target)


def list_runs(results: Path, words: Sequence[str] = ()) -> list[Listed]:
    """The runs of a results folder whose name or settings hold every one of `words`. Raises RunError."""
    names = _names(existing(results))
    found = []
    for name in names:
        run = _listed(results / "runs" / name, _short(name, names))
        if all(word in name or word in str(run.spec) for word in words):
            found.append(run)
    return found


def _names(results: Path) -> list[str]:
    return sorted(path.parent.name for path in results.glob("runs/*/spec.json"))


def _short(name: str, names: Sequence[str]) -> str:
    end = len(re.split(r"-(?=[0-9a-f]{8}$)", name)[-1])
    for length in range(min(end, 8), len(name)):
        if sum(other.endswith(name[-length:]) for other in names) == 1:
            return name[-length:]
    return name


def _listed(folder: Path, short: str) -> Listed:
    record: Mapping[str, Any] = {}
    try:
        if (folder / "record.json").exists() and (stored := read_stored(folder)):
            spec, record = dict(stored.spec), stored.record
        else:
            spec = records.read_json(folder / "spec.json")
    except RunError as error:
        return Listed(folder, short, "damaged", {}, {}, str(error))
    state = "finished" if record else "to continue" if (folder / "checkpoint.pt").exists() else "begun"
    return Listed(folder, short, state, spec, record)


def no_such_run(target: str, results: Path, error: ProtocolError) -> RunError:
    """What to say of a target that is neither a run nor cells."""
    return RunError(f"no run '{target}' in {results / 'runs'}, and {error}; `ferbench runs` lists runs")
