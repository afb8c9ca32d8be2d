"""The plain-torch truth of every op, under the op's own name: written for reading, float64-capable, differentiable."""

from ferbench.kernels.ambiguous.reference import ambiguous_loss
from ferbench.kernels.augmentation.reference import augment
from ferbench.kernels.center_etf.reference import center_etf_loss
from ferbench.kernels.contrast.reference import info_nce
from ferbench.kernels.ema.reference import ema_update
from ferbench.kernels.gate.reference import mix_experts, topk_gate
from ferbench.kernels.head.reference import consistency_head
from ferbench.kernels.pseudo.reference import pseudo_counts, pseudo_label

__all__ = [
    "ambiguous_loss",
    "augment",
    "center_etf_loss",
    "consistency_head",
    "ema_update",
    "info_nce",
    "mix_experts",
    "pseudo_counts",
    "pseudo_label",
    "topk_gate",
]
