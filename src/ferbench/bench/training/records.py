"""The files of a run: written to a temporary name and renamed, so that a killed run leaves whole files only.

`results/runs/<run-id>/` holds spec.json (fully resolved), metrics.jsonl (a line per epoch), predictions.npz (of the
test images: scores, labels, features), record.json (metrics, time, memory, versions) and checkpoint.pt (plain types).

Torch is imported where it is needed: reading records does not wait for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ferbench import __version__
from ferbench.bench.training.environment import commit, device_name, installed
from ferbench.errors import UserError

Spec = dict[str, Any]
CHECKPOINT_FORMAT = 1


class RunError(UserError):
    """A run cannot start, continue or write; the message is one line that says where and how to mend it."""


def spec_hash(spec: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the spec's canonical JSON without `made_for`: a run is the same whichever table asked for it."""
    kept = {key: value for key, value in spec.items() if key != "made_for"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def run_id(spec: Mapping[str, Any]) -> str:
    """Readable name of a run, ending in a hash of its spec: ferplus-long_tailed-1000-150-remop-released-cpu-s1-1a2b."""
    split = spec["split"]
    numbers = [f"{value:g}" for value in split["parameters"].values() if isinstance(value, int | float) and value]
    words = [spec["dataset"]["reader"], split["kind"], *numbers, spec["method"], spec["variant"], spec["preset"]]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([*words, f"s{spec['seed']}", spec_hash(spec)[:8]]))


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all. Raises RunError with the reason when the disk refuses."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as RuntimeError
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise RunError(f"cannot write {path}: {reason}; free space or choose another --results folder") from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    write(path, lambda file: file.write(json.dumps(document, indent=1).encode() + b"\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunError when the file is damaged."""
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); delete the run's folder to run it again") from error
    return document


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, the whole file at once: after a restart it then agrees with the checkpoint."""
    write(path, lambda file: file.write("".join(json.dumps(line) + "\n" for line in lines).encode()))


def write_predictions(path: Path, scores: Mapping[str, NDArray[np.float32]], **arrays: NDArray[Any]) -> None:
    """Scores [N, K] by inference rule, with labels and whatever else belongs to the test images."""
    named: dict[str, NDArray[Any]] = {f"scores_{rule}": values for rule, values in scores.items()} | arrays
    write(path, lambda file: np.savez_compressed(file, allow_pickle=False, **named))


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    import torch

    write(path, lambda file: torch.save({"format": CHECKPOINT_FORMAT, **state}, file))


def load_checkpoint(path: Path, expected_spec: str) -> dict[str, Any]:
    """Raises RunError for a file that is missing or truncated, or that belongs to another spec or version."""
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: no such checkpoint: the folder holds the run's record without its weights; delete the folder and "
            "train the run again"
        ) from error
    except Exception as error:  # zip, pickle and torch all report damage differently
        raise RunError(
            f"{path}: the checkpoint is damaged or truncated; delete it to start this run again, or put a copy back"
        ) from error
    if state.get("format") != CHECKPOINT_FORMAT or state.get("spec") != expected_spec:
        raise RunError(f"{path}: the checkpoint belongs to another run or version; delete it to start this run again")
    return state


def environment() -> dict[str, Any]:
    """What a figure depends on besides its spec: versions, device, commit."""
    import torch

    return {
        "ferbench": __version__,
        "commit": commit(),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: installed(name) for name in ("torch", "torchvision", "triton", "timm", "numpy")},
    }


def peak_memory_mib() -> dict[str, float]:
    """Peak resident memory of this process so far and, with a GPU, its peak allocation, in MiB."""
    import torch

    memory: dict[str, float] = {}
    with suppress(ImportError):
        import resource  # not on Windows

        scale = 1 if platform.system() == "Darwin" else 1024
        memory["host"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20, 1)
    if torch.cuda.is_available():
        memory["device"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return memory
