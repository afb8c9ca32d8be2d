"""Layer-wise learning rates: a layer nearer to the input learns more slowly (ELECTRA, BEiT, MAE's fine-tuning).

With n blocks the embeddings are layer 0, block i is layer i + 1, and what follows (last normalisation, head, a method's
own parts) is layer n + 1; layer l has the rate lr * decay^(n + 1 - l).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from ferbench.bench.training.recording.records import RunError

EMBEDDINGS = re.compile(r"\.encoder\.(cls_token|pos_embed|reg_token|patch_embed\.)")
BLOCK = re.compile(r"\.encoder\.blocks\.(\d+)\.")


def split_by_layer(groups: Sequence[dict[str, Any]], method: nn.Module, decay: float) -> list[dict[str, Any]]:
    """`groups` with each one's parameters parted by layer and the rate `lr` scaled; raises RunError for no transformer.

    groups: optimiser groups with `params` and `lr`, of `method`'s parameters.
    """
    if decay == 1:
        return list(groups)
    names = {id(parameter): f".{name}" for name, parameter in method.named_parameters()}
    blocks = [int(found[1]) for name in names.values() if (found := BLOCK.search(name))]
    if not blocks:
        raise RunError(f"layer_decay={decay} needs a backbone of transformer blocks; set layer_decay=1")
    top = max(blocks) + 2
    parted: list[dict[str, Any]] = []
    for group in groups:
        by_layer: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_layer.setdefault(_layer(names[id(parameter)], top), []).append(parameter)
        for layer, parameters in sorted(by_layer.items()):
            parted.append({**group, "params": parameters, "lr": group["lr"] * decay ** (top - layer)})
    return parted


def _layer(name: str, top: int) -> int:
    if EMBEDDINGS.search(name):
        return 0
    found = BLOCK.search(name)
    return int(found[1]) + 1 if found else top
