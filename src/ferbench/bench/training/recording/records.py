"""The files of a run: whole or not at all, and what could be changed unseen ends in its digest.

`results/runs/<run-id>/` holds spec.json (fully resolved), metrics.jsonl (a line per epoch), predictions.npz (of the
test images: scores, labels, features), record.json (metrics, time, memory, versions) and checkpoint.pt (plain types).

Torch is imported where it is needed: reading records does not wait for it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ferbench import __version__, plugins
from ferbench.bench import files
from ferbench.bench.training.recording.environment import commit, device_name, installed

Spec = dict[str, Any]
CHECKPOINT_FORMAT = 2  # 1 had no digest and no code; finished runs of it can still be opened
RECORD_FORMAT = 1
NUMBERS = re.compile(r'(?<=\[)\n[^\[\]{}"]+(?=\])')  # between brackets: line breaks never stand inside a string


class RunError(files.FileError):
    """A run cannot start, continue or write; the message is one line that says where and how to mend it."""


class NoCheckpoint(RunError):
    """There is no checkpoint."""


class DamagedCheckpoint(RunError):
    """There is a checkpoint, and it is not what was written."""


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


def write(path: Path, fill: Callable[[BinaryIO], object], *, sealed: bool = False) -> None:
    """Write a file whole or not at all; `sealed`: with its digest. Raises RunError when the disk refuses."""
    try:
        files.write(path, fill, sealed=sealed)
    except files.FileError as error:
        raise RunError(f"{error}; free space or choose another --results folder") from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """A key to a line; a list of numbers is on one line."""
    text = NUMBERS.sub(lambda found: re.sub(r"\n *", " ", found[0].strip()), json.dumps(document, indent=1))
    write(path, lambda file: file.write(text.encode() + b"\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunError when the file is damaged."""
    with _own():
        return files.read_json(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A run's metrics.jsonl. Raises RunError when it is damaged or holds nothing."""
    with _own():
        lines = files.read_json_lines(path)
    if not lines:
        raise RunError(f"{path}: holds no epoch")
    return lines


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Raises RunError when the file is damaged."""
    with _own():
        return files.read_arrays(path)


@contextmanager
def _own() -> Iterator[None]:
    try:
        yield
    except files.FileError as error:
        raise RunError(f"{error}; the command that made the run writes it again") from error


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, the whole file at once: after a restart it then agrees with the checkpoint."""
    write(path, lambda file: file.write("".join(json.dumps(line) + "\n" for line in lines).encode()))


def write_predictions(path: Path, scores: Mapping[str, NDArray[np.float32]], **arrays: NDArray[Any]) -> None:
    """Scores [N, K] by inference rule, with labels and whatever else belongs to the test images."""
    named: dict[str, NDArray[Any]] = {f"scores_{rule}": values for rule, values in scores.items()} | arrays
    write(path, lambda file: np.savez_compressed(file, allow_pickle=False, **named), sealed=True)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    import torch

    write(path, lambda file: torch.save({"format": CHECKPOINT_FORMAT, **state}, file), sealed=True)


def load_checkpoint(path: Path, expected_spec: str) -> dict[str, Any]:
    """Raises NoCheckpoint, DamagedCheckpoint, or RunError for one that belongs to another spec or version."""
    import torch

    try:
        with files.open_regular(path) as file:
            sealed = files.check_seal(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no state")
        if state.get("format") == CHECKPOINT_FORMAT and not sealed:
            raise ValueError("its digest is gone")
    except FileNotFoundError as error:
        raise NoCheckpoint(
            f"{path}: no such checkpoint: the folder holds the run's record without its weights; delete the folder and "
            "train the run again"
        ) from error
    except Exception as error:  # zip, pickle and torch all report damage differently
        raise DamagedCheckpoint(f"{path}: the checkpoint is damaged or truncated ({files.reason(error)})") from error
    if state.get("format") not in (1, CHECKPOINT_FORMAT) or state.get("spec") != expected_spec:
        raise RunError(f"{path}: the checkpoint belongs to another run or version; delete it to start this run again")
    return {"code": "unknown", **state}


def now() -> str:
    """The time in UTC, as a record keeps it: 2026-11-29T14:05:09Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def environment() -> dict[str, Any]:
    """What a figure depends on besides its spec: versions, device, commit."""
    import torch

    return {
        "ferbench": __version__,
        "commit": commit(),
        **({"plugins": plugins.hashes()} if plugins.hashes() else {}),
        "device": device_name(),
        "host": platform.node(),
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
