"""One run on one machine of a cluster: the same loop as everywhere, in a folder of its own, its files sent home.

A run leaves its machine as an outcome, whatever goes wrong with it: a fault of the user's or a loss that is not finite
is no reason to try again. Only the death of the process is, and Ray sees to that.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import ray
import torch

from ferbench import plugins
from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.preparing.cache import cache_root
from ferbench.bench.files import alive
from ferbench.bench.tables.cluster.keeper import CHECKPOINT, FILES, SCORES
from ferbench.bench.tables.cluster.setup import Order, Outcome, Setup
from ferbench.bench.tables.running.plan import stages
from ferbench.bench.tables.runs import Workspace, faces_key, resolve_cell
from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.networks.backbones import WeightsError
from ferbench.bench.training.progress import Silent, status_of
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.execution import ask_threads
from ferbench.bench.training.rescore import score_network
from ferbench.bench.training.state import Run
from ferbench.bench.training.steps.mode import ask_mode
from ferbench.bench.training.train import train
from ferbench.errors import UserError
from ferbench.methods import Variant
from ferbench.protocols import cells, load_protocol
from ferbench.validation import Value

NOTED_EVERY_S = 2.0
FORGOTTEN_S = 3600.0
SCRATCH = "ferbench-ray-"
STARTED_FROM = ("spec.json", "record.json", CHECKPOINT)


@dataclass
class FarWorkspace(Workspace):
    """Data sets from the object store, where they were sent, else from this machine's own cache."""

    setup: Setup = field(kw_only=True)

    def faces(self, reader: str, options: Mapping[str, Value]) -> FaceSet:
        key = faces_key(reader, options)
        known = self.setup.data.get(key)
        if known and known.sent is not None and key not in self._faces:
            self._faces[key] = ray.get(known.sent)
        found = super().faces(reader, options)
        if known and found.identity() != known.identity:
            raise DataError(f"{reader} is another copy on {socket.gethostname()} than where the command runs")
        return found


def train_one(setup: Setup, order: Order, keeper: Any, *earlier: Outcome) -> Outcome:
    """Train the run of an order and send it home. earlier: what became of the runs it needs."""
    for other in earlier:
        if other.state != "finished":
            return Outcome(order.run, "waiting", f"for {other.run}")
    attempt = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
    try:
        asked = order.run, attempt, order.identity, order.code, order.again, order.weights_too
        answer, saved = ray.get(keeper.begin.remote(*asked))
        if answer != "go":
            return Outcome(order.run, {"stop": "stopped"}.get(answer, answer))
        return _attempt(setup, order, keeper, attempt, saved)
    except (Interrupted, KeyboardInterrupt):
        return _end(keeper, order, attempt, "stopped")
    except UserError as error:
        return _end(keeper, order, attempt, "failed", f"{_one_line(error)} (on {socket.gethostname()})")
    except (MemoryError, torch.OutOfMemoryError):
        return _end(keeper, order, attempt, "failed", f"out of memory on {socket.gethostname()}")
    finally:
        shutil.rmtree(_scratch() / "runs", ignore_errors=True)


def _end(keeper: Any, order: Order, attempt: str, state: str, failed: str = "") -> Outcome:
    ray.get(keeper.end.remote(order.run, attempt, failed))
    return Outcome(order.run, state, failed)


def _attempt(setup: Setup, order: Order, keeper: Any, attempt: str, saved: Mapping[str, bytes]) -> Outcome:
    place = _begin(setup)
    folder = place.results / "runs" / order.run
    _put(folder, saved)
    for name in (*order.needs, order.trained_by):
        if name:
            _put(place.results / "runs" / name, _started_from(keeper, name))
    run = _settled(_resolve(setup, order, place), setup, order, place, keeper)
    home = Home(keeper, order, attempt, folder, setup.save_every_s)
    trained = place.results / "runs" / order.trained_by
    try:
        if order.trained_by and (trained / CHECKPOINT).exists():
            record = score_network(run, folder, trained, home)
        else:
            record = train(run, folder, reporter=home, saved_every_s=setup.save_every_s)
    except Interrupted:
        home.send(CHECKPOINT)
        raise
    if not home.send(*FILES):
        raise Interrupted(signal.SIGTERM, "another machine is at it")
    return replace(_end(keeper, order, attempt, "finished"), record=_figures(record))


def _figures(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"last": record["metrics"]["last"], "seconds": record["seconds"]}


class Home(Silent):
    """The loop's reporter: says how far it is, sends checkpoints home, and hears when to stop."""

    def __init__(self, keeper: Any, order: Order, attempt: str, folder: Path, every_s: float) -> None:
        self._keeper, self._order, self._attempt, self._folder = keeper, order, attempt, folder
        self._every_s, self._since = every_s, records.now()
        self._noted, self._sent_at, self._sent = 0.0, time.monotonic(), self._written()
        self._replies: list[Any] = []
        self._stopping = False

    def step(self, step: int, total: int, means: Mapping[str, float]) -> None:
        if time.monotonic() - self._noted >= NOTED_EVERY_S:
            self._noted = time.monotonic()
            said = self._order.title, step, total, status_of(means), socket.gethostname(), self._since
            self._replies.append(self._keeper.note.remote(self._order.run, self._attempt, said))
        self._look()

    def epoch(self, line: Mapping[str, Any]) -> None:
        self._look()

    def send(self, *names: str) -> bool:
        """Send files home, and wait until they are there; False where they were not taken."""
        files = {name: (self._folder / name).read_bytes() for name in names if (self._folder / name).exists()}
        return bool(ray.get(self._keeper.keep.remote(self._order.run, self._attempt, files)))

    def _look(self) -> None:
        """Send the checkpoint that was written since, one at a time; stop as on SIGTERM where the keeper says so."""
        written = self._written()
        if written != self._sent and time.monotonic() - self._sent_at >= self._every_s and len(self._replies) < 2:
            self._sent, self._sent_at = written, time.monotonic()
            content = {CHECKPOINT: (self._folder / CHECKPOINT).read_bytes()}
            self._replies.append(self._keeper.keep.remote(self._order.run, self._attempt, content))
        if self._replies:
            there, self._replies = ray.wait(self._replies, num_returns=len(self._replies), timeout=0)
            if not all(ray.get(there)) and not self._stopping:
                self._stopping = True  # a second signal would end the process
                signal.raise_signal(signal.SIGTERM)

    def _written(self) -> int:
        with suppress(OSError):
            return (self._folder / CHECKPOINT).stat().st_mtime_ns
        return 0


def _started_from(keeper: Any, name: str) -> dict[str, bytes]:
    """What a run that needs this finished one reads of it."""
    scores: dict[str, bytes] = ray.get(keeper.fetch.remote(name, (SCORES,)))
    rest: dict[str, bytes] = ray.get(keeper.fetch.remote(name, STARTED_FROM))
    return scores | rest


def _resolve(setup: Setup, order: Order, place: Workspace) -> Run:
    """The run that the order names. Raises UserError, also where this machine makes another one of it."""
    (cell,) = cells(load_protocol(_protocol(setup)), order.cell)
    top = resolve_cell(cell, setup.preset, order.seed, place, cast("Variant | None", setup.variant))
    for _, _, run in stages(cell, order.seed, top):
        if place.folder(run).name == order.run:
            return run
    raise records.RunError(f"{socket.gethostname()} makes {place.folder(top).name} of {order.cell}, not {order.run}")


def _settled(run: Run, setup: Setup, order: Order, place: Workspace, keeper: Any) -> Run:
    """The run with candidate sets by the scores that came home first: two machines may round differently."""
    paths = {scorer.name: scorer / SCORES for scorer in (place.folder(one) for one in run.scorers)}
    if all(path.exists() for path in paths.values()) or not run.candidates:
        return run
    run.candidates()  # makes them
    for name, path in paths.items():
        kept = ray.get(keeper.offer.remote(name, path.read_bytes()))
        if kept != path.read_bytes():
            path.write_bytes(kept)
    return _resolve(setup, order, place)


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


_places: dict[str, FarWorkspace] = {}  # of the last setup


def _begin(setup: Setup) -> FarWorkspace:
    """What is the same for all runs of a command, once in each process."""
    ask_mode(*setup.mode)
    ask_threads(setup.threads)
    if setup.threads is None and not torch.cuda.is_available():
        torch.set_num_threads(1)
    if setup.id not in _places:
        load_plugins(setup)
        _places.clear()
        weights = {name: _weight_file(setup, name) for name in setup.weights}
        _places[setup.id] = FarWorkspace(_scratch(), cache_root(), weights=weights, setup=setup)
    return _places[setup.id]


def load_plugins(setup: Setup) -> None:
    """Import the plug-ins of the command. Raises PluginError."""
    names = []
    for name, source in setup.plugins.items():
        path = _scratch() / "plugins" / setup.id / name
        if source is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source)
        names.append(name if source is None else str(path))
    plugins.load(names)


def _protocol(setup: Setup) -> str | Path:
    if not setup.files:
        return setup.protocol
    folder = _scratch() / "protocols" / setup.id / setup.protocol
    if not folder.is_dir():
        _put(folder, setup.files)
    return folder


def _weight_file(setup: Setup, name: str) -> Path:
    """Where the weights lie on this machine; those that are sent are written once for all its processes."""
    known = setup.weights[name]
    if known.sent is None:
        return Path(known.path)
    path = cache_root() / "weights" / known.sha256 / Path(known.path).name
    if not path.exists():
        content: bytes = ray.get(known.sent)
        try:
            records.write(path, lambda file: file.write(content))
        except records.RunError as error:
            raise WeightsError(str(error)) from error
    return path


@cache
def _scratch() -> Path:
    """This process's own folder; those of dead processes are removed."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{SCRATCH}*"):
        with suppress(OSError, ValueError):
            if not alive(int(left.name.split("-")[2])) and time.time() - left.stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))


def _one_line(error: UserError) -> str:
    """Ray puts the trace of another process around it."""
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, UserError) else error)
