"""What the machine at hand can do at most, measured: memory, matrix products, launches. Floors are made of these."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ferbench.bench.speed.ops.case import Work


@dataclass(frozen=True)
class Machine:
    """copy: bytes read and written a second; matrix: FLOP a second (bfloat16, on a CPU float32); node: seconds of an
    empty kernel within a CUDA graph; launch: seconds the host takes for one."""

    copy: float
    matrix: float
    node: float
    launch: float

    def floor(self, work: Work) -> float:
        """Milliseconds that the work takes here at the least, given that memory and products overlap."""
        return 1e3 * max(work.bytes / self.copy, work.flop / self.matrix, work.launches * self.node)


def best(step: Callable[[], object], repeats: int, on_gpu: bool) -> float:
    """Seconds of one call, the best of three runs of `repeats` calls after one that warms up."""
    step()
    times = []
    for _ in range(3):
        if on_gpu:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(repeats):
            step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / repeats)
    return min(times)


def measure(device: torch.device) -> Machine:
    """About a second on a GPU."""
    on_gpu = device.type == "cuda"
    source = torch.empty((1 << 30) if on_gpu else (1 << 25), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = best(lambda: target.copy_(source), 20 if on_gpu else 3, on_gpu)
    side = 8192 if on_gpu else 512
    square = torch.randn(side, side, device=device).to(torch.bfloat16 if on_gpu else torch.float32)
    matrix = best(lambda: square @ square, 20 if on_gpu else 3, on_gpu)
    one = torch.zeros(1, device=device)
    launch = best(lambda: one.add_(1), 1000, False)
    node = launch
    if on_gpu:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(1000):
                one.add_(1)
        node = best(graph.replay, 10, True) / 1000
    return Machine(2 * source.numel() / copy, 2 * side**3 / matrix, node, launch)
