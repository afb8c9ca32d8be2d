"""The graph's way, without a GPU: a recorder takes the place of CUDA's capture and replays the very operations.

What Python decides is frozen in a replay as it is in a CUDA graph: every operation runs again on the same memory, with
the numbers it was recorded with. So a step that is not static ends elsewhere, and a method that is ends where the plain
loop ends, bit for bit.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ferbench.bench.data.views import static
from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.state import Run
from ferbench.bench.training.steps import feed, graphed
from ferbench.bench.training.steps.mode import Mode
from ferbench.bench.training.steps.step import Step
from ferbench.bench.training.steps.sums import Sums
from ferbench.bench.training.train import train
from ferbench.methods import METHODS

EndsLike = Callable[..., None]
MakeRun = Callable[..., Run]
on_the_cpu = partial(train, device=torch.device("cpu"))
QUICK = ("fixmatch", "remop", "ssfer", "simmatch")
EVERY = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]
LOOK = {"comatch", "crpll", "lion", "pico", "pll_fer", "progressive_teacher", "scn", "simmatch"}  # at the epoch
RECIPES: list[ViewRecipe] = []


@torch.library.custom_op("ferbench_tests::planned", mutates_args=())
def one_kernel(images: Tensor, plan: Tensor, recipe: int) -> Tensor:
    """The views as one operation, as a GPU makes them; the CPU's own way looks at the plan."""
    return static_planned(images, plan, RECIPES[recipe])


static_planned = static.planned


class Recorded(TorchDispatchMode):
    """`Recorded()(body)` runs the body and gives its replay."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
            raise RuntimeError(f"{func.overloadpacket.__name__} is not permitted when the stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def __call__(self, body: Callable[[], None]) -> Callable[[], None]:
        self.calls = []
        with self:
            body()
        return lambda calls=self.calls: replay(calls)  # type: ignore[misc]


@torch.no_grad()
def replay(calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]]) -> None:
    for func, args, kwargs, result in calls:
        if func.is_view:
            continue
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        kept = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        again = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
        for old, new in zip(kept, again, strict=True):
            if old.untyped_storage()._cdata not in inputs:
                old.detach().copy_(new)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's way of doing steps, with the recorder for its graphs."""
    monkeypatch.setattr(graphed, "why_eager", lambda *args: "")
    monkeypatch.setattr(graphed, "CudaCapture", lambda device: Recorded())
    monkeypatch.setattr(graphed, "WORTH", 1)
    monkeypatch.setattr(feed, "LOG_EVERY", 4)

    def planned(images: Tensor, plan: Tensor, recipe: ViewRecipe) -> Tensor:
        if recipe not in RECIPES:
            RECIPES.append(recipe)
        made: Tensor = one_kernel(images, plan, RECIPES.index(recipe))
        return made

    def one_hot(labels: Tensor, classes: int) -> Tensor:
        empty = torch.zeros(*labels.shape, classes, dtype=torch.int64, device=labels.device)
        return empty.scatter_(-1, labels.unsqueeze(-1), 1)

    monkeypatch.setattr(static, "planned", planned)
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)  # the CPU's own looks at the labels; a GPU's does not


@pytest.mark.parametrize("method", EVERY)
def test_replays_end_where_the_plain_loop_ends(
    make_tiny_run: MakeRun, tmp_path: Path, ends_like_the_plain_loop: EndsLike, recorder: None, method: str
) -> None:
    """Warm-up, capture and proof leave no trace; methods that look at the epoch are captured in each."""
    run = make_tiny_run(method, epochs=3, steps_per_epoch=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = on_the_cpu(run, tmp_path)
    captures = 3 if method in LOOK else 1
    how = {"steps": "graph", "captures": captures, "difference": 0.0, "rounding": 0.0}
    assert record["execution"].items() >= how.items()
    ends_like_the_plain_loop(tmp_path, run)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"optimizer": "sgd", "momentum": 0.9, "clip": 1.0}, id="sgd"),
        pytest.param({"dtype": "bfloat16", "joint": True, "channel_order": "bgr"}, id="bfloat16"),
        pytest.param({"ema": 0.0, "evaluate": "student"}, id="no average"),
    ],
)
def test_other_recipes(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_like_the_plain_loop: EndsLike,
    recorder: None, changes: dict[str, Any],
) -> None:  # fmt: skip
    """Among them SGD (fused, as on a GPU), whose first step makes its momentum: it is there, empty."""
    plain_sgd = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **named: plain_sgd(*args, **{**named, "fused": True}))
    run = make_tiny_run("remop", epochs=2, **changes)
    assert on_the_cpu(run, tmp_path)["execution"]["steps"] == "graph"
    ends_like_the_plain_loop(tmp_path, run)


def test_stopped_and_gone_on_with(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_like_the_plain_loop: EndsLike,
    recorder: None,
) -> None:  # fmt: skip
    """Between two looks, inside an epoch; the second life captures before its first step."""
    run = make_tiny_run("fixmatch")
    original, calls = graphed.Steps.do, [0]

    def counted(self: graphed.Steps, *args: Any) -> None:
        calls[0] += 1
        if calls[0] == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    monkeypatch.setattr(graphed.Steps, "do", counted)
    with pytest.raises(Interrupted, match="stopped after step 7 of 15"):
        on_the_cpu(run, tmp_path)
    assert on_the_cpu(run, tmp_path)["execution"]["captures"] == 1
    ends_like_the_plain_loop(tmp_path, run)


def test_only_the_epoch_that_a_graph_was_captured_in_is_its_own(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_like_the_plain_loop: EndsLike,
    recorder: None,
) -> None:  # fmt: skip
    """Epochs too short to be captured anew run step by step."""
    monkeypatch.setattr(graphed, "WORTH", 6)
    run = make_tiny_run("simmatch")
    about = on_the_cpu(run, tmp_path)["execution"]
    assert (about["steps"], about["why"]) == (
        "one by one", "the method looks at the epoch, and one of 5 steps repays no capture",
    )  # fmt: skip
    ends_like_the_plain_loop(tmp_path, run)


def reads_a_number(self: Step) -> None:
    """A step whose loss follows a number that Python read: a graph would keep it as it was."""
    share = float(self.progress.fraction.numpy())
    original_add = Sums.add

    def scaled(sums: Sums, loss: Tensor, result: Any, truth: Any) -> None:
        with torch.no_grad():
            next(self.state.method.parameters()).mul_(1 - 0.01 * share)
        original_add(sums, loss, result, truth)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sums, "add", scaled)
        plain_body(self)


plain_body = Step.body


def test_a_step_that_is_not_static_does_not_pass_the_proof(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: None
) -> None:
    """One warning, the difference in the record, and the bits of steps done one by one."""
    monkeypatch.setattr(Step, "body", reads_a_number)
    run = make_tiny_run("fixmatch")
    with pytest.warns(UserWarning, match="a graph's steps differ from others by .* one by one from here on"):
        about = on_the_cpu(run, tmp_path / "graph")["execution"]
    assert about["steps"] == "one by one" and about["difference"] > 0 and about["rounding"] == 0.0
    monkeypatch.setattr(graphed, "why_eager", lambda *args: "no GPU")
    on_the_cpu(run, tmp_path / "eager")
    assert_same_weights(tmp_path / "graph", tmp_path / "eager")


def test_a_capture_that_fails_is_one_warning(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_like_the_plain_loop: EndsLike,
    recorder: None,
) -> None:  # fmt: skip
    run = make_tiny_run("fixmatch")

    def refuse(body: Callable[[], None]) -> Callable[[], None]:
        body()
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(graphed, "CudaCapture", lambda device: refuse)
    with pytest.warns(UserWarning, match="the capture failed: CUDA out of memory") as caught:
        about = on_the_cpu(run, tmp_path)["execution"]
    assert len(caught) == 1
    assert about["why"] == "the capture failed: CUDA out of memory."
    ends_like_the_plain_loop(tmp_path, run)


def test_without_a_gpu_or_a_wish_for_one(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    record = on_the_cpu(make_tiny_run(epochs=1), tmp_path / "auto")
    assert (record["execution"]["steps"], record["execution"]["why"]) == ("one by one", "no GPU")
    record = on_the_cpu(make_tiny_run(epochs=1), tmp_path / "off", mode=Mode(graph="off"))
    assert (record["execution"]["graph"], record["execution"]["why"]) == ("off", "--graph off")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu(make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """CUDA's own graphs pass their proof, and end as steps one by one do, up to rounding."""
    monkeypatch.setattr(graphed, "WORTH", 1)
    run, gpu = make_tiny_run(method, epochs=2, steps_per_epoch=4, optimizer="sgd", lr=1e-3), torch.device("cuda")
    about = train(run, tmp_path / "graph", device=gpu)["execution"]
    assert about["steps"] == "graph", about
    assert about["captures"] == (2 if method in LOOK else 1)
    train(run, tmp_path / "eager", device=gpu, mode=Mode(graph="off"))
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["method"] for name in ("graph", "eager")
    )
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_replay_waits_for_the_gpu(make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = graphed.Steps.do

    def watched(self: graphed.Steps, chunk: Any, place: int, epoch: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if self._replay else "default")
        original(self, chunk, place, epoch)
        torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(graphed.Steps, "do", watched)
    train(make_tiny_run("remop", epochs=1, steps_per_epoch=20), tmp_path, device=torch.device("cuda"))


def test_the_recorder_refuses_to_look_at_the_device() -> None:
    with pytest.raises(RuntimeError, match="not permitted when the stream is capturing"), Recorded():
        torch.ones(()).item()


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = (torch.load(folder / "checkpoint.pt", weights_only=True)["method"] for folder in (first, second))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
