"""What a run's folder says of its run: finished, when and by which code; failed in this command; or neither."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from ferbench.bench.training.recording import records

ASIDE = ".by-"  # in the name of a folder that holds what other code made, before that code's digest
LOCK, RECORD, FAILURE = ".lock", "record.json", "failed.json"


def finished_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run. One that is missing or cannot be read is none: the run goes on."""
    try:
        record = records.read_json(folder / RECORD)
    except records.RunError:
        return None
    return record if record.get("status") == "finished" else None


def finished(folder: Path) -> bool:
    return finished_record(folder) is not None


def finished_before(folder: Path, code: str) -> str:
    """What to say of a run that was finished before this command: when, and whether by this code."""
    record = finished_record(folder) or {}
    made, when = record.get("code", "unknown"), record.get("finished_at", "an unknown date")
    if made == code:
        return f"finished before, on {when}, by this code ({code}): nothing trained"
    return f"finished on {when} by code {made}, and this is code {code}: nothing trained; --again trains anew"


def set_aside(folder: Path, identity: str, code: str) -> Path | None:
    """Move the files of a run that other code finished or began to a folder beside it, where a finished run still
    counts until the new one is finished; returns that folder, None where there is nothing to move.

    identity: the spec's hash. The caller holds the run's lock, which stays. Raises RunError.
    """
    made = _made_by(folder, identity)
    if made in (None, code):
        return None
    name, number = f"{folder.name}{ASIDE}{made}", 1
    while (aside := folder.with_name(name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    try:
        aside.mkdir()
        with suppress(FileNotFoundError):
            shutil.copyfile(folder / "spec.json", aside / "spec.json")
        # the record first: a command that dies here leaves a run to be begun, not a finished one without its files
        for path in sorted(folder.iterdir(), key=lambda path: path.name != RECORD):
            if path.name != LOCK:
                path.rename(aside / path.name)
    except OSError as error:
        raise records.RunError(f"{folder}: cannot be moved to {aside}: {error.strerror}") from error
    return aside


def _made_by(folder: Path, identity: str) -> str | None:
    """The code that finished or began the run; None for a run without a whole record or checkpoint."""
    if record := finished_record(folder):
        return str(record.get("code", "unknown"))[:16]
    try:
        return str(records.load_checkpoint(folder / "checkpoint.pt", identity)["code"])[:16]
    except records.RunError:
        return None


def note_failure(folder: Path, command: str, reason: str) -> None:
    """Leave word for the other processes of this command that the run failed."""
    with suppress(records.RunError):  # where nothing can be written, they find out themselves
        records.write_json(folder / FAILURE, {"command": command, "reason": reason, "at": records.now()})


def failure(folder: Path, command: str) -> str | None:
    """Why the run failed in this command; None where it did not."""
    try:
        noted = records.read_json(folder / FAILURE)
    except records.RunError:
        return None
    return str(noted.get("reason")) if noted.get("command") == command else None


def last_failure(folder: Path) -> tuple[str, str] | None:
    """Why the run failed when it was tried last, in whatever command, and when; None where it did not."""
    try:
        noted = records.read_json(folder / FAILURE)
    except records.RunError:
        return None
    return str(noted.get("reason", "")), str(noted.get("at", ""))


def forget_failure(folder: Path) -> None:
    """The run is finished now."""
    with suppress(OSError):
        (folder / FAILURE).unlink(missing_ok=True)
