"""One training step whose inputs lie at fixed places, so that it can be captured once and replayed.

`load` writes what the host decides for a step into the slots, `body` does the step: no value in it changes from step to
step but those in the slots and in the state. Where views need the host's help `load` makes them as well.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from ferbench.bench.data.views.batches import Batches
from ferbench.bench.data.views.static import StaticBatches
from ferbench.bench.training.state import State
from ferbench.bench.training.steps.feed import Chunk, Feed
from ferbench.methods import Labelled, Method, Progress, StepResult, Unlabelled


class Stepper(nn.Module):
    """A method's step as `forward`, which is what DistributedDataParallel wraps."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, labelled: Labelled, unlabelled: Unlabelled | None, progress: Progress) -> StepResult:
        return self.method.step(labelled, unlabelled, progress)


class Watched(Progress):
    """Progress that notes whether anybody looks at the epoch, which a captured step would go on seeing as it was."""

    now: int = 0
    looked: bool = False

    @property
    def epoch(self) -> int:
        self.looked = True
        return self.now


class Step:
    """A step of `state` on the batches that `feed` decides.

    static: batches whose views the body makes from the slots; None where `load` makes them.
    fixed: whether `load` copies such views into the memory of the first ones, for a body that is replayed.
    """

    fixed = False

    def __init__(
        self, state: State, stepper: nn.Module, batches: Batches, static: StaticBatches | None, feed: Feed, clip: float,
        precision: AbstractContextManager[object],
    ) -> None:  # fmt: skip
        self.state, self.stepper, self.batches, self.static = state, stepper, batches, static
        self.clip, self.precision = clip, precision
        device = batches.store.device
        self._generator = generator_of(device)
        self._row = torch.zeros(feed.layout.width, dtype=torch.uint8, device=device)
        self._slots = feed.layout.views(self._row)
        for group, rate in zip(state.optimizer.param_groups, self._slots["group rates"], strict=True):
            group["lr"] = rate
        self.progress = Watched(self._slots["fraction"], 0)
        self._made: tuple[Labelled, Unlabelled | None] | None = None

    def load(self, chunk: Chunk, place: int, epoch: int) -> None:
        """Everything the step at `place` of `chunk` needs from the host."""
        self._row.copy_(chunk.rows[place])
        self.progress.now = epoch
        if self.static is None:
            step = chunk.steps[place]
            made = self.batches.labelled(step), self.batches.unlabelled(step)
            if self.fixed and self._made:
                copy_batch(made[0], self._made[0])
                if made[1] and self._made[1]:
                    copy_batch(made[1], self._made[1])
            else:
                self._made = made
        self._generator.manual_seed(chunk.seeds[place])

    def inputs(self) -> tuple[Labelled, Unlabelled | None]:
        """The batches of the step that was loaded."""
        if self.static is None:
            assert self._made is not None
            return self._made
        return self.static.labelled(self._slots), self.static.unlabelled(self._slots)

    def body(self) -> None:
        """One step on what was loaded."""
        state, method = self.state, self.state.method
        labelled, unlabelled = self.inputs()
        with self.precision:
            result: StepResult = self.stepper(labelled, unlabelled, self.progress)
            loss = torch.stack(list(result.losses.values())).sum()
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clip > 0:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(method.parameters(), self.clip)
        method.after_backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        method.after_step(labelled, unlabelled)
        if state.average:
            state.average.update(self._slots["rate"])
        state.sums.add(loss, result, self.batches.truth(unlabelled) if unlabelled else None)


def generator_of(device: torch.device) -> torch.Generator:
    """The default generator of `device`, which dropout and other randomness within a step draw from."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def copy_batch(source: Labelled | Unlabelled, target: Labelled | Unlabelled) -> None:
    """Write one batch into the memory of another of the same shapes."""
    pairs = [(source.index, target.index), *((views, target.views[name]) for name, views in source.views.items())]
    if isinstance(source, Labelled) and isinstance(target, Labelled):
        pairs.append((source.labels, target.labels))
        if source.boxes is not None and target.boxes is not None:
            pairs += [(boxes, target.boxes[name]) for name, boxes in source.boxes.items()]
    for new, old in pairs:
        old.copy_(new)
