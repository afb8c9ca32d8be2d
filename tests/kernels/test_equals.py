"""Ops that other libraries have by another name give the same number, where those libraries are installed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ferbench.kernels import info_nce


def views() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(32, 24, generator=generator), torch.randn(32, 24, generator=generator)


def test_info_nce_is_nt_xent_of_simclr() -> None:
    """Chen et al. 2020, Eq. 1: each of the 2 B views against its partner and all others but itself."""
    a, b = views()
    z = F.normalize(torch.cat([a, b]), dim=1).double()
    similar = z @ z.T / 0.2
    similar.fill_diagonal_(float("-inf"))
    partner = torch.arange(64).roll(32)
    expected = F.cross_entropy(similar, partner)
    torch.testing.assert_close(info_nce(a, b, temperature=0.2).double(), expected, rtol=1e-5, atol=1e-6)


def test_info_nce_is_pytorch_metric_learnings_nt_xent() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    a, b = views()
    theirs = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.07))(a, b)
    torch.testing.assert_close(info_nce(a, b, temperature=0.07), theirs, rtol=1e-5, atol=1e-5)


def test_info_nce_is_lightlys_nt_xent() -> None:
    ntx = pytest.importorskip("lightly.loss.ntx_ent_loss")
    a, b = views()
    torch.testing.assert_close(
        info_nce(a, b, temperature=0.07), ntx.NTXentLoss(temperature=0.07)(a, b), rtol=1e-5, atol=1e-5
    )
