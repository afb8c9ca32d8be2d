"""The encoder's features of test images, picked up from the passes that score them: they cost none of their own.

Kept in float16: they are for plots.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ferbench.bench.training.networks.backbones import Classifier
from ferbench.methods import Prediction


class Passed:
    """`Prediction.encoded` of every pass through the first classifier that is called."""

    def __init__(self) -> None:
        self._by_model: dict[int, list[Tensor]] = {}

    def __call__(self, model: nn.Module, images: Any, prediction: Prediction) -> None:
        """The hook: keep a batch's features [B, D]."""
        most = torch.finfo(torch.float16).max
        kept = prediction.encoded.detach().float().clamp(-most, most).half().cpu()
        self._by_model.setdefault(id(model), []).append(kept)

    def array(self, images: int) -> NDArray[np.float16] | None:
        """[images, D], or None where the method's passes were not one of each image through one classifier."""
        if not self._by_model:
            return None
        features = torch.cat(next(iter(self._by_model.values())))
        return features.numpy() if len(features) == images else None


@contextmanager
def passed_features(method: nn.Module) -> Iterator[Passed]:
    """Within it the passes through the method's classifiers are noted."""
    passed = Passed()
    hooks = [module.register_forward_hook(passed) for module in method.modules() if isinstance(module, Classifier)]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()
