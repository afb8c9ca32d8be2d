"""Reductions over a batch, also one that two processes share."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn import functional as F

from ferbench.kernels import center_etf_loss
from ferbench.methods.blocks.reduce import Reduction, gather_rows, kept_count, processes, reduce

MASKS = {
    "both processes": [True, True, False, True, False, True],
    "one process": [True, False, True, False, False, False],
    "one image": [False, True, False, False, False, False],
    "none": [False] * 6,
    "all": [True] * 6,
}


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 7.0 / 4), ("sum", 7.0)])
def test_reduce_counts_masked_out_zeros(reduction: Reduction, expected: float) -> None:
    assert reduce(torch.tensor([1.0, 0.0, 6.0, 0.0]), reduction).item() == expected


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_kept_count_of_one_process(mask: list[bool]) -> None:
    count = kept_count(torch.tensor(mask))
    assert (count.shape, count.dtype, count.requires_grad) == ((), torch.float32, False)
    assert count.item() == max(sum(mask), 1)


def _data() -> tuple[Tensor, Tensor, Tensor]:
    """Features [6, 3], labels [6], centres [4, 3]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, generator=generator), torch.arange(6) % 4, torch.randn(4, 3, generator=generator)


def _gradients(rows: slice, mask: list[bool], reduction: Reduction) -> dict[str, Tensor]:
    """Of a cross-entropy, a masked centre loss and a comparison of all rows, over `rows`: to features and centres."""
    features, labels, centers = _data()
    features, centers = features[rows].requires_grad_(), centers.requires_grad_()
    kept = torch.tensor(mask)[rows]
    center = center_etf_loss(features, labels[rows], centers, mask=kept, divisor=1.0)[0]
    entropy = F.cross_entropy(features @ centers.T, labels[rows], reduction="none") * kept
    loss = reduce(entropy, reduction) + (center / kept_count(kept) if reduction == "mean" else center * processes())
    loss = loss + (gather_rows(features) @ gather_rows(features * 2).T).sigmoid().sum()
    names = {"features": features, "centers": centers}
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


CASES: list[tuple[str, Reduction]] = [(name, reduction) for name in MASKS for reduction in get_args(Reduction)]


def _worker(rank: int, folder: str) -> None:
    """Every other row of the batch; gradients averaged over processes, as DistributedDataParallel does."""
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(minutes=2))
    try:
        result = {}
        for case in CASES:
            gradients = _gradients(slice(rank, None, 2), MASKS[case[0]], case[1])
            dist.all_reduce(gradients["centers"])
            result[case] = {name: gradient / 2 for name, gradient in gradients.items()}
        torch.save(result, Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs the gloo backend")
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """This process is the first, so that only one has to be started."""
    second = mp.get_context("spawn").Process(target=_worker, args=(1, str(tmp_path)))
    second.start()
    _worker(0, str(tmp_path))
    second.join()
    assert second.exitcode == 0
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case in CASES:
        whole = _gradients(slice(None), MASKS[case[0]], case[1])
        for rank, share in enumerate(shares):
            for name, want in {"features": whole["features"][rank::2], "centers": whole["centers"]}.items():
                assert torch.allclose(share[case][name], want, rtol=1e-5, atol=1e-7), (case, rank, name)
