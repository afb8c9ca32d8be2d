"""How does an encoder learn from faces without labels? Masked images and contrast, and their loop.

Start with `objective.py`, what a pre-training task is; `mae.py` is one, `pretrain.py` the loop, `command.py` what
`ferbench pretrain` does. The objectives by name stand below.
"""

from __future__ import annotations

from ferbench.bench.pretraining.mae import MAE
from ferbench.bench.pretraining.maskfeat import MaskFeat
from ferbench.bench.pretraining.moco import MoCo
from ferbench.bench.pretraining.objective import Masked, Objective
from ferbench.bench.pretraining.simmim import SimMIM

__all__ = ["MAE", "MaskFeat", "Masked", "MoCo", "OBJECTIVES", "Objective", "SimMIM"]

OBJECTIVES: dict[str, type[Objective]] = {"mae": MAE, "maskfeat": MaskFeat, "simmim": SimMIM, "moco": MoCo}
