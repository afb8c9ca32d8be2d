"""ferbench: a benchmark harness for semi- and weakly-supervised facial expression recognition.

`ferbench.reproduce` and `ferbench.train` give records, `ferbench.leaderboard` the board as a DataFrame. They and what
they need are imported when they are first asked for: `import ferbench` alone, and the kernels and methods, cost and
need nothing of the harness.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferbench.bench.api import reproduce as reproduce
    from ferbench.bench.api import train as train
    from ferbench.bench.board.frame import leaderboard as leaderboard

__version__ = "0.1.0"

_PLACES = {
    "leaderboard": "ferbench.bench.board.frame",
    "reproduce": "ferbench.bench.api",
    "train": "ferbench.bench.api",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'ferbench' has no attribute '{name}'")
