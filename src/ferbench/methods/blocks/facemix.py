"""FaceMix: Mixup on pairs of faces, with the two unmixed images weighted by how little the faces overlap.

SSFER (Song et al.), Eqs. 6-13. Image i of a batch of B is paired with image B - 1 - i, as in the released code; all
functions take and give the batch in its own order, the partner being `x.flip(0)`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.methods.register import MethodError

Rule = Literal["L1", "L2", "L3", "L4"]
Measure = Literal["iou", "psnr", "ssim", "fsim"]

BEST_PSNR = 50.0  # dB from which two images count as equal


def draw_ratio(beta: float, device: torch.device) -> Tensor:
    """lambda ~ Beta(beta, beta), 0-d, from torch's own random numbers, which the loop seeds at every step."""
    if beta == 1:
        return torch.rand((), device=device)
    shape = torch.full((2,), beta, device=device)
    return torch.distributions.Dirichlet(shape, validate_args=False).sample()[0]


def mix(values: Tensor, ratio: Tensor) -> Tensor:
    """Eq. 6: ratio * x_i + (1 - ratio) * x_j, for images [B, ...] or targets [B, K]."""
    return ratio * values + (1 - ratio) * values.flip(0)


def smoothed(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """One-hot targets [B, K] with `smoothing` of the mass spread over all classes."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Eq. 8: intersection over union [B] of boxes [B, 4] (x1, y1, x2, y2); 1 where both are empty."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    overlap = (high - low).clamp(min=0).prod(dim=1)
    union = (first[:, 2:] - first[:, :2]).prod(dim=1) + (second[:, 2:] - second[:, :2]).prod(dim=1) - overlap
    return torch.where(union > 0, overlap / union.clamp(min=torch.finfo(union.dtype).tiny), 1.0)


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB of images [B, 3, S, S] in [0, 1]."""
    return -10 * (first - second).square().mean(dim=(1, 2, 3)).log10()


def distance(images: Tensor, measure: Measure) -> Tensor:
    """kappa [B] of each image and its partner by their pixels: 1 - SSIM, 1 - FSIM, or 1 - PSNR / 50 dB, within [0, 1].

    images: [B, 3, S, S] in [0, 1]. How a PSNR becomes a weight is nowhere said; ours. SSIM and FSIM are piq's.
    """
    partner = images.flip(0)
    if measure == "psnr":
        return (1 - psnr(images, partner) / BEST_PSNR).clamp(0, 1)
    value: Tensor = getattr(quality(), measure)(images, partner, data_range=1.0, reduction="none")
    return (1 - value.reshape(len(images))).clamp(0, 1)


def quality() -> Any:
    """The optional package of image quality measures. Raises MethodError with what to install."""
    try:
        import piq
    except ImportError as error:
        raise MethodError("kappa=ssim and kappa=fsim need piq: pip install 'ferbench[quality]'") from error
    return piq


def weights(kappa: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Eqs. 10-13: what multiplies the mixed loss L_v, and the unmixed L_i + L_j."""
    one = torch.ones_like(kappa)
    return {
        "L1": (1 - kappa, one),  # Eq. 11
        "L2": (one, 1 - kappa),  # Eq. 12
        "L3": (kappa, one),  # Eq. 13
        "L4": (one, kappa),  # Eqs. 10 and 14
    }[rule]
