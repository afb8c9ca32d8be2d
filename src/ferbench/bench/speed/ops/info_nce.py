"""Speed case of the two-view contrast."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.bench.speed.ops.case import Case, Forward, Inputs
from ferbench.kernels import info_nce

TEMPERATURE = 0.07


class InfoNce(Case):
    """Both views as anchors (NT-Xent), forward and backward to both; the matrices of the largest sizes do not fit."""

    op = "info_nce"
    sizes = {
        "quick": {"N": 64, "D": 128},
        "paper": {"N": 64, "D": 128},
        "rows": {"N": 4096, "D": 128},
        "squared": {"N": 32_768, "D": 128},
        "large": {"N": 131_072, "D": 128},
    }
    inexact = 1e-3  # a cosine is within 1e-5 of the truth, and the softmax takes it over the temperature
    waits = frozenset({"lightly"})

    def inputs(self, size: dict[str, int], device: torch.device) -> Inputs:
        a = torch.randn(size["N"], size["D"], device=device)
        b = a + torch.randn_like(a)
        return [a.requires_grad_(), b.requires_grad_()]

    def ours(self, a: Tensor, b: Tensor) -> Sequence[Tensor]:
        return [info_nce(a, b, temperature=TEMPERATURE)]

    def eager(self, a: Tensor, b: Tensor) -> Sequence[Tensor]:
        rows = F.normalize(torch.cat((a, b)), dim=1)
        logits = (rows / TEMPERATURE @ rows.T).fill_diagonal_(-torch.inf)
        return [F.cross_entropy(logits, torch.arange(2 * len(a), device=a.device).roll(len(a)))]

    def others(self) -> dict[str, Forward]:
        forms: dict[str, Forward] = {"released": released}
        if importlib.util.find_spec("lightly"):
            from lightly.loss import NTXentLoss

            forms["lightly"] = lambda a, b: [NTXentLoss(temperature=TEMPERATURE)(a, b)]
        return forms


def released(a: Tensor, b: Tensor) -> Sequence[Tensor]:
    """The computation of Ada-CM's code: one similarity of four blocks, and a matrix each for the positives, for what
    is not the anchor itself, and for the log-probability of every pair."""
    rows = F.normalize(torch.cat((a, b)), dim=1)
    similarity = rows @ rows.T / TEMPERATURE
    logits = similarity - similarity.max(1, keepdim=True).values.detach()
    others = 1.0 - torch.eye(len(rows), device=rows.device)
    positives = torch.eye(len(a), device=rows.device).repeat(2, 2) * others
    log_probability = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return [-((positives * log_probability).sum(1) / positives.sum(1)).mean()]
