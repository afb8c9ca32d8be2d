"""Triton ops for semi- and weakly-supervised expression recognition, each beside its plain-torch reference.

Every op takes `impl="auto" | "triton" | "reference"`: "auto" runs Triton on CUDA tensors and the reference elsewhere.
Shapes are static and nothing waits for the device, so a training step can be captured in one CUDA graph.
"""

from ferbench.kernels.ambiguous.op import ambiguous_loss
from ferbench.kernels.augmentation.op import augment
from ferbench.kernels.center_etf.op import center_etf_loss
from ferbench.kernels.center_etf.reference import Rows
from ferbench.kernels.contrast.op import info_nce
from ferbench.kernels.dispatch import Impl
from ferbench.kernels.ema.op import MovingAverage, ema_update
from ferbench.kernels.gate.op import mix_experts, topk_gate
from ferbench.kernels.head.op import consistency_head
from ferbench.kernels.head.reference import Head
from ferbench.kernels.pseudo.op import pseudo_counts, pseudo_label

__all__ = [
    "Head",
    "Impl",
    "MovingAverage",
    "Rows",
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
