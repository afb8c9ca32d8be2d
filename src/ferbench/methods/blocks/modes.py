"""Forward passes that leave no trace in the network, or no noise in the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch's own statistics, while the running ones stay as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracking = [module.track_running_stats for module in norms]
    training = [module.training for module in norms]
    for module, mode in zip(norms, training, strict=True):
        module.track_running_stats = module.track_running_stats and not mode
    try:
        yield
    finally:
        for module, track in zip(norms, tracking, strict=True):
            module.track_running_stats = track


@contextmanager
def no_dropout(model: nn.Module) -> Iterator[None]:
    """Passes that differ in their images alone."""
    active = [module for module in model.modules() if isinstance(module, _DropoutNd) and module.training]
    for module in active:
        module.training = False
    try:
        yield
    finally:
        for module in active:
            module.training = True
