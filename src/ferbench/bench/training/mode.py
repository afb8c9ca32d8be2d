"""How a GPU is used, which is no part of what a run is: the same recipe, seed and results up to rounding."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from ferbench.methods import Method, PlugIn
from ferbench.protocols import Recipe

GRAPHS = ("auto", "off")
COMPILED = ("off", "network")


@dataclass(frozen=True)
class Mode:
    """graph: whether a GPU may replay the step as one CUDA graph.

    deterministic: only algorithms that give the same bits each time, which are slower.
    compile: "network" lets torch.compile rewrite the network, which takes minutes at first.
    """

    graph: Literal["auto", "off"] = field(default="auto", metadata={"choices": GRAPHS})
    deterministic: bool = False
    compile: Literal["off", "network"] = field(default="off", metadata={"choices": COMPILED})

    def begin(self) -> None:
        """Set what holds for the whole process; before the first use of a GPU."""
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.deterministic = True
            torch.use_deterministic_algorithms(True, warn_only=True)

    def about(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision as the recipe says."""
    if recipe.dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.dtype))


def why_eager(recipe: Recipe, device: torch.device, processes: int) -> str:
    """Why steps are done one by one; empty where they may be a graph's."""
    if device.type != "cuda":
        return "no GPU"
    if processes > 1:
        return f"{processes} processes"
    return "float16 scales its losses with the host's help" if recipe.dtype == "float16" else ""


def compile_network(method: Method) -> None:
    """Let torch.compile rewrite the network's forward pass, and with it the backward one."""
    owner = method.learner if isinstance(method, PlugIn) else method
    owner.get_submodule("model").compile()
