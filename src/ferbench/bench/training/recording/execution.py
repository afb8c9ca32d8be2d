"""How a run is carried out: what changes its numbers without being one of its settings.

A run keeps its number of threads: it is saved in the checkpoint and set again when the run goes on, whatever the
process has. Where a run goes on under another device, torch, precision, number of processes or, by `--threads`, number
of threads, that is said in a line and stands in the record: the run is then not bit for bit an uninterrupted one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import torch

from ferbench.bench.files import reason
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.environment import device_name, processor_name

P = ParamSpec("P")
T = TypeVar("T")
DAMAGED = "checkpoint.damaged.pt"
_asked: int | None = None


def ask_threads(threads: int | None) -> None:
    """Use so many CPU threads from now on, also for runs that began with another number; None leaves all as it is."""
    global _asked
    if threads:
        _asked = threads
        torch.set_num_threads(threads)


def keeps_threads(function: Callable[P, T]) -> Callable[P, T]:
    """Give the process its number of threads back after a run that needed its own."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **named: P.kwargs) -> T:
        before = torch.get_num_threads()
        try:
            return function(*args, **named)
        finally:
            torch.set_num_threads(before)

    return wrapped


class Resumable(Protocol):
    """What changes during a run."""

    def load(self, saved: Mapping[str, Any]) -> None: ...


@dataclass
class Execution:
    """code: the method's digest; conditions: what must stay for the same bits; changes: what did not stay, in words."""

    code: str
    conditions: dict[str, Any]
    changes: list[str] = field(default_factory=list)

    @classmethod
    def here(cls, code: str, device: torch.device, dtype: str, world: int) -> Execution:
        """As this process would begin a run. dtype: the recipe's; world: processes that share the run."""
        on_gpu = device.type == "cuda"
        matmul = torch.get_float32_matmul_precision()
        return cls(
            code,
            {
                "device": device_name() if on_gpu else processor_name(),
                "threads": 0 if on_gpu else torch.get_num_threads(),  # a GPU's numbers do not depend on them
                "processes": world,
                "torch": str(torch.__version__),
                "precision": f"{dtype}, float32 matmul {matmul}",
            },
        )

    def go_on(self, saved: Mapping[str, Any], note: Callable[[str], None]) -> None:
        """Take over how the saved run was carried out, its threads above all, and say what is otherwise now."""
        before, step = saved["conditions"], saved["step"]
        if before["threads"] and self.conditions["threads"] and not _asked:
            torch.set_num_threads(before["threads"])
            self.conditions["threads"] = before["threads"]
        new = [
            f"{name} {before.get(name)} -> {value} after step {step}"
            for name, value in self.conditions.items()
            if before.get(name) != value
        ]
        self.changes = [*saved["changes"], *new]
        for change in new:
            note(f"warning: not bit-identical to an uninterrupted run: {change}")

    def saved(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"code": self.code, "conditions": self.conditions, "changes": self.changes}

    def record(self) -> dict[str, Any]:
        """For the record."""
        identical = f"no, {'; '.join(self.changes)}" if self.changes else "yes"
        return {"code": self.code, "bit-identical": identical, "conditions": self.conditions}


def take_up(
    checkpoint: Path, identity: str, execution: Execution, note: Callable[[str], None], *, keeper: bool = True
) -> dict[str, Any] | None:
    """The saved state of a run that goes on; None for one that begins.

    A damaged checkpoint is set aside and said. identity: the spec's hash; keeper: whether this process may rename.
    Raises RunError for the checkpoint of another run, or of other code.
    """
    try:
        saved = records.load_checkpoint(checkpoint, identity)
    except records.NoCheckpoint:
        return None
    except records.DamagedCheckpoint as error:
        if keeper:
            checkpoint.replace(checkpoint.with_name(DAMAGED))
        note(f"warning: {error}; it is set aside as {DAMAGED}, and the run begins anew")
        return None
    if saved["code"] != execution.code:
        raise records.RunError(
            f"{checkpoint}: was written by code {saved['code']} of this method, and this is code {execution.code}: "
            "--again begins the run anew; or put that code back to continue"
        )
    with _fitting(checkpoint):
        execution.go_on(saved, note)
    return saved


def resume(state: Resumable, saved: Mapping[str, Any], checkpoint: Path, note: Callable[[str], None]) -> None:
    """Put the saved state in place of the initial one. Raises RunError where it does not fit."""
    with _fitting(checkpoint):
        if not isinstance(saved["step"], int) or not isinstance(saved["seconds"], int | float):
            raise ValueError("its step and seconds are no numbers")
        state.load(saved)
        note(f"continuing after step {saved['step']}")


@contextmanager
def _fitting(checkpoint: Path) -> Iterator[None]:
    """A checkpoint that is whole may still be made by somebody else."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise records.RunError(
            f"{checkpoint}: does not fit this run ({reason(error)}); delete it to begin the run anew"
        ) from error
