"""Pre-training of encoders without labels: the objectives by name."""

from __future__ import annotations

from ferbench.bench.masked.mae import MAE
from ferbench.bench.masked.maskfeat import MaskFeat
from ferbench.bench.masked.moco import MoCo
from ferbench.bench.masked.objective import Masked, Objective
from ferbench.bench.masked.simmim import SimMIM

__all__ = ["MAE", "MaskFeat", "Masked", "MoCo", "OBJECTIVES", "Objective", "SimMIM"]

OBJECTIVES: dict[str, type[Objective]] = {"mae": MAE, "maskfeat": MaskFeat, "simmim": SimMIM, "moco": MoCo}
