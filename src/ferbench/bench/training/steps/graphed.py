"""Steps as replays of one CUDA graph, where that is possible; else one by one.

A graph holds every kernel of `Step.body` with the addresses it reads, so that a replay costs the host one launch. It is
captured after throw-away steps that leave no trace, and again for each epoch where the method looks at the epoch. After
each capture it proves itself: replays are held against the body from the same state and seeds. What cannot be captured,
or does not prove itself, runs step by step, and the record says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ferbench.bench.data.views.batches import Batches
from ferbench.bench.data.views.static import StaticBatches, why_not
from ferbench.bench.training.state import Run, State
from ferbench.bench.training.steps.feed import Chunk, Feed
from ferbench.bench.training.steps.mode import Mode, autocast, why_eager
from ferbench.bench.training.steps.step import Step

Body = Callable[[], None]
Capture = Callable[[Body], Body]

WARM_UP = 3  # steps before a capture: what is made at first use (optimiser state, tables, plans of libraries) is there
WORTH = 200  # steps of an epoch from which on a capture in each epoch costs little
AS_TWO_RUNS = 2.0  # a replay may differ from a step by this times what two steps from the same state differ by


class Steps:
    """Does the steps of a run.

    eager: why there can be no graph; empty where there can.
    capture: turns the body into its replay; None for the device's own way.
    """

    def __init__(
        self, step: Step, feed: Feed, mode: Mode, eager: str, per_epoch: int, capture: Capture | None = None
    ) -> None:
        self.step, self.feed, self._per_epoch = step, feed, per_epoch
        self._capture = capture or CudaCapture(step.batches.store.device)
        self._why = "--graph off" if mode.graph == "off" else eager  # why no graph; empty where there is one
        self._replay: Body | None = None
        self._held_for: int | None = None  # the only epoch the graph is right in; None: it is right in all
        self._about: dict[str, Any] = {"captures": 0}
        step.fixed = not self._why

    def do(self, chunk: Chunk, place: int, epoch: int) -> None:
        """The step at `place` of `chunk`."""
        if not self._why and (self._replay is None or self._held_for not in (None, epoch)):
            self._make(chunk, place, epoch)
        self.step.load(chunk, place, epoch)
        (self._replay or self.step.body)()

    def about(self) -> dict[str, Any]:
        """For the record: how steps were done since the process began, and why not as a graph where they were not."""
        how = {"steps": "one by one", "why": self._why} if self._why else {"steps": "graph"}
        return how | (self._about if self._about["captures"] else {})

    def _make(self, chunk: Chunk, place: int, epoch: int) -> None:
        """Capture the step, or note why there is no graph from here on."""
        self._replay = None  # gives its memory back first
        try:
            self.step.load(chunk, place, epoch)
            with untouched(self.step):
                on_a_side_stream(self.step.body, WARM_UP)
                self.step.progress.looked = False
                replay = self._capture(self.step.body)
            looked = self.step.progress.looked
            if looked and self._per_epoch < WORTH:
                self._give_up(f"the method looks at the epoch, and one of {self._per_epoch} steps repays no capture")
                return
            self._about["captures"] += 1
            self._prove(replay, chunk.steps[place], epoch)
        except RuntimeError as error:  # torch's, out of memory as well
            self._give_up(f"the capture failed: {next(iter(str(error).splitlines()), type(error).__name__)}", warn=True)
            return
        if not self._why:
            self._replay, self._held_for = replay, epoch if looked else None

    def _prove(self, replay: Body, step: int, epoch: int) -> None:
        """Hold replays against the body on steps far apart, whose rates, indices and seeds differ."""
        last = self.feed.total - 1
        probes = self.feed.of([step, (step + last) // 2, last])
        start = [tensor.clone() for tensor in state_of(self.step)]
        ends = [self._end(body, probes, epoch) for body in (self.step.body, self.step.body, replay)]
        rounding, difference = (distance(end, ends[0], start) for end in ends[1:])
        self._about |= {"difference": difference, "rounding": rounding}
        if not difference <= AS_TWO_RUNS * rounding:
            apart = f"{difference:.3g} of the way they go, where two runs differ by {rounding:.3g}"
            self._give_up(f"a graph's steps differ from others by {apart}", warn=True)

    def _end(self, body: Body, probes: Chunk, epoch: int) -> list[Tensor]:
        """The state that the probes' steps lead to; the state itself is put back."""
        with untouched(self.step):
            for place in range(len(probes.steps)):
                self.step.load(probes, place, epoch)
                body()
            return [tensor.clone() for tensor in state_of(self.step)]

    def _give_up(self, why: str, *, warn: bool = False) -> None:
        self._why, self.step.fixed = why, False
        if warn:
            warnings.warn(f"{why}; steps are done one by one from here on", stacklevel=2)


def make_steps(run: Run, state: State, stepper: nn.Module, batches: Batches, mode: Mode) -> Steps:
    """The steps of `run` from `state`; stepper: the method's step as a module."""
    recipe, share, device = run.recipe, batches.share, batches.store.device
    static = None if why_not(batches) else StaticBatches(batches)
    rates = [group["base_lr"] for group in state.optimizer.param_groups]
    feed = Feed(recipe, run.seed, rates, static, share, device)
    step = Step(state, stepper, batches, static, feed, recipe.clip, autocast(recipe, device))
    return Steps(step, feed, mode, why_eager(recipe, device, share.world), recipe.steps_per_epoch)


class CudaCapture:
    """Captures with torch's CUDA graphs; all graphs of a run share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __call__(self, body: Body) -> Body:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            body()
        return graph.replay


def on_a_side_stream(body: Body, times: int) -> None:
    """Run `body` beside the current stream, as capture wants it; on the CPU just run it."""
    if not torch.cuda.is_available():
        for _ in range(times):
            body()
        return
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(times):
            body()
    torch.cuda.current_stream().wait_stream(side)


def state_of(step: Step) -> list[Tensor]:
    """Every tensor that a step changes, in a fixed order."""
    state = step.state
    modules = [state.method, *([state.average.method] if state.average else [])]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    for values in state.optimizer.state.values():
        tensors += [value for value in values.values() if isinstance(value, Tensor)]
    if state.sums.values is not None:
        tensors.append(state.sums.values)
    return [tensor.detach() for tensor in tensors]


@contextmanager
def untouched(step: Step) -> Iterator[None]:
    """Put the state back as it was; what was made in between (optimiser state, sums) is left empty."""
    before = {tensor.data_ptr(): tensor.clone() for tensor in state_of(step)}
    fresh = step.state.sums.values is None
    try:
        yield
    finally:
        for tensor in state_of(step):
            kept = before.get(tensor.data_ptr())
            if kept is not None:
                tensor.copy_(kept)
            else:
                tensor.zero_()
        if fresh:
            step.state.sums.clear()


def distance(end: Sequence[Tensor], other: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """How far two states are apart, as a share of how far the second is from the start; 0 where they agree."""

    def between(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        squares = [(a.double() - b.double()).square().sum() for a, b in zip(first, second, strict=True)]
        return torch.stack(squares).sum().sqrt()

    apart, way = torch.stack([between(end, other), between(other, start)]).tolist()
    return float(apart / way) if apart else 0.0
