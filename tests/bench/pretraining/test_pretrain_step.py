"""A pre-training step against the plain one, in parts, and with batches that are made ahead."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.randomness import derive
from ferbench.bench.data.views.batches import Share, Stream
from ferbench.bench.pretraining import plan as plans
from ferbench.bench.pretraining import pretrain as loop
from ferbench.bench.pretraining.ahead import in_order
from ferbench.bench.pretraining.pool import Pool
from ferbench.bench.pretraining.pretrain import draw_noise, pretrain
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.state import Pretraining, make_state, resolve
from ferbench.bench.training import schedule
from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.recording import records

MakeFaces = Callable[..., FaceSet]
CPU = torch.device("cpu")
SMALL = Settings(
    backbone="vit_tiny", input_size=16, batch_size=4, epochs=2, steps_per_epoch=3, warmup_epochs=1, lr=1e-3,
    mean_std="imagenet", clip=1.0,
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}, "moco": {"queue": 12, "width": 8},
}  # fmt: skip


def make(make_faces: MakeFaces, objective: str = "mae", **settings: Any) -> Pretraining:
    return resolve(objective, OPTIONS[objective], replace(SMALL, **settings), [({}, make_faces())], 5)


def plain(run: Pretraining) -> dict[str, torch.Tensor]:
    """The objective's state after the loop as it is written: every step whole, one after the other."""
    settings, state, share = run.settings, make_state(run, CPU), Share()
    pool = Pool(run.faces, CPU)
    stream = Stream(pool.positions, settings.batch_size, run.seed, "pre-training")
    total = settings.epochs * settings.steps_per_epoch
    state.objective.train()
    for step in range(total):
        torch.manual_seed(derive(run.seed, "network", step))
        for group in state.optimizer.param_groups:
            group["lr"] = settings.lr * schedule.factor(settings, step)
        views = pool.views(stream.at(step), state.objective.views, settings.views(), run.seed, step, share)
        noise = draw_noise(run.seed, step, settings.batch_size, state.objective.patches, share)
        losses = state.objective.step(views, noise, torch.tensor(step / total))
        state.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(state.objective.parameters(), settings.clip)
        state.optimizer.step()
        state.objective.after_step()
    return state.objective.state_dict()


def end(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["objective"]
    return state


@pytest.mark.parametrize("objective", ["mae", "moco"])
def test_same_bits_as_the_plain_step(make_faces: MakeFaces, tmp_path: Path, objective: str) -> None:
    run = make(make_faces, objective)
    pretrain(run, tmp_path)
    expected = plain(run)
    for name, value in end(tmp_path).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_has_the_whole_batch_s_gradient(make_faces: MakeFaces, tmp_path: Path, parts: int) -> None:
    """Up to rounding, its logged losses too: plain descent, as Adam would blow rounding up."""
    run = make(make_faces, optimizer="sgd", lr=0.05)
    records_of = [pretrain(run, tmp_path / str(number), parts=number) for number in (1, parts)]
    whole, ours = end(tmp_path / "1"), end(tmp_path / str(parts))
    start = make_state(run, CPU).objective.state_dict()
    assert max(float((value - start[name]).abs().max()) for name, value in whole.items()) > 1e-3
    for name, value in ours.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)
    assert records_of[1]["loss"] == pytest.approx(records_of[0]["loss"], rel=1e-5)
    assert [record["parts"] for record in records_of] == [1, parts]


@pytest.mark.parametrize(
    ("objective", "parts", "message"),
    [("mae", 3, "a batch of 4 images has no 3 equal parts"), ("moco", 2, "moco needs its batch whole")],
)
def test_parts_that_cannot_be(make_faces: MakeFaces, tmp_path: Path, objective: str, parts: int, message: str) -> None:
    with pytest.raises(records.RunError, match=message):
        pretrain(make(make_faces, objective), tmp_path, parts=parts)


def test_batches_made_ahead_are_the_same(
    make_faces: MakeFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a GPU: in a thread, stopped in the fourth step and gone on with; no thread stays behind."""
    run = make(make_faces)
    expected, original, calls = plain(run), loop._accumulate, [0]
    monkeypatch.setattr(loop, "in_order", lambda make, first, last, ahead: in_order(make, first, last, ahead=2))

    def stopping(*args: Any) -> None:
        calls[0] += 1
        if calls[0] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        original(*args)

    monkeypatch.setattr(loop, "_accumulate", stopping)
    with pytest.raises(Interrupted, match="stopped after step 4 of 6"):
        pretrain(run, tmp_path)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]
    pretrain(run, tmp_path)
    for name, value in end(tmp_path).items():
        assert torch.equal(value, expected[name]), name


def test_in_order_and_not_too_far_ahead() -> None:
    begun: list[int] = []

    def work(step: int) -> int:
        begun.append(step)
        return step * step

    asked = []
    for number, value in enumerate(in_order(work, 3, 9, ahead=2)):
        asked.append(value)
        assert max(begun) <= 3 + number + 2
    assert asked == [step * step for step in range(3, 9)] and begun == list(range(3, 9))
    assert list(in_order(work, 3, 9, ahead=0)) == asked


def test_what_goes_wrong_ahead_is_raised_at_its_step() -> None:
    def work(step: int) -> int:
        if step == 2:
            raise ValueError("no image")
        return step

    batches = in_order(work, 0, 9, ahead=2)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="no image"):
        next(batches)


def test_a_long_epoch_is_saved_inside(make_faces: MakeFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint when its time has come, not at each epoch's end."""
    from ferbench.bench.training import train as training

    saved, original = [], records.save_checkpoint
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    monkeypatch.setattr(training, "SAVED_EVERY_S", 0.0)
    monkeypatch.setattr(training, "SAVING_SHARE", float("inf"))
    monkeypatch.setattr(
        records, "save_checkpoint", lambda path, state: (saved.append(state["step"]), original(path, state))
    )
    pretrain(make(make_faces), tmp_path / "often")
    assert saved == [2, 3, 4, 6]
    saved.clear()
    monkeypatch.setattr(training, "SAVED_EVERY_S", 1e9)
    pretrain(make(make_faces), tmp_path / "end")
    assert saved == [6]
    assert all(torch.equal(value, end(tmp_path / "end")[name]) for name, value in end(tmp_path / "often").items())


def test_a_plan_is_its_measured_step_times_as_many(
    make_faces: MakeFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes 2 s a step: an epoch of 36,000 steps 20 hours, ten of them 200; nothing is written."""
    run, now = make(make_faces, epochs=10, steps_per_epoch=36_000), [0.0]
    original = plans.Step.do

    def slowly(self: plans.Step, *args: Any) -> None:
        now[0] += 2.0
        original(self, *args)

    monkeypatch.setattr(plans.Step, "do", slowly)
    monkeypatch.setattr(plans.time, "perf_counter", lambda: now[0])
    monkeypatch.chdir(tmp_path)
    assert plans.plan(run, CPU) == (
        "2000 ms a step of 4 images, the mean of 10 (float32, float32 products highest): "
        "an epoch of 144,000 images 20 h, 10 of them 200 h"
    )
    assert list(tmp_path.iterdir()) == []
