"""The loop: what it writes, what it costs, what it refuses; and that it learns."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.views import static
from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.data.views.batches import Batches, ImageStore, view_batches
from ferbench.bench.training import train as loop
from ferbench.bench.training.evaluate import scores, select
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.finite import TrainingError
from ferbench.bench.training.recording.metrics import metrics
from ferbench.bench.training.state import Run, make_state
from ferbench.bench.training.steps.feed import Feed
from ferbench.bench.training.steps.sums import Sums
from ferbench.bench.training.train import train

MakeRun = Callable[..., Run]
MakeFaces = Callable[..., FaceSet]
CPU = torch.device("cpu")


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["vanilla", "fixmatch", "remop"])
def test_it_learns_and_the_files_agree(make_tiny_run: MakeRun, tmp_path: Path, method: str) -> None:
    run = make_tiny_run(method, epochs=2, steps_per_epoch=30, lr=5e-3, randaugment_ops=0, dropout=0.0)
    record = train(run, tmp_path)
    lines = history(tmp_path)
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 30), (2, 60)]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert record["metrics"]["last"]["overall"] > 80.0  # brightness tells the class; chance is 45

    assert record == records.read_json(tmp_path / "record.json")
    assert (record["status"], record["steps"], record["evaluated"]) == ("finished", 60, "ema")
    assert record["split"] == {"labelled": 24, "unlabelled": 30, "validation": 0, "test": 20}
    assert {"commit", "device", "python", "versions", "peak_memory_mib", "seconds"} <= set(record)
    assert records.read_json(tmp_path / "spec.json") == run.spec

    with np.load(tmp_path / "predictions.npz") as stored:
        rule = next(iter(lines[1]["test"]["ema"]))
        others = {"labels", "index", "classes", "features"}
        assert set(stored) == {f"scores_{name}" for name in lines[1]["test"]["ema"]} | others
        assert stored["index"].tolist() == run.faces.test.tolist()
        assert stored["labels"].tolist() == run.faces.labels[run.faces.test].tolist()
        again = metrics(stored[f"scores_{rule}"], stored["labels"])
    for name, value in again.items():
        assert record["metrics"]["last"][name] == pytest.approx(value, abs=5e-5)
        assert lines[1]["test"]["ema"][rule][name] == pytest.approx(value)


def test_the_seed_decides_and_nothing_else(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("other", 4), ("again", 3)):
        torch.manual_seed(len(name))
        np.random.seed(len(name))
        train(make_tiny_run(seed=seed, epochs=1), tmp_path / name)
    scores = [np.load(tmp_path / name / "predictions.npz")["scores_main"] for name in ("one", "other", "again")]
    assert np.array_equal(scores[0], scores[2])
    assert not np.array_equal(scores[0], scores[1])


def test_evaluation_draws_nothing_and_leaves_the_model_in_training(make_tiny_run: MakeRun) -> None:
    run = make_tiny_run("remop")
    state = make_state(run, CPU, Silent())
    recipe = ViewRecipe(size=16)
    store = ImageStore(run.faces, CPU)
    before = {name: value.clone() for name, value in state.method.state_dict().items()}
    torch.manual_seed(1)
    first = scores(state.method, store, run.faces.test, recipe)
    torch.manual_seed(2)
    second = scores(state.method, store, run.faces.test, recipe)
    assert list(first) == list(second) == ["mixture", "linear", "centers"]
    assert all(np.array_equal(first[rule], second[rule]) for rule in first)
    assert all(torch.equal(value, before[name]) for name, value in state.method.state_dict().items())
    state.method.eval()
    with torch.no_grad():
        whole = state.method.predict(torch.cat(list(view_batches(store, run.faces.test, recipe))))
    np.testing.assert_allclose(first["mixture"], whole.numpy(), rtol=1e-5, atol=1e-6)


def test_mask_rate_and_pseudo_label_accuracy_by_hand(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch's log against the sums of what each step returned; unlabelled images of unknown class do not count."""
    seen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    original = Sums.add

    def spy(sums: Any, loss: Any, result: Any, truth: Any) -> None:
        seen.append((result.pseudo.keep.numpy().copy(), result.pseudo.label.numpy().copy(), truth.numpy().copy()))
        original(sums, loss, result, truth)

    def with_unknown(batches: Batches, unlabelled: Any) -> torch.Tensor:
        return torch.where(unlabelled.index % 3 == 0, -1, batches.store.labels[unlabelled.index])

    monkeypatch.setattr(Sums, "add", spy)
    monkeypatch.setattr(Batches, "truth", with_unknown)
    train(make_tiny_run("fixmatch", epochs=1, steps_per_epoch=12, options={"threshold": 0.4}, lr=5e-3), tmp_path)
    keep, label, truth = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    line, known = history(tmp_path)[0], truth >= 0
    assert 0 < keep.mean() < 1 and 0 < known.mean() < 1
    assert line["mask rate"] == pytest.approx(keep.mean())
    assert line["pseudo-label accuracy"] == pytest.approx((label == truth)[keep & known].mean())
    assert line["prediction accuracy"] == pytest.approx((label == truth)[known].mean())


def test_losses_are_means_over_the_epoch(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[dict[str, float]] = []
    original = Sums.add

    def spy(sums: Any, loss: Any, result: Any, truth: Any) -> None:
        losses.append({"loss": loss.item()} | {f"loss/{key}": value.item() for key, value in result.losses.items()})
        original(sums, loss, result, truth)

    monkeypatch.setattr(Sums, "add", spy)
    train(make_tiny_run("remop", epochs=2, steps_per_epoch=3), tmp_path)
    for line, steps in zip(history(tmp_path), (losses[:3], losses[3:]), strict=True):
        for name in losses[0]:
            assert line[name] == pytest.approx(sum(step[name] for step in steps) / 3, rel=1e-5)
        assert line["loss"] == pytest.approx(sum(line[name] for name in losses[0] if name != "loss"), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "factors"), [("constant", (1, 1, 1, 1)), ("cosine", (1, 0.8535534, 0.5, 0.1464466))]
)
def test_learning_rate_schedule(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, factors: tuple[float, ...]
) -> None:
    """Also that a group with a rate of its own (ReMoP's centres) keeps its proportion."""
    rates: list[list[float]] = []
    step = torch.optim.Adam.step

    def spy(self: torch.optim.Adam) -> None:
        rates.append([float(group["lr"]) for group in self.param_groups])
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    options = {"center_lr": 0.5}
    train(make_tiny_run("remop", epochs=1, steps_per_epoch=4, schedule=schedule, lr=0.01, options=options), tmp_path)
    np.testing.assert_allclose(rates, [[0.01 * factor, 0.5 * factor] for factor in factors], rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_optimisers_clipping_and_no_average(make_tiny_run: MakeRun, tmp_path: Path, optimizer: str) -> None:
    changes = {"optimizer": optimizer, "momentum": 0.9, "clip": 1.0, "ema": 0.0, "evaluate": "student", "epochs": 1}
    record = train(make_tiny_run(**changes), tmp_path)
    assert record["evaluated"] == "student"
    assert list(history(tmp_path)[0]["test"]) == ["student"]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["average"] is None


def test_a_method_without_unlabelled_views_draws_no_unlabelled_images(
    make_tiny_run: MakeRun, tmp_path: Path, make_faces: MakeFaces
) -> None:
    run = make_tiny_run("vanilla", split=("full", {}), epochs=1)
    assert len(run.split.unlabelled) == 0
    assert "mask rate" not in (train(run, tmp_path), history(tmp_path)[0])[1]
    with pytest.raises(DataError, match="there are no unlabelled images to draw from"):
        train(make_tiny_run("fixmatch", split=("full", {}), epochs=1), tmp_path / "second")


def test_a_method_with_unlabelled_views_is_refused_where_a_run_is_given_none(
    make_tiny_run: MakeRun, tmp_path: Path
) -> None:
    run = make_tiny_run("fixmatch", epochs=1)
    with pytest.raises(DataError, match="fixmatch needs unlabelled images"):
        train(replace(run, spec={**run.spec, "unlabelled": "none"}), tmp_path)


def test_validation_part_is_scored_and_chosen_by(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    run = make_tiny_run("vanilla", split=("balanced", {"per_class": 8, "validation": 0.25}), epochs=2)
    record = train(run, tmp_path)
    assert set(record["metrics"]) == {"last", "best-on-test", "best-epoch-on-test", "best-on-val"}
    assert record["split"]["validation"] == 6
    lines = history(tmp_path)
    best = max(lines, key=lambda line: line["validation"]["ema"]["main"]["overall"])
    assert record["metrics"]["best-on-val"]["epoch"] == best["epoch"]
    assert record["metrics"]["best-on-val"]["overall"] == round(best["test"]["ema"]["main"]["overall"], 4)


def test_select_takes_the_first_of_ties_and_never_best_for_last() -> None:
    def line(epoch: int, test: float, validation: float, other: float) -> dict[str, Any]:
        scores = {"a": {"overall": test, "mean": test / 2}, "b": {"overall": other, "mean": 1.0}}
        return {"epoch": epoch, "test": {"ema": scores}, "validation": {"ema": {"a": {"overall": validation}}}}

    found = select([line(1, 50, 9, 99), line(2, 70, 8, 1), line(3, 70, 9, 1), line(4, 60, 7, 2)], "ema")
    epochs = {"last": 4, "best-on-test": 2, "best-epoch-on-test": 2, "best-on-val": 1}
    assert {name: values["epoch"] for name, values in found.items()} == epochs
    assert found["best-epoch-on-test"] == {"epoch": 2, "overall": 70, "mean": 35, "b/overall": 1, "b/mean": 1.0}
    assert found["last"] == {"epoch": 4, "overall": 60, "mean": 30, "b/overall": 2, "b/mean": 1.0}
    assert found["best-on-val"]["overall"] == 50
    assert found["best-on-test"] == {"epoch": 2, "overall": 70, "mean": 35, "b/overall": 99, "b/mean": 1.0}


def test_unlabelled_images_are_scored_by_every_rule_where_the_recipe_asks(
    make_tiny_run: MakeRun, tmp_path: Path
) -> None:
    """ReMoP's Figure 1(b): the linear prediction, the centres' and the mixture's, after each epoch."""
    record = train(make_tiny_run("remop", score_unlabelled=True), tmp_path / "asked")
    lines = history(tmp_path / "asked")
    rules = ["mixture", "linear", "centers"]
    assert all(list(line["unlabelled"]["ema"]) == rules for line in lines)
    last = record["metrics"]["last"]
    for rule in rules:
        name = "unlabelled/f1" if rule == "mixture" else f"{rule}/unlabelled/f1"
        assert last[name] == round(lines[-1]["unlabelled"]["ema"][rule]["f1"], 4)
    other = train(make_tiny_run("remop"), tmp_path / "plain")["metrics"]["last"]
    assert other == {name: value for name, value in last.items() if "unlabelled" not in name}


def test_other_data_sets_as_unlabelled_and_test(make_tiny_run: MakeRun, make_faces: MakeFaces, tmp_path: Path) -> None:
    other = make_faces({"joy": 30, "calm": 2, "anger": 9}, {"joy": 4, "anger": 3}, size=24, name="other")
    run = dataclasses.replace(make_tiny_run(epochs=1), unlabelled_faces=other, test_faces=other)
    train(run, tmp_path)
    with np.load(tmp_path / "predictions.npz") as stored:
        assert stored["labels"].tolist() == other.labels[other.test].tolist()
        assert stored["scores_main"].shape == (7, 3)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Sums.add

    def poisoned(sums: Any, loss: Any, result: Any, truth: Any) -> None:
        original(sums, loss * (math.nan if result.losses["supervised"].requires_grad and poison else 1), result, truth)

    poison = False
    monkeypatch.setattr(Sums, "add", poisoned)
    monkeypatch.setattr(loop, "SAVED_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)

    class Poisoner(Silent):
        def epoch(self, line: Any) -> None:
            nonlocal poison
            poison = True

    with pytest.raises(TrainingError) as caught:
        train(make_tiny_run(), tmp_path, reporter=Poisoner())
    assert "loss not finite by step 10" in str(caught.value)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 5
    assert len(history(tmp_path)) == 1
    assert not (tmp_path / "record.json").exists()


class Looks(TorchDispatchMode):
    """Steps in which an operation had to wait for a value on the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self, step: Callable[[], int], steps: list[tuple[int, str]]) -> None:
        super().__init__()
        self.step, self.steps = step, steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(self.WAITS):
            self.steps.append((self.step(), name))
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """The same for what Python reads straight from memory."""

    WAITS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "__array__")

    def __init__(self, step: Callable[[], int], steps: list[tuple[int, str]]) -> None:
        super().__init__()
        self.step, self.steps = step, steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.WAITS:
            self.steps.append((self.step(), func.__name__))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["vanilla", "fixmatch", "remop"])
def test_nothing_in_a_step_waits_for_the_device(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A run of 60 steps looks at the device after steps 50 and 60 alone.

    Left out is what the host does on purpose: drawing chunks, and writing a checkpoint. So is making the views, one
    kernel on a GPU, for which the CPU has its own means.
    """
    steps: list[tuple[int, str]] = []
    made: list[loop.State] = []
    original_state, original_feed, original_evaluate = loop.make_state, Feed.of, loop.evaluate

    def keep(*args: Any) -> loop.State:
        made.append(original_state(*args))
        return made[0]

    def unseen(work: Any) -> Any:
        def hidden(*args: Any) -> Any:
            before = len(steps)
            result = work(*args)
            del steps[before:]
            return result

        return hidden

    monkeypatch.setattr(loop, "make_state", unseen(keep))
    monkeypatch.setattr(Feed, "of", unseen(original_feed))
    monkeypatch.setattr(static, "planned", unseen(static.planned))
    monkeypatch.setattr(loop, "evaluate", unseen(original_evaluate))
    monkeypatch.setattr(loop, "check_weights", unseen(loop.check_weights))  # at an epoch's end, as evaluation
    monkeypatch.setattr(loop, "dry_step", unseen(loop.dry_step))  # on a copy, before the first step
    monkeypatch.setattr(loop.State, "to_dict", unseen(loop.State.to_dict))
    monkeypatch.setattr(loop, "finish", lambda *args: {})
    monkeypatch.setattr(records, "save_checkpoint", lambda *args: None)
    run = make_tiny_run(method, epochs=1, steps_per_epoch=60, batch_size=2, mu=1, clip=1.0)

    def step() -> int:
        return made[0].step if made else -1

    with Looks(step, steps), Reads(step, steps):
        train(run, tmp_path)
    assert steps == [(50, "tolist"), (60, "tolist")]


def test_memory_does_not_grow_with_epochs(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    """Resident memory after the seventh epoch against the second: one kept batch a step would add 29 MiB."""
    sizes: list[int] = []

    class Watch(Silent):
        def epoch(self, line: Any) -> None:
            gc.collect()
            sizes.append(psutil.Process().memory_info().rss)

    run = make_tiny_run("remop", epochs=7, steps_per_epoch=15, batch_size=4, mu=2, input_size=48)
    train(run, tmp_path, reporter=Watch())
    batch = (4 + 2 * 8) * 3 * 48 * 48 * 4
    assert sizes[-1] - sizes[1] < 5 * 15 * batch / 2
