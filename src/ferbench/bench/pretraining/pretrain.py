"""The pre-training loop: from images without labels to encoder weights, top to bottom.

It keeps the training loop's discipline: all random numbers are functions of (seed, step), everything that changes is in
the checkpoint, and a run that was killed ends, on the CPU, bit for bit where an uninterrupted one ends. Images are read
from the prepared memory maps batch by batch: memory does not grow with their number.

A run's folder holds spec.json, metrics.jsonl, checkpoint.pt, weights.pt (the encoder as a plain state dict, which
`--weights NAME=FILE` loads strictly), panels.png (what was learnt, where the objective can show it) and record.json.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ferbench.bench.data.randomness import derive, generator
from ferbench.bench.data.views.batches import Share, Stream
from ferbench.bench.pretraining import OBJECTIVES, Objective
from ferbench.bench.pretraining.ahead import AHEAD, in_order
from ferbench.bench.pretraining.pictures import write_panels
from ferbench.bench.pretraining.pool import Pool
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.state import Pretraining, State, make_state
from ferbench.bench.training import processes, schedule
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.progress import Reporter, Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.code import class_code
from ferbench.bench.training.recording.execution import Execution, keeps_threads, resume, take_up
from ferbench.bench.training.recording.finite import TrainingError, check_weights
from ferbench.bench.training.steps.feed import LOG_EVERY
from ferbench.bench.training.steps.step import generator_of
from ferbench.bench.training.train import LastSaved

SHOWN = 8  # images in the picture at the end


class Stepper(nn.Module):
    """An objective's step as `forward`, which is what DistributedDataParallel wraps."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, views: Mapping[str, Tensor], noise: Tensor, fraction: Tensor) -> dict[str, Tensor]:
        return self.objective.step(views, noise, fraction)


@keeps_threads
def pretrain(
    run: Pretraining, folder: Path, *, device: torch.device | None = None, reporter: Reporter | None = None,
    parts: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Train `run`, write its files into `folder` and return its record; continues from a checkpoint found there.

    parts: a step goes through its batch in so many, one after the other, for devices with less memory: the gradient is
    the whole batch's up to rounding.

    Raises TrainingError, WeightsError, records.RunError, or Interrupted after the state has been saved.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reporter = reporter or Silent()
    settings, share = run.settings, _share(run.settings)
    identity, checkpoint = records.spec_hash(run.spec), folder / "checkpoint.pt"
    if share.rank == 0:
        records.write_json(folder / "spec.json", run.spec)

    # how it is carried out: a run that goes on keeps what it began with
    execution = Execution.here(class_code(OBJECTIVES[run.objective]), device, settings.dtype, share.world)
    saved = take_up(checkpoint, identity, execution, reporter.note, keeper=share.rank == 0)

    # the model, and what moves it
    state = make_state(run, device, reporter.note)
    if saved:
        resume(state, saved, checkpoint, reporter.note)
    step = Step(run, state, device, share, parts)
    total, last = settings.epochs * settings.steps_per_epoch, LastSaved()

    def checkpoint_now() -> None:
        if share.rank == 0:
            with last.now():
                records.save_checkpoint(checkpoint, {**state.to_dict(identity), **execution.saved()})

    with StopRequest() as stop, closing(step.batches(state.step, total)) as batches:
        state.objective.train()
        started = time.perf_counter()
        for views, noise in batches:
            rate = settings.lr * schedule.factor(settings, state.step)
            step.do(views, noise, rate, state.step / total)
            state.step += 1

            # the log, on the device until it is looked at
            ended = state.step % settings.steps_per_epoch == 0
            looking = state.step % LOG_EVERY == 0 or ended
            if looking:
                step.pool.release()
                means = _means(state.sums, run.name, state.step)
                reporter.step(state.step, total, means)

            # the end of an epoch, and a checkpoint when its time has come
            if ended:
                state.seconds += time.perf_counter() - started
                started = time.perf_counter()
                check_weights(state.objective)
                line = {"epoch": state.step // settings.steps_per_epoch, "step": state.step, "lr": rate, **means}
                state.history.append(line | {"seconds": round(state.seconds, 3)})
                state.sums = {}
                if last.due() or state.step == total:
                    checkpoint_now()
                if share.rank == 0:
                    records.write_lines(folder / "metrics.jsonl", state.history)
                reporter.epoch(state.history[-1])
            elif looking and last.due():
                check_weights(state.objective)
                state.seconds += time.perf_counter() - started
                started = time.perf_counter()
                checkpoint_now()

            # several processes stop after the same step
            if (looking or share.world == 1) and (asked := processes.largest(stop.signal, device)):
                state.seconds += time.perf_counter() - started
                checkpoint_now()
                raise Interrupted(asked, f"stopped after step {state.step} of {total}; run it again to continue")

    about = {**execution.record(), "parts": parts}
    return _finish(run, state, step.pool, folder, about) if share.rank == 0 else {}


class Step:
    """A pre-training step: its batches, drawn from (seed, step), and what it does with them."""

    def __init__(self, run: Pretraining, state: State, device: torch.device, share: Share, parts: int) -> None:
        settings = run.settings
        rows = settings.batch_size // share.world
        if rows % parts:
            raise records.RunError(f"a batch of {rows} images has no {parts} equal parts; choose another --parts")
        if parts > 1 and not state.objective.in_parts:
            raise records.RunError(f"{run.objective} needs its batch whole; leave --parts out")
        self.run, self.state, self.device, self.share, self.parts = run, state, device, share, parts
        self.stepper: nn.Module = Stepper(state.objective)
        if share.world > 1:
            self.stepper = DistributedDataParallel(self.stepper)
        self.precision = torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.dtype == "bfloat16")
        self.pool = Pool(run.faces, device)
        self.stream = Stream(self.pool.positions, settings.batch_size, run.seed, "pre-training")
        self.fraction = torch.zeros((), device=device)
        self.generator = generator_of(device)

    def batches(self, first: int, last: int) -> Generator[tuple[dict[str, Tensor], Tensor], None, None]:
        """The views and the noise of these steps; beside a GPU the next are made while it works."""
        return in_order(self._batch, first, last, ahead=AHEAD if self.device.type == "cuda" else 0)

    def _batch(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        run, objective = self.run, self.state.objective
        index = self.stream.at(step)
        views = self.pool.views(index, objective.views, run.settings.views(), run.seed, step, self.share)
        noise = draw_noise(run.seed, step, run.settings.batch_size, objective.patches, self.share)
        return views, noise.to(self.device)

    def do(self, views: Mapping[str, Tensor], noise: Tensor, rate: float, fraction: float) -> None:
        """One step at this learning rate, its losses added to the sums without waiting for the device."""
        state, share, parts = self.state, self.share, self.parts
        self.generator.manual_seed(derive(self.run.seed, "network", state.step * share.world + share.rank))
        self.fraction.fill_(fraction)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        for number in range(parts):
            own = {name: rows.chunk(parts)[number] for name, rows in views.items()}
            waits = isinstance(self.stepper, DistributedDataParallel) and number < parts - 1
            with self.stepper.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with self.precision:
                    losses: dict[str, Tensor] = self.stepper(own, noise.chunk(parts)[number], self.fraction)
                    loss = torch.stack(list(losses.values())).sum()
                (loss / parts if parts > 1 else loss).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss, **{f"loss/{name}": value for name, value in losses.items()}}.items():
                mean = value.detach() / parts if parts > 1 else value.detach()
                terms[name] = terms[name] + mean if name in terms else mean
        if self.run.settings.clip > 0:
            nn.utils.clip_grad_norm_(state.objective.parameters(), self.run.settings.clip)
        state.optimizer.step()
        state.objective.after_step()
        _accumulate(state.sums, terms)


def draw_noise(seed: int, step: int, batch: int, patches: int, share: Share) -> Tensor:
    """[rows of this process, patches] of the whole batch's numbers in [0, 1): the same for any number of processes."""
    return torch.rand(batch, patches, generator=generator(seed, "mask", step))[share.rows]


def _finish(run: Pretraining, state: State, pool: Pool, folder: Path, execution: Mapping[str, Any]) -> dict[str, Any]:
    """Write weights, picture and record."""
    records.write_lines(folder / "metrics.jsonl", state.history)
    encoder = {name: value.detach().cpu().contiguous() for name, value in state.objective.encoder.state_dict().items()}
    records.write(folder / "weights.pt", lambda file: torch.save({"state_dict": encoder}, file), sealed=True)
    recipe = run.settings.views()
    count = min(SHOWN, len(pool.positions))
    plain = pool.plain(torch.from_numpy(pool.positions[:: len(pool.positions) // count][:count]), recipe)
    noise = draw_noise(run.seed, -1, count, state.objective.patches, Share()).to(plain.device)
    state.objective.eval()
    with torch.no_grad():
        panels = state.objective.panels(plain, noise)
    if panels is not None:
        write_panels(folder / "panels.png", panels, recipe)
    record = {
        "format": records.RECORD_FORMAT,
        "status": "finished",
        "finished_at": records.now(),
        **execution,
        "loss": state.history[-1]["loss"],
        "seconds": round(state.seconds, 1),
        "steps": state.step,
        "images": len(pool.positions),
        "peak_memory_mib": records.peak_memory_mib(),
        **records.environment(),
    }
    records.write_json(folder / "record.json", record)
    return record


def _accumulate(sums: dict[str, Tensor], terms: Mapping[str, Tensor]) -> None:
    terms = {"steps": torch.ones_like(terms["loss"]), **terms}
    for name, value in terms.items():
        sums[name] = sums[name] + value.detach().float() if name in sums else value.detach().float().clone()


def _means(sums: Mapping[str, Tensor], name: str, step: int) -> dict[str, float]:
    values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
    means = {key: values[key] / values["steps"] for key in values if key != "steps"}
    if not all(math.isfinite(value) for value in means.values()):
        raise TrainingError(f"{name}: the loss is not finite by step {step}; lower lr")
    return means


def _share(settings: Settings) -> Share:
    if not processes.several():
        return Share()
    share = Share(processes.rank(), torch.distributed.get_world_size())
    if settings.batch_size % share.world:
        size = settings.batch_size
        raise records.RunError(f"{share.world} processes cannot share batch_size={size} evenly; start other ones")
    return share
