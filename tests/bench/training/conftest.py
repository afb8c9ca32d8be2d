"""The plain training loop, kept as the witness of the chunked and the captured one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbench.bench.data.randomness import derive
from ferbench.bench.data.views.batches import Batches, ImageStore, Share
from ferbench.bench.training import schedule
from ferbench.bench.training import train as loop
from ferbench.bench.training.evaluate import evaluate, scores
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.state import Run, State, make_batches, make_state
from ferbench.bench.training.steps.mode import autocast
from ferbench.bench.training.steps.sums import Sums
from ferbench.methods import Progress, StepResult

CPU = torch.device("cpu")


def accumulate(sums: dict[str, float], loss: Any, result: StepResult, truth: Any) -> None:
    """One step's figures, number by number, in float32 as the loop sums them."""
    terms = {"steps": torch.ones_like(loss), "loss": loss}
    terms |= {f"loss/{name}": value for name, value in result.losses.items()}
    terms |= {f"figure/{name}": value for name, value in (result.figures or {}).items()}
    if result.pseudo is not None and truth is not None:
        known = truth >= 0
        kept, correct = result.pseudo.keep & known, result.pseudo.label == truth
        terms |= {"unlabelled": torch.tensor(float(len(truth))), "kept": result.pseudo.keep.sum()}
        terms |= {"known": known.sum(), "kept known": kept.sum()}
        terms |= {"correct": (correct & known).sum(), "kept correct": (correct & kept).sum()}
        if result.pseudo.changed is not None:
            terms["kept changed"] = (result.pseudo.changed & result.pseudo.keep).sum()
    for name, value in terms.items():
        sums[name] = float(np.float32(sums.get(name, 0.0)) + np.float32(value.detach().item()))


def means(sums: dict[str, float]) -> dict[str, float]:
    found = {name: sums[name] / sums["steps"] for name in sums if name.startswith("loss")}
    found |= {name[7:]: sums[name] / sums["steps"] for name in sums if name.startswith("figure/")}
    if "kept" in sums:
        found["mask rate"] = sums["kept"] / sums["unlabelled"]
        found["pseudo-label accuracy"] = sums["kept correct"] / max(sums["kept known"], 1.0)
        if "kept changed" in sums:
            found["labels changed"] = sums["kept changed"] / max(sums["kept"], 1.0)
        found["prediction accuracy"] = sums["correct"] / max(sums["known"], 1.0)
        if "kept changed" in sums:
            found["labels changed"] = sums["kept changed"] / max(sums["kept"], 1.0)
    return found


def slow_loop(run: Run) -> tuple[State, Batches]:
    """The training loop step by step: every batch drawn alone, every rate a number, nothing kept from step to step."""
    recipe = run.recipe
    state = make_state(run, CPU, Silent())
    batches = make_batches(run, state.method, CPU, Share())
    total = recipe.epochs * recipe.steps_per_epoch
    state.method.train()
    sums: dict[str, float] = {}
    for step in range(total):
        epoch = step // recipe.steps_per_epoch
        torch.manual_seed(derive(run.seed, "network", step))
        factor = schedule.factor(recipe, step)
        for group in state.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        labelled, unlabelled = batches.labelled(step), batches.unlabelled(step)
        with autocast(recipe, CPU):
            result = state.method.step(labelled, unlabelled, Progress(torch.tensor(step / total), epoch))
            loss = torch.stack(list(result.losses.values())).sum()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip > 0:
            torch.nn.utils.clip_grad_norm_(state.method.parameters(), recipe.clip)
        state.method.after_backward()
        state.optimizer.step()
        state.method.after_step(labelled, unlabelled)
        if state.average:
            state.average.update(recipe.lr * factor)
        state.step += 1
        accumulate(sums, loss, result, batches.truth(unlabelled) if unlabelled else None)
        if state.step % recipe.steps_per_epoch == 0:
            progress = Progress(torch.tensor(step / total), epoch)
            state.method.end_epoch(progress, loop._answers(state, batches, epoch))
            line = {"epoch": epoch + 1, "step": state.step, "lr": recipe.lr * factor, **means(sums)}
            state.history.append(line | evaluate(run, state, batches, batches.store))
            sums = {}
            state.method.train()
    return state, batches


def assert_ends_like(folder: Path, run: Run, state: State, batches: Batches) -> None:
    """The run in `folder` left what the witness has: weights, average, optimiser, history, predictions, all bits."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    expected = state.to_dict(records.spec_hash(run.spec))
    for part in ("method", "average", "optimizer"):
        np.testing.assert_equal(plain(saved[part]), plain(expected[part]), err_msg=part)
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [{key: value for key, value in line.items() if key != "seconds"} for line in history] == state.history
    evaluated = state.average.method if state.average and run.recipe.evaluate == "ema" else state.method
    with np.load(folder / "predictions.npz") as stored:
        store = ImageStore(run.test_faces, CPU)
        for rule, values in scores(evaluated, store, run.test, batches.recipe).items():
            np.testing.assert_array_equal(stored[f"scores_{rule}"], values)


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def ends_like_the_plain_loop() -> Callable[..., None]:
    """(folder, run, change=None): the run in `folder` left what the plain loop leaves, `change`d or not."""

    def check(folder: Path, run: Run, change: Callable[[State], None] | None = None) -> None:
        state, batches = slow_loop(run)
        if change:
            change(state)
        assert_ends_like(folder, run, state, batches)

    return check


def _stop_in_step(number: int, patch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the `number`-th step from here."""
    original, calls = Sums.add, [0]

    def counted(self: Sums, *args: Any) -> None:
        calls[0] += 1
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    patch.setattr(Sums, "add", counted)


@pytest.fixture
def stop_in_step() -> Callable[[int, pytest.MonkeyPatch], None]:
    """(number, monkeypatch): SIGTERM in the `number`-th step from here."""
    return _stop_in_step
