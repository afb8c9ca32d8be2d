"""Pre-training of encoders without labels: the objectives by name."""

from __future__ import annotations

from ferbench.bench.masked.mae import MAE
from ferbench.bench.masked.objective import Masked, Objective

__all__ = ["MAE", "Masked", "OBJECTIVES", "Objective"]

OBJECTIVES: dict[str, type[Objective]] = {"mae": MAE}
