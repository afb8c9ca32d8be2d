"""The machines of a cluster, looked at before anything starts: the same code everywhere, and the data it needs."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferbench import __version__
from ferbench.bench.tables.cluster.setup import Setup, source_hash
from ferbench.bench.terminal import complain
from ferbench.bench.training.recording.environment import installed


@dataclass(frozen=True)
class Code:
    """What decides over the numbers that a machine makes of a run, besides its processor."""

    ferbench: str
    source: str
    torch: str

    @classmethod
    def here(cls) -> Code:
        return cls(__version__, source_hash(), installed("torch"))

    def __str__(self) -> str:
        return f"ferbench {self.ferbench} (source {self.source}) and torch {self.torch}"


def look(setup: Setup, wanted: Code) -> list[str]:
    """What is wrong with this machine, a line each."""
    host, here = socket.gethostname(), Code.here()
    if here != wanted:
        return [f"{host}: has {here}, not {wanted}: install the same there"]
    from ferbench.bench.data.preparing.cache import cache_root
    from ferbench.bench.tables.cluster import worker  # with torch, which the lines above do without
    from ferbench.errors import UserError

    lines = []
    try:
        worker.load_plugins(setup)
    except UserError as error:
        return [f"{host}: {error}"]
    place = worker.FarWorkspace(Path(), cache_root(), setup=setup)
    for data in setup.data.values():
        if data.sent is None:
            try:
                place.faces(data.reader, data.options)
            except UserError as error:
                lines.append(f"{host}: {data.reader} is too large to be sent: {error}")
    for name, weights in setup.weights.items():
        if weights.sent is None and _sha256(Path(weights.path)) != weights.sha256:
            lines.append(f"{host}: weights '{name}' are too large to be sent, and are not at {weights.path}")
    return lines


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def problems(ray: Any, setup: Any, gpus: bool) -> list[str]:
    """What is wrong with the machines that would train, a line each; one that is gone is only said.

    setup: the object store's reference to one
    """
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("GPU" if gpus else "CPU"):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(look).options(num_cpus=0, scheduling_strategy=here)
            asked[task.remote(setup, Code.here())] = node["NodeManagerHostname"]
    lines, answered = [], 0
    for answer, host in asked.items():
        try:
            lines += ray.get(answer)
            answered += 1
        except RayTaskError as error:
            lines.append(f"{host}: ferbench cannot be used there ({last_line(error)})")
        except RayError as error:  # it died a moment ago, or just now
            complain(f"{host} does not answer: {last_line(error)}")
    return lines if answered else [*lines, "no machine of the cluster answers"]


def last_line(error: Exception) -> str:
    """The end of a long story."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
