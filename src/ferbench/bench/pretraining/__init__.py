"""Pre-training of encoders without labels: the objectives by name."""

from __future__ import annotations

from ferbench.bench.pretraining.mae import MAE
from ferbench.bench.pretraining.maskfeat import MaskFeat
from ferbench.bench.pretraining.moco import MoCo
from ferbench.bench.pretraining.objective import Masked, Objective
from ferbench.bench.pretraining.simmim import SimMIM

__all__ = ["MAE", "MaskFeat", "Masked", "MoCo", "OBJECTIVES", "Objective", "SimMIM"]

OBJECTIVES: dict[str, type[Objective]] = {"mae": MAE, "maskfeat": MaskFeat, "simmim": SimMIM, "moco": MoCo}
