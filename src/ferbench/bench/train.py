"""The training loop: from a resolved run to its record, top to bottom.

Everything that changes during training lies in `State` and is saved whole at each epoch's end and on SIGTERM or Ctrl-C;
all random numbers are functions of (seed, step). A run that was killed continues from its last checkpoint and ends, on
the CPU with the same number of threads, bit for bit where an uninterrupted run ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ferbench.bench import processes, records
from ferbench.bench.backbones import make_classifier
from ferbench.bench.data.augment import ViewRecipe
from ferbench.bench.data.batches import Batches, ImageStore, Share, Stream, view_batches
from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.splits import Split
from ferbench.bench.ema import Averaged
from ferbench.bench.interrupt import Interrupted, StopRequest
from ferbench.bench.metrics import metrics
from ferbench.bench.progress import Reporter, Silent
from ferbench.bench.randomness import derive, generator
from ferbench.methods import (
    Ask,
    Facts,
    Labelled,
    Method,
    Progress,
    Scored,
    StepResult,
    Unlabelled,
    View,
    build,
)
from ferbench.protocols.schema import Recipe

LOG_EVERY = 50  # steps between looks at the device: the bar, and the check for NaN


class TrainingError(Exception):
    """Training went wrong (a loss is not finite); the message is one line."""


@dataclass(frozen=True)
class Run:
    """One run, fully resolved. `spec` is its identity as plain types; the rest is what `spec` says, ready to use."""

    spec: records.Spec
    method: str
    values: Mapping[str, object]  # every option of the method
    recipe: Recipe
    seed: int
    faces: FaceSet
    split: Split
    test_faces: FaceSet
    unlabelled_faces: FaceSet | None = None  # another data set's training images in place of the split's rest
    prepare: Callable[[nn.Module], str] | None = None  # loads pre-trained weights; returns a line for the log


@dataclass
class State:
    """All that changes: saved whole."""

    method: Method
    average: Averaged | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of this epoch, on the device
    history: list[dict[str, Any]] = field(default_factory=list)  # a line per finished epoch

    def to_dict(self, spec: str) -> dict[str, Any]:
        return {
            "spec": spec,
            "method": self.method.state_dict(),
            "average": self.average.method.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
            "history": self.history,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        self.method.load_state_dict(saved["method"])
        if self.average:
            self.average.method.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        device = next(self.method.parameters()).device
        self.sums = {name: value.to(device) for name, value in saved["sums"].items()}
        self.history = saved["history"]


class Stepper(nn.Module):
    """A method's step as `forward`, which is what DistributedDataParallel wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        return self.method.step(labelled, unlabelled, progress)


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

    # the model, and what moves it
    state = make_state(run, device, reporter)
    if checkpoint.exists():
        state.load(records.load_checkpoint(checkpoint, identity))
        reporter.note(f"continuing after step {state.step}")
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
            records.save_checkpoint(checkpoint, state.to_dict(identity))

    with StopRequest() as stop:
        state.method.train()
        started = time.perf_counter()
        while state.step < total:
            epoch = state.step // recipe.steps_per_epoch

            # one step
            torch.manual_seed(derive(run.seed, "network", state.step * share.world + share.rank))
            lr = _set_learning_rate(state.optimizer, recipe, state.step / total)
            labelled, unlabelled = batches.labelled(state.step), batches.unlabelled(state.step)
            with precision:
                result: StepResult = stepper(labelled, unlabelled, Progress(fraction.fill_(state.step / total), epoch))
                loss = torch.stack(list(result.losses.values())).sum()
            state.optimizer.zero_grad(set_to_none=True)
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            state.method.after_backward()
            if recipe.clip > 0:
                state.scaler.unscale_(state.optimizer)
                nn.utils.clip_grad_norm_(state.method.parameters(), recipe.clip)
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

    return finish(run, state, batches, test_store, folder) if share.rank == 0 else {}


def make_state(run: Run, device: torch.device, reporter: Reporter) -> State:
    """The initial state: network weights drawn from the seed, or loaded, and zero steps done."""
    recipe = run.recipe
    torch.manual_seed(derive(run.seed, "initialisation"))
    model = make_classifier(recipe.backbone, len(run.faces.classes), size=recipe.input_size, dropout=recipe.dropout)
    if run.prepare:
        reporter.note(run.prepare(model))
    method = build(run.method, model, run.values).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.begin(_facts(run, device))
    buffers = cast(Any, recipe.ema_buffers)
    return State(
        method=method,
        average=Averaged(method, recipe.ema, buffers=buffers, shrink=recipe.shrink) if recipe.ema > 0 else None,
        optimizer=make_optimizer(method, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.dtype == "float16" and device.type == "cuda"),
    )


def _facts(run: Run, device: torch.device) -> Facts:
    pool = run.unlabelled_faces or run.faces
    unlabelled = run.unlabelled_faces.train if run.unlabelled_faces else run.split.unlabelled
    labelled = torch.from_numpy(run.split.labelled).to(device)
    return Facts(
        images=len(pool.labels),
        labelled_index=labelled,
        labelled_labels=torch.from_numpy(run.faces.labels).to(device)[labelled],
        unlabelled_index=torch.from_numpy(unlabelled).to(device),
        steps=run.recipe.epochs * run.recipe.steps_per_epoch,
        epochs=run.recipe.epochs,
    )


def make_optimizer(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the method's parameter groups, each keeping its learning rate in `base_lr`."""
    groups = [{**group, "base_lr": group["lr"]} for group in method.parameter_groups(recipe.lr)]
    decay, momentum = recipe.weight_decay, recipe.momentum
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=momentum, weight_decay=decay, nesterov=momentum > 0)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.lr, weight_decay=decay, fused=True)


def make_batches(run: Run, method: Method, device: torch.device, share: Share) -> Batches:
    """The run's labelled and unlabelled streams; no unlabelled one for a method that takes no such view."""
    recipe = run.recipe
    store = ImageStore(run.faces, device)
    other = ImageStore(run.unlabelled_faces, device) if run.unlabelled_faces else None
    pool = run.unlabelled_faces.train if run.unlabelled_faces else run.split.unlabelled
    unlabelled = None
    if method.views.unlabelled:
        unlabelled = Stream(pool, recipe.mu * recipe.batch_size, run.seed, "unlabelled")
    return Batches(
        store, Stream(run.split.labelled, recipe.batch_size, run.seed, "labelled"), unlabelled, method.views,
        view_recipe(recipe), share, other,
    )  # fmt: skip


def view_recipe(recipe: Recipe) -> ViewRecipe:
    """How the recipe augments."""
    return ViewRecipe(
        size=recipe.input_size, padding=recipe.crop_padding, crop=recipe.crop_probability,
        num_ops=recipe.randaugment_ops, cutout=recipe.cutout, channels_last=True,
    )  # fmt: skip


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision as the recipe says."""
    if recipe.dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.dtype))


def evaluate(run: Run, state: State, batches: Batches, test_store: ImageStore) -> dict[str, Any]:
    """Test (and validation) metrics of the student and of the averaged model, by every inference rule."""
    models = {"student": state.method} | ({"ema": state.average.method} if state.average else {})
    parts = {"test": (test_store, run.test_faces, run.test_faces.test)}
    if len(run.split.validation):
        parts["validation"] = (batches.store, run.faces, run.split.validation)
    line: dict[str, Any] = {}
    for part, (store, faces, indices) in parts.items():
        line[part] = {}
        for name, model in models.items():
            rules = scores(model, store, indices, batches.recipe)
            line[part][name] = {rule: metrics(values, faces.labels[indices]) for rule, values in rules.items()}
    return line


@torch.no_grad()
def scores(
    method: Method, store: ImageStore, indices: NDArray[np.int64], recipe: ViewRecipe
) -> dict[str, NDArray[np.float32]]:
    """Scores [N, K] of un-augmented images by inference rule, the headline rule first."""
    method.eval()
    parts = [method.predict_all(images) for images in view_batches(store, indices, recipe)]
    return {rule: torch.cat([part[rule].float() for part in parts]).cpu().numpy() for rule in parts[0]}


def finish(run: Run, state: State, batches: Batches, test_store: ImageStore, folder: Path) -> dict[str, Any]:
    """Write predictions and record of the evaluated model."""
    evaluated = state.average.method if state.average and run.recipe.evaluate == "ema" else state.method
    final = scores(evaluated, test_store, run.test_faces.test, batches.recipe)
    labels = run.test_faces.labels[run.test_faces.test]
    # once more: a run killed between its last checkpoint and this file comes here without another epoch
    records.write_lines(folder / "metrics.jsonl", state.history)
    records.write_predictions(folder / "predictions.npz", final, labels=labels, index=run.test_faces.test)
    record = {
        "status": "finished",
        "metrics": select(state.history, "ema" if evaluated is not state.method else "student"),
        "evaluated": "ema" if evaluated is not state.method else "student",
        "seconds": round(state.seconds, 1),
        "steps": state.step,
        "split": {part: len(getattr(run.split, part)) for part in ("labelled", "unlabelled", "validation", "test")},
        "peak_memory_mib": records.peak_memory_mib(),
        **records.environment(),
    }
    records.write_json(folder / "record.json", record)
    return record


def select(history: list[dict[str, Any]], evaluated: str) -> dict[str, dict[str, float]]:
    """Test metrics at the last epoch, at the best on validation (where there is one), and at the best on test.

    "Best" is by overall accuracy of the headline rule, the first of ties; other rules' metrics are named `rule/metric`.
    """

    def headline(line: dict[str, Any], part: str) -> float:
        return float(next(iter(line[part][evaluated].values()))["overall"])

    chosen = {"last": history[-1], "best-on-test": max(history, key=lambda line: headline(line, "test"))}
    if "validation" in history[-1]:
        chosen["best-on-val"] = max(history, key=lambda line: headline(line, "validation"))
    result: dict[str, dict[str, float]] = {}
    for selection, line in chosen.items():
        rules = line["test"][evaluated]
        first = next(iter(rules))
        result[selection] = {"epoch": line["epoch"]} | {
            (metric if rule == first else f"{rule}/{metric}"): round(value, 4)
            for rule, values in rules.items()
            for metric, value in values.items()
        }
    return result


def _set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, fraction: float) -> float:
    factor = 0.5 * (1 + math.cos(math.pi * fraction)) if recipe.schedule == "cosine" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return recipe.lr * factor


def _accumulate(sums: dict[str, Tensor], loss: Tensor, result: StepResult, truth: Tensor | None) -> None:
    """Add one step to the epoch's sums without waiting for the device."""
    terms = {"steps": torch.ones_like(loss), "loss": loss}
    terms |= {f"loss/{name}": value for name, value in result.losses.items()}
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
    for name, value in terms.items():
        sums[name] = sums[name] + value.detach().float() if name in sums else value.detach().float().clone()


def _means(sums: dict[str, Tensor], spec: records.Spec, step: int) -> dict[str, float]:
    """The epoch's means so far, from one look at the device. Raises TrainingError when a loss is not finite."""
    values = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
    means = {name: values[name] / values["steps"] for name in values if name.startswith("loss")}
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"{records.run_id(spec)}: {', '.join(broken)} not finite by step {step}; the last checkpoint is kept; "
            "try a lower learning rate, gradient clipping or float32"
        )
    if "kept" in values:
        means["mask rate"] = values["kept"] / values["unlabelled"]
        means["pseudo-label accuracy"] = values["kept correct"] / max(values["kept known"], 1.0)
        means["prediction accuracy"] = values["correct"] / max(values["known"], 1.0)
    return means


def _answers(state: State, batches: Batches, epoch: int) -> Ask:
    """What `end_epoch` may ask: scores over the whole labelled or unlabelled set."""

    @torch.no_grad()
    def ask(which: str, *, model: str = "student", view: View = "plain") -> Scored:
        stream = batches.labelled_stream if which == "labelled" else batches.unlabelled_stream
        assert stream is not None, f"no {which} images"
        store = batches.store if which == "labelled" else batches.unlabelled_store
        chosen = state.method if model == "student" or state.average is None else state.average.method
        chosen.eval()
        rng = generator(stream.seed, f"asked/{which}/{view}", epoch)
        parts = [chosen.predict(images) for images in view_batches(store, stream.indices, batches.recipe, view, rng)]
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
