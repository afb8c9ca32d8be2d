"""Several processes on one run: torchrun starts them, this brings them together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist


@contextmanager
def process_group() -> Iterator[int]:
    """Join the processes that torchrun started, NCCL on GPUs and gloo elsewhere; yields this one's rank, 0 if alone."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if several() else 0


def agreed(value: bool) -> bool:
    """What the first process says; all call it at the same place."""
    if not several():
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0)
    return said[0]


def largest(value: int, device: torch.device) -> int:
    """The largest of all processes' values; all call it at the same place."""
    if not several():
        return value
    number = torch.tensor(value, device=device)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)
