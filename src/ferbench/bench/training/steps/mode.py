"""How a GPU is used, which is no part of what a run is: the same recipe, seed and results up to rounding."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch

from ferbench.errors import UserError
from ferbench.methods import Method, PlugIn
from ferbench.protocols import Recipe
from ferbench.validation import unknown

GRAPHS = ("auto", "off")
COMPILED = ("off", "network")


class ModeError(UserError):
    """A way of using a GPU that there is not."""


@dataclass(frozen=True)
class Mode:
    """graph: whether a GPU may replay the step as one CUDA graph.

    deterministic: only algorithms that give the same bits each time, which are slower.
    compile: "network" lets torch.compile rewrite the network, which takes minutes at first.
    """

    graph: Literal["auto", "off"] = "auto"
    deterministic: bool = False
    compile: Literal["off", "network"] = "off"

    @classmethod
    def asked(cls) -> Mode:
        """What `ask_mode` was told last, else the defaults."""
        return _asked

    def begin(self) -> None:
        """Set what holds for the whole process; before the first use of a GPU."""
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.deterministic = True
            torch.use_deterministic_algorithms(True, warn_only=True)

    def about(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


_asked = Mode()


def ask_mode(graph: str = "auto", deterministic: bool = False, compiled: str = "off") -> None:
    """Use GPUs so for every run from now on. Raises ModeError for a word that is none."""
    global _asked
    for flag, value, valid in (("--graph", graph, GRAPHS), ("--compile", compiled, COMPILED)):
        if value not in valid:
            raise ModeError(unknown("value", value, valid, flag))
    _asked = Mode(cast(Any, graph), deterministic, cast(Any, compiled))


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
