"""A step on a copy of the network before the first one: batches and sizes that cannot work end in one line."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ferbench.bench.data.views.batches import Batches, Share
from ferbench.bench.training.recording import records
from ferbench.bench.training.state import Run
from ferbench.methods import Method, Progress


def dry_step(run: Run, method: Method, batches: Batches, share: Share) -> None:
    """Raise RunError where the first step's batch cannot go through the network; nothing of the run is touched.

    BatchNorm has no statistics of one value per channel, and a backbone may have no map left of a small input.
    """
    device = batches.store.device
    tried: nn.Module = copy.deepcopy(method).train()
    if share.world > 1 and device.type == "cuda":
        tried = nn.SyncBatchNorm.convert_sync_batchnorm(tried)  # type: ignore[no-untyped-call]
    progress = Progress(torch.zeros((), device=device), 0)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        labelled, unlabelled = batches.labelled(0), batches.unlabelled(0)
        try:
            tried.step(labelled, unlabelled, progress)  # type: ignore[operator]
        except (ValueError, RuntimeError, AssertionError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error):
                raise  # has words of its own
            recipe = run.recipe
            raise records.RunError(
                f"{run.method} on {recipe.backbone} cannot do a step with batch_size={recipe.batch_size}"
                f"{f' in {share.world} processes' if share.world > 1 else ''}, mu={recipe.mu} and "
                f"input_size={recipe.input_size}: {_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "more than 1 value per channel" in text:
        return "BatchNorm needs two values per channel; take a larger batch_size or input_size"
    return f"{text[:160]}; is the input too small for this backbone?"
