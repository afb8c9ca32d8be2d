"""The one process that writes the results of a cluster's runs: on the command's machine, and gone with the command.

It holds the lock of every run that is being trained for it, so other commands may share the results folder. A run that
is tried again, because its machine died, goes on from the checkpoint that came home last; what a machine that was given
up still sends is not taken. Where this process itself dies, Ray starts it anew, and it takes nothing of the tries that
were begun before: these stop, and are begun again.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from ferbench.bench import locks
from ferbench.bench.tables.running.watched import remove_note, write_note
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import (
    LOCK,
    RECORD,
    finished,
    finished_record,
    forget_failure,
    note_failure,
    set_aside,
)

SCORES, CHECKPOINT = "training.npz", "checkpoint.pt"
FILES = ("spec.json", "metrics.jsonl", "predictions.npz", CHECKPOINT, SCORES, RECORD)  # the record last
Files = dict[str, bytes]


class Keeper:
    """An actor; `attempt` names one try at a run by one machine.

    runs: names of all runs of the plan; command: the command's id, which a failure is noted under
    """

    def __init__(self, results: str, runs: tuple[str, ...], command: str) -> None:
        self._folders = {run: Path(results) / "runs" / run for run in runs}
        self._command = command
        self._held: dict[str, ExitStack] = {}
        self._attempts: dict[str, str] = {}
        self._stopping = False

    def begin(
        self, run: str, attempt: str, identity: str, code: str, again: bool, weights_too: bool
    ) -> tuple[str, Files]:
        """Whether to go on with a run, and what was saved of it: go, finished, busy or stop."""
        folder = self._folders[run]
        if self._stopping:
            return "stop", {}
        if run not in self._held and not self._done(folder, code, again, weights_too):
            folder.mkdir(parents=True, exist_ok=True)
            stack = ExitStack()
            said = f"process {os.getpid()} on {socket.gethostname()}, {records.now()}"
            if not stack.enter_context(locks.held(folder / LOCK, said)):
                stack.close()
                return "busy", {}
            self._held[run] = stack
        if self._done(folder, code, again, weights_too):
            self._release(run)
            return "finished", {}
        if again:
            set_aside(folder, identity, code)
        self._attempts[run] = attempt
        return "go", self.fetch(run, (CHECKPOINT,))

    def is_free(self, run: str) -> bool:
        """Whether no other command is at a run."""
        folder = self._folders[run]
        if run in self._held or not folder.is_dir():
            return True
        with locks.held(folder / LOCK) as free:
            return free

    def fetch(self, run: str, names: tuple[str, ...]) -> Files:
        """The files of a run of these names that are there."""
        folder = self._folders[run]
        return {name: (folder / name).read_bytes() for name in names if name in FILES and (folder / name).is_file()}

    def note(self, run: str, attempt: str, said: tuple[str, int, int, str, str, str]) -> bool:
        """How far a run is, as `write_note` takes it; returns whether it is to go on."""
        if known := self._attempts.get(run) == attempt:
            write_note(self._folders[run], *said)
        return known and not self._stopping

    def keep(self, run: str, attempt: str, files: Files) -> bool:
        """Write files of a run, each whole; returns whether they were taken."""
        if known := self._attempts.get(run) == attempt:
            for name in FILES:
                if name in files:
                    _write(self._folders[run] / name, files[name])
        return known

    def offer(self, run: str, scores: bytes) -> bytes:
        """A finished run's scores of the training images: the first that came home count, and are returned."""
        path = self._folders[run] / SCORES
        if not path.is_file():
            _write(path, scores)
        return path.read_bytes()

    def end(self, run: str, attempt: str, failed: str = "") -> None:
        """Nobody is at the run any more."""
        if self._attempts.get(run) == attempt:
            self.give_up(run, failed)

    def give_up(self, run: str, failed: str = "") -> None:
        """The same, whoever was at it."""
        folder = self._folders[run]
        if failed and folder.is_dir():
            note_failure(folder, self._command, failed)
        elif finished(folder):
            forget_failure(folder)
        remove_note(folder)
        self._release(run)

    def stop(self) -> list[str]:
        """Tell all that are at a run to save it and stop; returns the names of these runs."""
        self._stopping = True
        return list(self._attempts)

    def _done(self, folder: Path, code: str, again: bool, weights_too: bool) -> bool:
        record = finished_record(folder)
        if record is None or (again and record.get("code") != code):
            return False
        return not weights_too or any((folder / name).exists() for name in (CHECKPOINT, SCORES))

    def _release(self, run: str) -> None:
        self._attempts.pop(run, None)
        if stack := self._held.pop(run, None):
            stack.close()


def _write(path: Path, content: bytes) -> None:
    records.write(path, lambda file: file.write(content))
