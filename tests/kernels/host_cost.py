"""Host cost of every op without a GPU: Triton's own binder and compiler, and a driver that launches nothing.

    python tests/kernels/host_cost.py            microseconds of a call alone, of one more in a step, and launches
    python tests/kernels/host_cost.py --check    whether a kept launch hands over what Triton's own would (JSON)

It runs in a process of its own because a Triton that interprets kernels cannot compile them. The tensors are a CPU's,
which the driver never looks into. What a real launch adds, about 3 microseconds each, is not in the figures; what
plain torch does here in a backward (a product with the incoming gradient) is, with its arithmetic. A call alone pays
for starting autograd's engine, which a step does once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver

from ferbench.kernels import (
    MovingAverage,
    Rows,
    ambiguous_loss,
    center_etf_loss,
    consistency_head,
    dispatch,
    info_nce,
    mix_experts,
    pseudo_counts,
    pseudo_label,
    topk_gate,
)

LAUNCHES: list[tuple[Any, ...]] = []


class Utils:
    """What a compiled kernel asks of the device: enough of everything."""

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        return object(), name, 64, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}


class Driver(CudaDriver):
    """An H100 that launches nothing, and notes what it was asked to launch where `LAUNCHES` is read."""

    noting = False

    def __init__(self) -> None:
        self.utils = Utils()  # type: ignore[assignment]
        self.launcher_cls = Launcher  # type: ignore[assignment]
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Launcher:
    """In the place of Triton's launcher in C."""

    def __init__(self, src: Any, metadata: Any) -> None:
        self.constants = src.constants

    def __call__(self, x: int, y: int, z: int, stream: int, function: Any, packed: Any, *rest: Any) -> None:
        if Driver.noting:
            arguments = rest[3:]  # after the launch's metadata and two hooks
            plain = (a.data_ptr() if isinstance(a, torch.Tensor) else str(a) for a in arguments)
            LAUNCHES.append((x, y, z, function, *plain))


def stand_in() -> None:
    """Let every op take its kernels on CPU tensors, as on an H100."""
    triton.runtime.driver.set_active(Driver())
    torch._C._cuda_getCurrentRawStream = lambda device: 0  # type: ignore[attr-defined]
    torch.cuda.current_device = lambda: -1  # type: ignore[assignment]
    dispatch.target = lambda device: "sm90"
    for module in list(sys.modules.values()):
        if hasattr(module, "use_triton") and module.__name__.startswith("ferbench.kernels"):
            module.use_triton = lambda *_: True
        if getattr(module, "target", None) is not None and module.__name__.startswith("ferbench.kernels."):
            module.target = dispatch.target


def steps(times: int = 1) -> dict[str, Callable[[], object]]:
    """`times` calls of each op at a paper's sizes, with one backward where it has one."""

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).requires_grad_()

    def again(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for _ in range(times)]

    def backward(call: Callable[[], torch.Tensor], *inputs: torch.Tensor) -> Callable[[], object]:
        """The gradients of all calls' results, which add up."""

        def step() -> object:
            losses = [call() for _ in range(times)]
            return torch.autograd.grad(losses, inputs, [incoming[loss.shape] for loss in losses])

        return step

    logits, scores, taught = torch.randn(64, 7), leaf(64, 7), leaf(64, 7)
    thresholds, labels, keep = torch.rand(7), torch.randint(7, (64,)), torch.rand(64) > 0.5
    features, strong, centers = leaf(64, 512), leaf(64, 512), leaf(7, 512)
    gate, outputs = leaf(64, 4), leaf(64, 4, 512)
    count = torch.tensor(30.0)
    incoming = {shape: torch.ones(shape) for shape in (torch.Size(s) for s in ((), (64,), (64, 4), (64, 7), (64, 512)))}
    average = MovingAverage(*([torch.zeros(n) for n in (4096,) * 62] for _ in range(2)))
    return {
        "pseudo_label": again(lambda: pseudo_label(logits, feature_scores=logits, beta=0.5, thresholds=thresholds)),
        "pseudo_counts": again(lambda: pseudo_counts(labels, keep, labels)),
        "consistency_head": backward(
            lambda: torch.add(*consistency_head(scores, labels, logits, taught, thresholds=0.5)[:2]), scores, taught
        ),
        "ambiguous_loss": backward(lambda: ambiguous_loss(scores, logits), scores),
        "moving average of 62 tensors": again(lambda: average.update(0.999)),
        "the same with decay": again(lambda: average.update(0.999, shrink=0.99)),
        "topk_gate": backward(lambda: topk_gate(gate, 2), gate),
        "mix_experts": backward(lambda: mix_experts(gate, outputs), gate, outputs),
        "center_etf_loss": backward(
            lambda: torch.add(*center_etf_loss(features, labels, centers, more=Rows(strong, labels, keep, count))),
            features,
            strong,
            centers,
        ),
        "info_nce": backward(lambda: info_nce(features, strong), features, strong),
        "a multiplication in plain torch": backward(lambda: scores * logits, scores),
    }


def check() -> dict[str, bool]:
    """Of each op: whether a kept launch hands over what the first, Triton's own, did; memory is handed out anew."""
    same = {}
    Driver.noting = True
    for name, step in steps().items():
        if name.endswith("plain torch"):
            continue
        runs = []
        for _ in range(2):
            LAUNCHES.clear()
            step()
            # the same places, whatever the addresses of what an op allocates
            runs.append([[a if not isinstance(a, int) or a < 2**32 else "address" for a in call] for call in LAUNCHES])
        same[name] = bool(runs[0]) and runs[0] == runs[1]
    return same


def measure() -> None:
    """Print the 10th percentile of many calls, alone and in turn with eleven of them, by the process's own time."""
    for (name, alone), eleven in zip(steps().items(), steps(11).values(), strict=True):
        alone()
        Driver.noting = True
        LAUNCHES.clear()
        alone()
        launches, Driver.noting = len(LAUNCHES), False
        found: dict[Callable[[], object], list[float]] = {alone: [], eleven: []}
        for _ in range(40):
            for step, times in found.items():
                begin = time.process_time()
                for _ in range(20):
                    step()
                times.append(1e6 * (time.process_time() - begin) / 20)
        one, many = (sorted(times)[4] for times in found.values())
        print(f"{name:32} {one:8.1f} us alone {(many - one) / 10:8.1f} us more in a step  {launches} launches")


if __name__ == "__main__":
    import ferbench.kernels.center_etf.kernel
    import ferbench.kernels.contrast.small  # noqa: F401  (its `target` is stood in for, too)

    torch.set_num_threads(1)
    stand_in()
    if "--check" in sys.argv:
        print(json.dumps(check()))
    else:
        measure()
