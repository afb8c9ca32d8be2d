"""Several processes on one run: torchrun starts them, this brings them together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR")  # what torchrun sets, and torch's own initialisation reads


def launched_rank() -> int:
    """This process's number among those torchrun started, 0 where it started none."""
    return int(os.environ["RANK"]) if all(name in os.environ for name in LAUNCHED) else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, by NCCL on GPUs and gloo elsewhere; nothing for a process alone."""
    if not all(name in os.environ for name in LAUNCHED):
        yield
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def several() -> bool:
    """Whether this process shares its run with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number in the group; 0 writes and speaks."""
    return dist.get_rank() if several() else 0


def agreed(value: bool) -> bool:
    """What process 0 says; all call it at the same place."""
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
