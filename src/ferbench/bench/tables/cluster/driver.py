"""A table's runs sent out to a Ray cluster, and their outcomes gathered: the side of the command.

Each run is a task that waits for the tasks of the runs it needs. Ray tries a task again whose process or machine died;
it goes on from the checkpoint that came home last. A run that another command is at is asked for again and again.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferbench import plugins
from ferbench.bench.tables.cluster import nodes
from ferbench.bench.tables.cluster.keeper import Keeper
from ferbench.bench.tables.cluster.setup import (
    SENT,
    ClusterError,
    Data,
    Order,
    Outcome,
    Setup,
    Weights,
)
from ferbench.bench.tables.running.plan import Plan, needs
from ferbench.bench.tables.running.reproduce import can_be_started_from
from ferbench.bench.tables.running.workers import command_id
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.terminal import complain, say
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.code import method_code
from ferbench.bench.training.recording.standing import finished
from ferbench.bench.training.state import Run
from ferbench.protocols import Cell, protocol_names

TRIES = 20  # of a run whose process or machine dies each time
SOON_S = 2.0  # until a run is asked for again that another command is at
SAVING_S = 120.0  # that runs have to save themselves when the command is stopped


@dataclass(frozen=True)
class Asked:
    """What the command was told of a cluster and of how runs are carried out.

    gpus: of a run, a share of one where several fit; save_every_s: seconds between checkpoints that come home
    """

    address: str
    preset: str
    variant: str | None
    mode: tuple[str, bool, str]
    threads: int | None = None
    again: bool = False
    gpus: float = 1.0
    save_every_s: float = 120.0


def run_on_cluster(
    plan: Plan, missing: Sequence[Run], place: Workspace, asked: Asked, look: Callable[[], None]
) -> None:
    """Have the runs that are missing trained by a Ray cluster. look: called again and again meanwhile.

    Raises ClusterError before anything starts, where a machine of the cluster cannot take part, or Interrupted.
    """
    ray = connected(asked.address)
    try:
        _Table(ray, plan, missing, place, asked).finish(look)
    finally:
        ray.shutdown()


def connected(address: str) -> Any:
    """The module, connected to the cluster. Raises ClusterError."""
    try:
        import ray
    except ImportError as error:
        raise ClusterError("--ray needs Ray, which is not installed: pip install 'ferbench[cluster]'") from error
    if address.startswith("ray://"):
        raise ClusterError(f"--ray {address}: give HOST:PORT or auto, on a machine that is part of the cluster")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ClusterError(
            f"--ray {address}: no Ray cluster is reached from here ({reason}); start one with `ray start --head`"
        ) from error
    return ray


class _Table:
    """One pass over the runs of a command."""

    def __init__(self, ray: Any, plan: Plan, missing: Sequence[Run], place: Workspace, asked: Asked) -> None:
        self._ray, self._place, self._asked = ray, place, asked
        self._items = {place.folder(run).name: (cell, seed, run) for cell, seed, run in plan.runs}
        self._orders = orders(plan, place, asked.again)
        self._on_gpus = bool(ray.cluster_resources().get("GPU"))
        self._setup = ray.put(make_setup(ray, plan, place, asked))
        if lines := nodes.problems(ray, self._setup, self._on_gpus):
            for line in lines:
                complain(line)
            raise ClusterError(f"--ray {asked.address}: the machines above cannot take part; mend or remove them")
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        keeper = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        self._keeper = keeper.remote(str(place.results.absolute()), tuple(self._items), command_id())
        self._sent: dict[str, Any] = {}  # run -> the task that was sent out last
        self._pending: dict[Any, str] = {}
        self._later: list[tuple[float, str]] = []
        self._ended: dict[str, Outcome] = {}
        for name in (place.folder(run).name for run in missing):
            if name not in self._sent:
                self._send(name)

    def finish(self, look: Callable[[], None]) -> None:
        """Until nothing is left to be done."""
        with StopRequest() as stop:
            while self._pending or self._later:
                if stop.requested:
                    self._stop()
                    raise Interrupted(stop.signal, "stopped; all state is saved; run it again to continue")
                done, _ = self._ray.wait(list(self._pending), timeout=0.5) if self._pending else ([], [])
                for task in done:
                    self._take(self._pending.pop(task), task)
                if not self._pending:
                    time.sleep(0.2)
                self._send_later()
                look()

    def _send(self, name: str) -> None:
        """Send a run out, after those that it needs."""
        cell, seed, run = self._items[name]
        earlier = []
        for other in self._needs(cell, run):
            if other not in self._sent and other not in self._ended:
                self._send(other)
            if other in self._sent:
                earlier.append(self._sent[other])
        resources = {"num_cpus": self._asked.threads or 1, "num_gpus": self._asked.gpus if self._on_gpus else 0}
        task = self._ray.remote(_train_one).options(max_retries=TRIES, name=name, **resources)
        self._sent[name] = sent = task.remote(self._setup, self._orders[name], self._keeper, *earlier)
        self._pending[sent] = name

    def _send_later(self) -> None:
        """Send out again what may be trained by now; a machine is not kept busy by asking."""
        now = time.monotonic()
        for due, name in [item for item in self._later if item[0] <= now]:
            open_runs = {*self._pending.values(), *(other for _, other in self._later)}
            cell, _, run = self._items[name]
            waits = open_runs.intersection(self._needs(cell, run))
            self._later.remove((due, name))
            if not waits and self._ray.get(self._keeper.is_free.remote(name)):
                self._send(name)
            else:
                self._later.append((now + SOON_S, name))

    def _needs(self, cell: Cell, run: Run) -> list[str]:
        """Names of the runs that have to be done before this one."""
        found = []
        for _, needed in needs(cell, run):
            folder = self._place.folder(needed)
            if not (finished(folder) if needed is run.trained_by else can_be_started_from(folder)):
                found.append(folder.name)
        return found

    def _take(self, name: str, task: Any) -> None:
        """What became of a run: said, or asked for again."""
        outcome = self._outcome(name, task)
        cell, seed, run = self._items[name]
        title = f"{cell.id} seed {seed}"
        if outcome.state == "waiting":
            over = [self._ended[other] for other in self._needs(cell, run) if other in self._ended]
            if not any(one.state != "finished" for one in over):
                outcome = replace(outcome, state="busy")
        if outcome.state in ("busy", "stopped"):  # stopped: its machine is about to go
            self._later.append((time.monotonic() + SOON_S, name))
            return
        self._ended[name] = outcome
        if outcome.state == "failed":
            complain(f"{title}: {outcome.said}")
        elif outcome.record:
            scored, seconds = outcome.record["last"], outcome.record["seconds"]
            say(f"{title}: overall {scored['overall']:.2f} mean {scored['mean']:.2f} ({seconds:.0f} s)")

    def _outcome(self, name: str, task: Any) -> Outcome:
        from ray.exceptions import RayError

        try:
            found: Outcome = self._ray.get(task)
            return found
        except RayError as error:
            reason = f"{type(error).__name__}: {nodes.last_line(error)}"
            self._ray.get(self._keeper.give_up.remote(name, reason))
            return Outcome(name, "failed", reason)

    def _stop(self) -> None:
        """Have all runs saved and sent home that are being trained; those that wait are not begun."""
        begun = set(self._ray.get(self._keeper.stop.remote()))
        for task, name in self._pending.items():
            if name not in begun:
                self._ray.cancel(task)
        waited = [task for task, name in self._pending.items() if name in begun]
        if waited:
            self._ray.wait(waited, num_returns=len(waited), timeout=SAVING_S)


def orders(plan: Plan, place: Workspace, again: bool) -> dict[str, Order]:
    """An order for each run of the plan, by its name."""
    found, started_from = {}, set[str]()
    for cell, seed, run in plan.runs:
        rows, row = {row.id for row in cell.table.rows}, cell.row.id
        while row not in rows:  # a stage or a candidate model of a row
            row = row.rpartition(".")[0]
        trained_by = place.folder(run.trained_by).name if run.trained_by else ""
        needed = [place.folder(one).name for _, one in needs(cell, run) if one is not run.trained_by]
        started_from.update(needed)
        name = place.folder(run).name
        found[name] = Order(
            name, f"{cell.id} seed {seed}", f"{cell.table.id}/{row}/{cell.column.id}", seed,
            records.spec_hash(run.spec), method_code(run.method, run.values), again, False, tuple(needed), trained_by,
        )  # fmt: skip
    return {name: replace(order, weights_too=name in started_from) for name, order in found.items()}


def _train_one(*arguments: Any) -> Outcome:
    """The task: its module is imported on the machine that trains."""
    from ferbench.bench.tables.cluster.worker import train_one

    return train_one(*arguments)


def make_setup(ray: Any, plan: Plan, place: Workspace, asked: Asked) -> Setup:
    """What all machines are told; what is small enough lies in the object store from here on."""
    protocol = plan.runs[0][0].protocol
    files = [path for path in sorted(protocol.path.parent.iterdir()) if path.suffix in (".toml", ".csv")]
    own = {} if protocol.name in protocol_names() else {path.name: path.read_bytes() for path in files}
    most = min(SENT, *(node["Resources"].get("object_store_memory", SENT) / 2 for node in ray.nodes() if node["Alive"]))
    return Setup(
        uuid.uuid4().hex, protocol.name, own, asked.preset, asked.variant, _plugins(), _data(ray, place, most),
        _weights(ray, plan, place, most), asked.mode, asked.threads, asked.save_every_s,
    )  # fmt: skip


def _plugins() -> dict[str, bytes | None]:
    names = [name for name in os.environ.get(plugins.VARIABLE, "").split(os.pathsep) if name]
    return {Path(name).name: Path(name).read_bytes() if name.endswith(".py") else None for name in names}


def _data(ray: Any, place: Workspace, most: float) -> dict[str, Data]:
    """Every data set that the plan opened."""
    found = {}
    for key, (reader, options) in place.opened.items():
        faces = place.faces(reader, options)
        plain = replace(faces, images=faces.images.view(np.ndarray))  # a memory map would travel as its file's name
        sent = ray.put(plain) if faces.images.nbytes <= most else None
        found[key] = Data(reader, options, faces.identity(), sent)
    return found


def _weights(ray: Any, plan: Plan, place: Workspace, most: float) -> dict[str, Weights]:
    """Every file of weights that a run starts from."""
    found: dict[str, Weights] = {}
    for known in (run.spec["weights"] for _, _, run in plan.runs if run.spec.get("weights")):
        if known["name"] not in found:
            path = place.weight_file(known["name"])
            assert path is not None
            sent = ray.put(path.read_bytes()) if path.stat().st_size <= most else None
            found[known["name"]] = Weights(known["sha256"], str(path.absolute()), sent)
    return found
