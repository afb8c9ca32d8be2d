"""The ways there are of doing a training step, for `speed.step` to time: each does step number t when it is called."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.randomness import derive, generator
from ferbench.bench.data.splits.draw import make_split
from ferbench.bench.data.views.augment import draw, make_plan, planned
from ferbench.bench.data.views.batches import Share, Stream
from ferbench.bench.training import schedule
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.state import Run, State, make_batches, make_state
from ferbench.bench.training.steps.graphed import Steps, make_steps
from ferbench.bench.training.steps.mode import Mode, autocast
from ferbench.bench.training.steps.step import Stepper
from ferbench.methods import Labelled, Progress, Unlabelled, Variant, option_values
from ferbench.protocols import Recipe

CLASSES = tuple("abcdefg")
Way = Callable[[int], None]


def faces(side: int, channels: int, images: int = 1400) -> FaceSet:
    """Random images of seven classes, six of seven for training."""
    rng = np.random.default_rng(0)
    labels = np.arange(images, dtype=np.int64) % len(CLASSES)
    index, cut = np.arange(images, dtype=np.int64), images * 6 // 7
    return FaceSet(
        "random", CLASSES, rng.integers(0, 256, (images, side, side, channels), np.uint8), labels,
        (index >= cut).astype(np.int8) * 2, np.array([f"{i:06d}" for i in index]), index[:cut], index[cut:], {}, "",
    )  # fmt: skip


def make_run(method: str, recipe: Recipe, stored: tuple[int, int], variant: Variant = "paper", seed: int = 1) -> Run:
    """A run on random images, a quarter of them labelled."""
    data = faces(*stored)
    joint = {"joint": True} if variant == "released" and "joint" in option_values(method, variant, {}) else {}
    values = option_values(method, variant, joint)
    return Run({}, method, values, recipe, seed, data, make_split(data, "fraction", {"fraction": 0.25}, seed), data)


def plain(run: Run, device: torch.device) -> tuple[Way, State]:
    """The loop before steps were static: drawn, sent and logged one by one."""
    recipe = run.recipe
    state = make_state(run, device, Silent())
    batches, precision = make_batches(run, state.method, device, Share()), autocast(recipe, device)
    total, fraction = recipe.epochs * recipe.steps_per_epoch, torch.zeros((), device=device)
    state.method.train()
    sums: dict[str, torch.Tensor] = {}

    def step(number: int) -> None:
        torch.manual_seed(derive(run.seed, "network", number))
        factor = schedule.factor(recipe, number)
        for group in state.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        labelled, unlabelled = batches.labelled(number), batches.unlabelled(number)
        with precision:
            result = state.method.step(labelled, unlabelled, Progress(fraction.fill_(number / total), 0))
            loss = torch.stack(list(result.losses.values())).sum()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip > 0:
            nn.utils.clip_grad_norm_(state.method.parameters(), recipe.clip)
        state.method.after_backward()
        state.optimizer.step()
        state.method.after_step(labelled, unlabelled)
        if state.average:
            state.average.update(recipe.lr * factor)
        with torch.no_grad():
            terms = {"steps": torch.ones_like(loss), "loss": loss, **result.losses, **(result.figures or {})}
            if result.pseudo is not None and unlabelled is not None:
                truth = batches.truth(unlabelled)
                known, correct, keep = truth >= 0, result.pseudo.label == truth, result.pseudo.keep
                counts = {"all": torch.ones_like(keep), "kept": keep, "known": known, "both": keep & known}
                counts |= {"correct": correct & known, "right": correct & keep & known}
                terms |= {name: value.sum() for name, value in counts.items()}
            for name, value in terms.items():
                sums[name] = sums[name] + value.detach().float() if name in sums else value.detach().float().clone()

    return step, state


def static(run: Run, device: torch.device, mode: Mode) -> tuple[Way, Steps]:
    """The loop's own steps, one by one or as a graph."""
    state = make_state(run, device, Silent())
    batches = make_batches(run, state.method, device, Share())
    steps = make_steps(run, state, Stepper(state.method), batches, mode)
    state.method.train()
    held: list[Any] = []

    def step(number: int) -> None:
        if not held or number not in held[0].steps:
            held[:] = [steps.feed.chunk(number)]
        steps.do(held[0], number - held[0].steps[0], 0)

    return step, steps


def authors(run: Run, device: torch.device) -> Way:
    """The shape of the released codes' step: PIL per image and view, a pass per batch, waits and loops over tensors."""
    recipe = run.recipe
    state = make_state(run, device, Silent())
    batches = make_batches(run, state.method, device, Share())
    files = [_png(image) for image in run.faces.images]
    average = {name: value.clone() for name, value in state.method.state_dict().items() if value.is_floating_point()}
    total = recipe.epochs * recipe.steps_per_epoch
    state.method.train()

    def views(stream: Stream, names: tuple[Any, ...], number: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        index, made = stream.at(number), {}
        for name in names:
            rows = []
            for place, i in enumerate(index.tolist()):
                image = torch.from_numpy(np.asarray(Image.open(io.BytesIO(files[i]))).copy())
                image = image.view(1, *run.faces.images.shape[1:])
                params = draw(name, 1, batches.recipe, generator(number, name, place))
                plan = make_plan(params, 1, image.shape[1], image.shape[2], batches.recipe)  # type: ignore[arg-type]
                rows.append(planned(image, plan, batches.recipe))
            made[name] = torch.cat(rows).to(device)
        return index.to(device), made

    def step(number: int) -> None:
        index, made = views(batches.labelled_stream, batches.views.labelled, number)
        labelled, unlabelled = Labelled(made, batches.store.labels[index], index), None
        if batches.unlabelled_stream:
            other, made = views(batches.unlabelled_stream, batches.views.unlabelled, number)
            unlabelled = Unlabelled(made, other)
        result = state.method.step(labelled, unlabelled, Progress(torch.tensor(number / total, device=device), 0))
        loss = torch.stack(list(result.losses.values())).sum()
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.method.after_step(labelled, unlabelled)
        with torch.no_grad():
            for name, value in state.method.state_dict().items():
                if name in average:
                    average[name].mul_(0.999).add_(value, alpha=0.001)
        _ = [value.item() for value in (loss, *result.losses.values(), *(result.pseudo or ())[:0])]

    return step


def _png(image: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "png")
    return file.getvalue()
