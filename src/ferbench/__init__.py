"""ferbench: a benchmark harness for semi- and weakly-supervised facial expression recognition.

`ferbench.leaderboard(results)` is the board as a DataFrame. It and what it needs are imported when it is first asked
for: `import ferbench` alone, and the kernels and methods, cost and need nothing of the harness.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferbench.bench.board.frame import leaderboard as leaderboard

__version__ = "0.1.0"

_PLACES = {"leaderboard": "ferbench.bench.board.frame"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'ferbench' has no attribute '{name}'")
