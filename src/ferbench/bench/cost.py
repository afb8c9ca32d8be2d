"""What a prediction costs: parameters and multiply-adds of one image (SSFER, Table 6).

The paper's "FLOPs" are multiply-adds of the layers: torch's counter counts a multiply-add as two operations, and the
products of queries, keys and values, which the usual counters of layers leave out, are a figure of their own here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ferbench.bench.backbones import make_classifier
from ferbench.bench.finished import FinishedRun

ATTENTION = ("bmm", "baddbmm", "scaled_dot_product")  # operators without weights of their own


@dataclass(frozen=True)
class Cost:
    """parameters: of the modules a prediction passes through; layers, attention: multiply-adds for one image."""

    parameters: int
    layers: int
    attention: int

    def metrics(self) -> dict[str, float]:
        """As Table 6 has them: millions of parameters, 10^9 multiply-adds of the layers."""
        return {"params": self.parameters / 1e6, "flops": self.layers / 1e9}


def backbone_cost(name: str, size: int, classes: int = 7) -> Cost:
    """Of a backbone with a linear head on images of `size` pixels, without memory for either. Raises WeightsError."""
    with torch.device("meta"):
        model = make_classifier(name, classes, size=size, dropout=0.0).eval()
        return _count(model, model, torch.empty(1, 3, size, size))


def run_cost(run: FinishedRun) -> Cost:
    """Of the prediction of a finished run's method."""
    size, device = run.recipe.input_size, next(run.method.parameters()).device
    return _count(run.method, run.method.predict, torch.zeros(1, 3, size, size, device=device))


@torch.no_grad()
def _count(module: nn.Module, predict: Callable[[Tensor], Any], image: Tensor) -> Cost:
    passed: dict[int, int] = {}  # id of a parameter to its size

    def note(called: nn.Module, *_: Any) -> None:
        passed.update((id(parameter), parameter.numel()) for parameter in called.parameters())

    module.requires_grad_(False)  # torch's counter follows gradients of what a module is called with
    hooks = [part.register_forward_hook(note) for part in module.modules()]
    try:
        with FlopCounterMode(display=False) as counter:
            predict(image)
    finally:
        for hook in hooks:
            hook.remove()
    operations: Mapping[Any, int] = counter.get_flop_counts()["Global"]
    attention = sum(count for operator, count in operations.items() if any(name in str(operator) for name in ATTENTION))
    return Cost(sum(passed.values()), (sum(operations.values()) - attention) // 2, attention // 2)
