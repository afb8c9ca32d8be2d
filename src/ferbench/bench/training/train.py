"""The training loop: from a resolved run to its record, top to bottom.

Everything that changes during training lies in `State` and is saved whole at each epoch's end and on SIGTERM or Ctrl-C;
all random numbers are functions of (seed, step). A run that was killed continues from its last checkpoint, with the
number of threads it began with, and ends on the same machine's CPU bit for bit where an uninterrupted run ends.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ferbench.bench.data.randomness import derive, generator
from ferbench.bench.data.views.batches import Batches, ImageStore, Share, view_batches
from ferbench.bench.training import processes, records, schedule
from ferbench.bench.training.code import method_code
from ferbench.bench.training.evaluate import evaluate, finish
from ferbench.bench.training.execution import Execution, keeps_threads, resume, take_up
from ferbench.bench.training.finite import TrainingError, check_weights
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.progress import Reporter, Silent
from ferbench.bench.training.state import Run, State, make_batches, make_state
from ferbench.methods import (
    Ask,
    Labelled,
    Method,
    Progress,
    Scored,
    StepResult,
    Unlabelled,
    View,
)
from ferbench.protocols.schema import Recipe

LOG_EVERY = 50  # steps between looks at the device: the bar, and the check for NaN


class Stepper(nn.Module):
    """A method's step as `forward`, which is what DistributedDataParallel wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        return self.method.step(labelled, unlabelled, progress)


@keeps_threads
def train(
    run: Run, folder: Path, *, device: torch.device | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Train `run`, write its files into `folder` and return its record; continues from a checkpoint found there.

    Raises TrainingError, records.RunError, or Interrupted after the state has been saved.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reporter = reporter or Silent()
    recipe, share = run.recipe, _share(run.recipe)
    identity = records.spec_hash(run.spec)
    checkpoint = folder / "checkpoint.pt"
    if share.rank == 0:
        records.write_json(folder / "spec.json", run.spec)

    # how it is carried out: a run that goes on keeps what it began with
    execution = Execution.here(method_code(run.method, run.values), device, recipe.dtype, share.world)
    saved = take_up(checkpoint, identity, execution, reporter.note, keeper=share.rank == 0)

    # the model, and what moves it
    state = make_state(run, device, reporter)
    if saved:
        resume(state, saved, checkpoint, reporter.note)
    stepper: nn.Module = Stepper(state.method)
    if share.world > 1:
        if device.type == "cuda":
            stepper = nn.SyncBatchNorm.convert_sync_batchnorm(stepper)  # type: ignore[no-untyped-call]
        stepper = DistributedDataParallel(stepper)
    precision = autocast(recipe, device)

    # the data
    batches = make_batches(run, state.method, device, share)
    test_store = batches.store if run.test_faces is run.faces else ImageStore(run.test_faces, device)
    total = recipe.epochs * recipe.steps_per_epoch
    fraction = torch.zeros((), device=device)

    def checkpoint_now() -> None:
        if share.rank == 0:
            records.save_checkpoint(checkpoint, {**state.to_dict(identity), **execution.saved()})

    with StopRequest() as stop:
        state.method.train()
        started = time.perf_counter()
        while state.step < total:
            epoch = state.step // recipe.steps_per_epoch

            # one step
            torch.manual_seed(derive(run.seed, "network", state.step * share.world + share.rank))
            lr = _set_learning_rate(state.optimizer, recipe, state.step)
            labelled, unlabelled = batches.labelled(state.step), batches.unlabelled(state.step)
            with precision:
                result: StepResult = stepper(labelled, unlabelled, Progress(fraction.fill_(state.step / total), epoch))
                loss = torch.stack(list(result.losses.values())).sum()
            state.optimizer.zero_grad(set_to_none=True)
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if recipe.clip > 0:
                state.scaler.unscale_(state.optimizer)
                nn.utils.clip_grad_norm_(state.method.parameters(), recipe.clip)
            state.method.after_backward()
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.method.after_step(labelled, unlabelled)
            if state.average:
                state.average.update(lr)
            state.step += 1

            # the log, on the device until it is looked at
            with torch.no_grad():
                _accumulate(state.sums, loss, result, batches.truth(unlabelled) if unlabelled else None)
            looking = state.step % LOG_EVERY == 0 or state.step % recipe.steps_per_epoch == 0
            if looking:
                means = _means(state.sums, run.spec, state.step)
                reporter.step(state.step, total, means)

            # the end of an epoch
            if state.step % recipe.steps_per_epoch == 0:
                state.method.end_epoch(Progress(fraction, epoch), _answers(state, batches, epoch))
                check_weights(state.method, *([state.average.method] if state.average else []))
                line = {"epoch": epoch + 1, "step": state.step, "lr": lr, **means}
                if share.rank == 0:
                    line |= evaluate(run, state, batches, test_store)
                state.sums = {}
                state.seconds += time.perf_counter() - started
                started = time.perf_counter()
                state.history.append(line | {"seconds": round(state.seconds, 3)})
                checkpoint_now()
                if share.rank == 0:
                    records.write_lines(folder / "metrics.jsonl", state.history)
                reporter.epoch(state.history[-1])
                state.method.train()

            # several processes stop after the same step: they agree where they wait for the device anyway
            if (looking or share.world == 1) and (asked := processes.largest(stop.signal, device)):
                state.seconds += time.perf_counter() - started
                checkpoint_now()
                raise Interrupted(asked, f"stopped after step {state.step} of {total}; run it again to continue")

    return finish(run, state, batches, test_store, folder, execution.record()) if share.rank == 0 else {}


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision as the recipe says."""
    if recipe.dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.dtype))


def _set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> float:
    factor = schedule.factor(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return recipe.lr * factor


def _accumulate(sums: dict[str, Tensor], loss: Tensor, result: StepResult, truth: Tensor | None) -> None:
    """Add one step to the epoch's sums without waiting for the device."""
    terms = {"steps": torch.ones_like(loss), "loss": loss}
    terms |= {f"loss/{name}": value for name, value in result.losses.items()}
    terms |= {f"figure/{name}": value for name, value in (result.figures or {}).items()}
    if result.pseudo is not None and truth is not None:
        known = truth >= 0
        kept = result.pseudo.keep & known
        correct = result.pseudo.label == truth
        terms |= {
            "unlabelled": torch.tensor(float(len(truth)), device=loss.device),
            "kept": result.pseudo.keep.sum().float(),
            "known": known.sum().float(),
            "kept known": kept.sum().float(),
            "correct": (correct & known).sum().float(),
            "kept correct": (correct & kept).sum().float(),
        }
        if result.pseudo.changed is not None:
            terms["kept changed"] = (result.pseudo.changed & result.pseudo.keep).sum().float()
    for name, value in terms.items():
        sums[name] = sums[name] + value.detach().float() if name in sums else value.detach().float().clone()


def _means(sums: dict[str, Tensor], spec: records.Spec, step: int) -> dict[str, float]:
    """The epoch's means so far, from one look at the device. Raises TrainingError when a loss is not finite."""
    values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
    means = {name: values[name] / values["steps"] for name in values if name.startswith("loss")}
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"{records.run_id(spec)}: {', '.join(broken)} not finite by step {step}; "
            "try a lower learning rate, gradient clipping or float32"
        )
    means |= {
        name.removeprefix("figure/"): value / values["steps"]
        for name, value in values.items() if name.startswith("figure/")
    }  # fmt: skip
    if "kept" in values:
        means["mask rate"] = values["kept"] / values["unlabelled"]
        means["pseudo-label accuracy"] = values["kept correct"] / max(values["kept known"], 1.0)
        if "kept changed" in values:  # the share of what is taught that a plug-in labels otherwise than its learner
            means["labels changed"] = values["kept changed"] / max(values["kept"], 1.0)
        means["prediction accuracy"] = values["correct"] / max(values["known"], 1.0)
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
        rng = generator(stream.seed, f"asked/{which}/{view}", epoch)
        answer = chosen.predict if rule is None else lambda images: chosen.predict_all(images)[rule]
        parts = [answer(images) for images in view_batches(store, stream.indices, batches.recipe, view, rng)]
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
