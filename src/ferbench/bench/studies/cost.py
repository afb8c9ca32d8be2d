"""What a prediction costs: parameters and multiply-adds of one image (SSFER, Table 6).

The paper's tool counts layer by layer. Its parameters are the layers' own: position tables and class tokens, which a
transformer has besides its layers, fit into none of its figures (ViT-Base 85.65 M without, 85.80 M with them, printed
85.7). Its "FLOPs" are multiply-adds of the layers: torch's counter counts a multiply-add as two operations, and the
products of queries, keys and values, which counters of layers leave out, are a figure of their own here. So counted,
six of its ten networks have the printed multiply-adds, and four a last digit less: VGG13 11.30 where 11.4 is printed,
ViT-Small 4.24 (4.3), ViT-Base 16.85 (16.9), ViT-Large 59.65 (59.7); what its tool counts besides is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ferbench.bench.tables.counting.finished import FinishedRun
from ferbench.bench.training.networks.backbones import make_classifier

ATTENTION = ("bmm", "baddbmm", "scaled_dot_product")  # operators without weights of their own


@dataclass(frozen=True)
class Cost:
    """parameters: of the modules a prediction passes through, in_layers those of them that are a layer's own, not a
    table or token that the network adds by itself; layers, attention: multiply-adds for one image."""

    parameters: int
    in_layers: int
    layers: int
    attention: int

    def metrics(self) -> dict[str, float]:
        """As Table 6 has them: millions of the layers' parameters, 10^9 multiply-adds of the layers."""
        return {"params": self.in_layers / 1e6, "flops": self.layers / 1e9}


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
    of_layers: dict[int, int] = {}

    def note(called: nn.Module, *_: Any) -> None:
        sizes = {id(parameter): parameter.numel() for parameter in called.parameters()}
        passed.update(sizes)
        if all(next(part.parameters(), None) is None for part in called.children()):  # an activation may be inside
            of_layers.update(sizes)

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
    in_layers = sum(of_layers.values())
    return Cost(sum(passed.values()), in_layers, (sum(operations.values()) - attention) // 2, attention // 2)
