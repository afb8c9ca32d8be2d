"""How long a pre-training run will take, from some of its own steps done and thrown away."""

from __future__ import annotations

import time

import torch

from ferbench.bench.data.views.batches import Share
from ferbench.bench.pretraining.pretrain import Step
from ferbench.bench.pretraining.state import Pretraining, make_state
from ferbench.bench.tables.planning.measured import duration

WARM_UP, MEASURED = 3, 10  # steps


def seconds_a_step(run: Pretraining, device: torch.device, parts: int) -> float:
    """Of wall time, batches included, as the loop does them. Writes nothing. Raises what the loop raises."""
    state = make_state(run, device)
    step = Step(run, state, device, Share(), parts)
    state.objective.train()
    started = 0.0
    for number, (views, noise) in enumerate(step.batches(0, WARM_UP + MEASURED)):
        if number == WARM_UP:
            _wait(device)
            started = time.perf_counter()
        step.do(views, noise, run.settings.lr, 0.0)
    _wait(device)
    return (time.perf_counter() - started) / MEASURED


def plan(run: Pretraining, device: torch.device, parts: int = 1) -> str:
    """One line: what a step, an epoch and all of them take on this device."""
    seconds, settings = seconds_a_step(run, device, parts), run.settings
    epoch = seconds * settings.steps_per_epoch / 3600
    images = settings.batch_size * settings.steps_per_epoch
    whole = duration(epoch * settings.epochs)
    precision = f"{settings.dtype}, float32 products {torch.get_float32_matmul_precision()}"
    return (
        f"{1e3 * seconds:.0f} ms a step of {settings.batch_size} images, the mean of {MEASURED} ({precision}): "
        f"an epoch of {images:,} images {duration(epoch)}, {settings.epochs} of them {whole}"
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
