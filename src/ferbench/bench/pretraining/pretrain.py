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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ferbench.bench.data.randomness import derive, generator
from ferbench.bench.data.views.batches import Share, Stream
from ferbench.bench.pretraining import OBJECTIVES, Objective
from ferbench.bench.pretraining.pictures import write_panels
from ferbench.bench.pretraining.pool import Pool
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.state import Pretraining, State, make_state
from ferbench.bench.training import processes, records, schedule
from ferbench.bench.training.code import class_code
from ferbench.bench.training.execution import Execution, keeps_threads, resume, take_up
from ferbench.bench.training.finite import TrainingError, check_weights
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.progress import Reporter, Silent
from ferbench.bench.training.steps.feed import LOG_EVERY

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
    run: Pretraining, folder: Path, *, device: torch.device | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Train `run`, write its files into `folder` and return its record; continues from a checkpoint found there.

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
    state = make_state(run, device)
    if saved:
        resume(state, saved, checkpoint, reporter.note)
    stepper: nn.Module = Stepper(state.objective)
    if share.world > 1:
        stepper = DistributedDataParallel(stepper)
    precision = torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.dtype == "bfloat16")

    # the data
    pool = Pool(run.faces, device)
    stream = Stream(pool.positions, settings.batch_size, run.seed, "pre-training")
    total = settings.epochs * settings.steps_per_epoch
    fraction = torch.zeros((), device=device)

    def checkpoint_now() -> None:
        if share.rank == 0:
            records.save_checkpoint(checkpoint, {**state.to_dict(identity), **execution.saved()})

    with StopRequest() as stop:
        state.objective.train()
        started = time.perf_counter()
        while state.step < total:
            # one step
            torch.manual_seed(derive(run.seed, "network", state.step * share.world + share.rank))
            rate = settings.lr * schedule.factor(settings, state.step)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            index, names = stream.at(state.step), state.objective.views
            views = pool.views(index, names, settings.views(), run.seed, state.step, share)
            noise = draw_noise(run.seed, state.step, settings.batch_size, state.objective.patches, share).to(device)
            with precision:
                losses: dict[str, Tensor] = stepper(views, noise, fraction.fill_(state.step / total))
                loss = torch.stack(list(losses.values())).sum()
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if settings.clip > 0:
                nn.utils.clip_grad_norm_(state.objective.parameters(), settings.clip)
            state.optimizer.step()
            state.objective.after_step()
            state.step += 1

            # the log, on the device until it is looked at
            _accumulate(state.sums, {"loss": loss} | {f"loss/{name}": value for name, value in losses.items()})
            looking = state.step % LOG_EVERY == 0 or state.step % settings.steps_per_epoch == 0
            if looking:
                pool.release()
                means = _means(state.sums, run.name, state.step)
                reporter.step(state.step, total, means)

            # the end of an epoch
            if state.step % settings.steps_per_epoch == 0:
                state.seconds += time.perf_counter() - started
                started = time.perf_counter()
                check_weights(state.objective)
                line = {"epoch": state.step // settings.steps_per_epoch, "step": state.step, "lr": rate, **means}
                state.history.append(line | {"seconds": round(state.seconds, 3)})
                state.sums = {}
                checkpoint_now()
                if share.rank == 0:
                    records.write_lines(folder / "metrics.jsonl", state.history)
                reporter.epoch(state.history[-1])

            # several processes stop after the same step
            if (looking or share.world == 1) and (asked := processes.largest(stop.signal, device)):
                state.seconds += time.perf_counter() - started
                checkpoint_now()
                raise Interrupted(asked, f"stopped after step {state.step} of {total}; run it again to continue")

    return _finish(run, state, pool, folder, execution.record()) if share.rank == 0 else {}


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
