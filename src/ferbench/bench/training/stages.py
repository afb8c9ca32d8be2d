"""Runs that start where another one ended: SSFER's stages, or any row with `after`.

The earlier run is a run like any other, found by its settings and done once for all that start from it. The later one
takes over the trained network, head included, as it stood at the last step (not its average); everything else of a
method begins anew. Its spec holds the earlier run's settings and the hash of its spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ferbench.bench.training.networks.backbones import WeightsError
from ferbench.bench.training.recording import records

NETWORK = ("model.", "learner.model.")  # where methods keep it; a plug-in has it from its learner


@dataclass(frozen=True)
class Start:
    """The run that another one starts from: its folder, and the hash of its spec."""

    folder: Path
    hash: str


def finished_start(folder: Path) -> Start:
    """The finished run in `folder`. Raises RunError where there is none."""
    if not (folder / "record.json").exists():
        raise records.RunError(f"{folder}: no finished run to start after; train it first")
    return Start(folder, records.spec_hash(records.read_json(folder / "spec.json")))


def load_stage(model: nn.Module, start: Start) -> str:
    """Put the trained network of `start` into `model`; returns a line for the log. Raises RunError or WeightsError."""
    finished_start(start.folder)
    state = records.load_checkpoint(start.folder / "checkpoint.pt", start.hash)["method"]
    for prefix in NETWORK:
        network = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if network:
            break
    try:
        model.load_state_dict(network)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        name = start.folder.name
        raise WeightsError(f"{name} cannot be started from: its network is another one: {reason}") from error
    return f"starting after {start.folder.name}"
