"""The training loop: from a resolved run to its record, top to bottom.

A chunk of steps is drawn at once (steps/feed.py), each is done (steps/step.py) or replayed (steps/graphed.py), and only
then does anybody look at the device. Everything that changes during training lies in `State` and is saved whole once a
minute, at the end and on SIGTERM or Ctrl-C; all random numbers are functions of (seed, step). A run that was killed
continues from its last checkpoint, with the number of threads it began with, and ends on the same machine's CPU bit for
bit where an uninterrupted run ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ferbench.bench.data.randomness import generator
from ferbench.bench.data.views.batches import Batches, ImageStore, Share, view_batches
from ferbench.bench.training import processes, schedule
from ferbench.bench.training.dry import dry_step
from ferbench.bench.training.evaluate import evaluate, finish, rows_at_once
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.length import evaluation_interval
from ferbench.bench.training.progress import Reporter, Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.code import method_code
from ferbench.bench.training.recording.execution import Execution, keeps_threads, resume, take_up
from ferbench.bench.training.recording.finite import TrainingError, check_weights
from ferbench.bench.training.state import Run, State, make_batches, make_state
from ferbench.bench.training.steps.graphed import make_steps
from ferbench.bench.training.steps.mode import Mode, compile_network
from ferbench.bench.training.steps.step import Stepper
from ferbench.methods import Ask, Progress, Scored, View
from ferbench.protocols.schema import Recipe

SAVED_EVERY_S = 60.0  # between checkpoints, or more where one takes long:
SAVING_SHARE = 0.02  # of a run's time at most goes into them


@keeps_threads
def train(
    run: Run, folder: Path, *, device: torch.device | None = None, reporter: Reporter | None = None,
    mode: Mode | None = None, saved_every_s: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train `run`, write its files into `folder` and return its record; continues from a checkpoint found there.

    saved_every_s: seconds between checkpoints, in place of a minute

    Raises TrainingError, records.RunError, or Interrupted after the state has been saved.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reporter, mode = reporter or Silent(), mode or Mode.asked()
    recipe, share = run.recipe, _share(run.recipe)
    identity = records.spec_hash(run.spec)
    checkpoint = folder / "checkpoint.pt"
    if share.rank == 0:
        records.write_json(folder / "spec.json", run.spec)

    # how it is carried out: a run that goes on keeps what it began with
    execution = Execution.here(method_code(run.method, run.values), device, recipe.dtype, share.world)
    saved = take_up(checkpoint, identity, execution, reporter.note, keeper=share.rank == 0)

    # the model, and what moves it
    mode.begin()
    state = make_state(run, device, reporter)
    if saved:
        resume(state, saved, checkpoint, reporter.note)
    batches = make_batches(run, state.method, device, share)
    if not saved:
        dry_step(run, state.method, batches, share)
    if mode.compile == "network":
        compile_network(state.method)
    stepper: nn.Module = Stepper(state.method)
    if share.world > 1:
        if device.type == "cuda":
            stepper = nn.SyncBatchNorm.convert_sync_batchnorm(stepper)  # type: ignore[no-untyped-call]
        stepper = DistributedDataParallel(stepper)

    # the data, and a step on it
    test_store = batches.store if run.test_faces is run.faces else ImageStore(run.test_faces, device)
    steps = make_steps(run, state, stepper, batches, mode)
    models = [state.method, *([state.average.method] if state.average else [])]
    views = state.method.views
    images = recipe.batch_size * (len(views.labelled) + recipe.mu * len(views.unlabelled))
    scored_every = evaluation_interval(recipe, images, len(run.test), len(models))
    total, last = steps.feed.total, LastSaved(saved_every_s)

    def checkpoint_now() -> None:
        if share.rank == 0:
            with last.now():
                records.save_checkpoint(checkpoint, {**state.to_dict(identity), **execution.saved()})

    with StopRequest() as stop:
        state.method.train()
        started = time.perf_counter()
        chunk = steps.feed.chunk(state.step) if state.step < total else None
        while chunk:
            # the steps up to the next look
            epoch, place = state.step // recipe.steps_per_epoch, 0
            while place < len(chunk.steps) and not (share.world == 1 and stop.requested):
                steps.do(chunk, place, epoch)
                state.step, place = state.step + 1, place + 1

            # the next ones are drawn while the device works, which is waited for by looking at the log
            looking, ended = place == len(chunk.steps), state.step % recipe.steps_per_epoch == 0
            if looking:
                chunk = steps.feed.chunk(state.step) if state.step < total else None
                means = _means(state.sums.look(), run.spec, state.step, recipe.steps_per_epoch, batches)
                reporter.step(state.step, total, means)

            # the end of an epoch
            if looking and ended:
                state.method.end_epoch(Progress(steps.step.progress.fraction, epoch), _answers(state, batches, epoch))
                check_weights(*models)
                lr = recipe.lr * schedule.factor(recipe, state.step - 1)
                line = {"epoch": epoch + 1, "step": state.step, "lr": lr, **means}
                scored = (epoch + 1) % scored_every == 0 or state.step == total
                if scored and share.rank == 0:
                    line |= evaluate(run, state, batches, test_store)
                state.sums.clear()
                state.seconds += time.perf_counter() - started
                started = time.perf_counter()
                state.history.append(line | {"seconds": round(state.seconds, 3)})
                if last.due() or state.step == total:
                    checkpoint_now()
                if scored and share.rank == 0:
                    records.write_lines(folder / "metrics.jsonl", state.history)
                reporter.epoch(state.history[-1])
                state.method.train()
            elif looking and last.due():
                check_weights(*models)
                state.seconds += time.perf_counter() - started
                started = time.perf_counter()
                checkpoint_now()

            # several processes stop after the same step: they agree where they wait for the device anyway
            if (looking or share.world == 1) and (asked := processes.largest(stop.signal, device)):
                state.seconds += time.perf_counter() - started
                checkpoint_now()
                raise Interrupted(asked, f"stopped after step {state.step} of {total}; run it again to continue")

    if share.rank > 0:
        return {}
    about = {**execution.record(), "scored_every": scored_every, "execution": {**mode.about(), **steps.about()}}
    return finish(run, state, batches, test_store, folder, about)


class LastSaved:
    """When the last checkpoint was written, and how long that took."""

    def __init__(self, every_s: float | None = None) -> None:
        self._every_s, self._at, self._took = every_s, time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether to write another one."""
        every_s = SAVED_EVERY_S if self._every_s is None else self._every_s
        return time.monotonic() - self._at >= max(every_s, self._took / SAVING_SHARE)

    @contextmanager
    def now(self) -> Iterator[None]:
        """Around the writing."""
        began = time.monotonic()
        yield
        self._at = time.monotonic()
        self._took = self._at - began


def _means(sums: dict[str, float], spec: records.Spec, step: int, per_epoch: int, batches: Batches) -> dict[str, float]:
    """The epoch's means up to `step`. Raises TrainingError when a loss is not finite."""
    steps = (step - 1) % per_epoch + 1
    means = {name: value / steps for name, value in sums.items() if name.startswith("loss")}
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"{records.run_id(spec)}: {', '.join(broken)} not finite by step {step}; "
            "try a lower learning rate, gradient clipping or float32"
        )
    means |= {name.removeprefix("figure/"): value / steps for name, value in sums.items() if name.startswith("figure/")}
    if "kept" in sums and batches.unlabelled_stream:
        means["mask rate"] = sums["kept"] / (steps * len(range(batches.unlabelled_stream.batch)[batches.share.rows]))
        means["pseudo-label accuracy"] = sums["kept correct"] / max(sums["kept known"], 1.0)
        if "kept changed" in sums:  # the share of what is taught that a plug-in labels otherwise than its learner
            means["labels changed"] = sums["kept changed"] / max(sums["kept"], 1.0)
        means["prediction accuracy"] = sums["correct"] / max(sums["known"], 1.0)
    return means


def _answers(state: State, batches: Batches, epoch: int) -> Ask:
    """What `end_epoch` may ask: scores over the whole labelled or unlabelled set."""

    @torch.no_grad()
    def ask(which: str, *, model: str = "student", view: View = "plain", rule: str | None = None) -> Scored:
        stream = batches.labelled_stream if which == "labelled" else batches.unlabelled_stream
        assert stream is not None, f"no {which} images"
        store = batches.store if which == "labelled" else batches.unlabelled_store
        chosen = state.method if model == "student" or state.average is None else state.average.method
        chosen.eval()
        size = rows_at_once(batches.recipe, store.device)
        rng = generator(stream.seed, f"asked/{which}/{view}", epoch)
        answer = chosen.predict if rule is None else lambda images: chosen.predict_all(images)[rule]
        parts = [answer(images) for images in view_batches(store, stream.indices, batches.recipe, view, rng, size)]
        state.method.train()
        index = torch.from_numpy(stream.indices).to(store.device)
        return Scored(torch.cat(parts), index, store.labels[index] if which == "labelled" else None)

    return ask


def _share(recipe: Recipe) -> Share:
    """This process's part of the batch, from the process group that torchrun's launcher set up."""
    if not processes.several():
        return Share()
    share = Share(dist.get_rank(), dist.get_world_size())
    if recipe.batch_size % share.world:  # means over unequal parts would not average to the batch's
        raise records.RunError(
            f"{share.world} processes cannot share batch_size={recipe.batch_size} evenly; start another number of them"
        )
    return share
