"""What every op shares: which implementation runs, how an opaque op is registered, how a kernel is launched.

Triton is imported by no module that `import ferbench.kernels` loads: an op's `kernel.py` is imported at its first
launch, so the package works on machines that have no Triton (macOS, CPU-only wheels).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Impl = Literal["auto", "triton", "reference"]

TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


def use_triton(op: str, impl: Impl, tensors: Sequence[Tensor]) -> bool:
    """Whether `op` runs its Triton kernels on `tensors` (else its plain-torch reference).

    "auto" takes Triton on CUDA (and ROCm) tensors below float64 and the reference everywhere else; "triton" on CPU
    tensors needs the Triton interpreter (TRITON_INTERPRET=1, set before Triton is imported).

    Raises:
        ValueError: unknown `impl`, or tensors on several devices.
        RuntimeError: "triton" asked for where it cannot run.
    """
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f'{op}: impl must be "auto", "triton" or "reference", not {impl!r}')
    device = tensors[0].device
    for tensor in tensors:
        if tensor.device != device:
            raise ValueError(f"{op}: tensors on different devices: {device} and {tensor.device}")
    if impl == "reference":
        return False
    if impl == "auto":
        return TRITON_INSTALLED and device.type == "cuda" and all(t.dtype != torch.float64 for t in tensors)
    if not TRITON_INSTALLED:
        raise RuntimeError(f'{op}: impl="triton" needs Triton, which is not installed; use impl="reference"')
    if device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return True
    raise RuntimeError(
        f'{op}: impl="triton" cannot run on {device.type} tensors; move them to a GPU, use impl="reference", '
        "or set TRITON_INTERPRET=1 to interpret the kernel on the CPU"
    )


def one_of(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless the option `name` of `op` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def has_shape(op: str, name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise a ValueError unless `tensor` has `shape`; None stands for any size."""
    fits = tensor.dim() == len(shape) and all(want in (None, size) for want, size in zip(shape, tensor.shape))  # noqa: B905
    if not fits:
        want = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{op}: {name} must have shape [{want}], not {list(tensor.shape)}")


def accumulate_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where an input is float64, else float32: the type of statistics, sums and returned losses."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def triton_type(dtype: torch.dtype) -> Any:
    """Triton's own name for a torch floating type, to hand to a kernel as a constant."""
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))


def opaque_op(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register `ferbench::<schema>` as an op that tracers do not look into, and return it.

    `run` launches the kernels on real tensors, `fake` allocates outputs of the right shapes. Autograd stays outside,
    in a `torch.autograd.Function`, which costs less host time than a registered backward.
    """
    name = f"ferbench::{schema.partition('(')[0]}"
    torch.library.define(name, schema[schema.index("(") :])
    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, fake)
    packet = getattr(torch.ops.ferbench, schema.partition("(")[0])
    return packet.default  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Launch:
    """One recorded launch: the kernel, its positional arguments, and its constants and options by name."""

    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


_recording: tuple[str, list[Launch]] | None = None


@contextmanager
def recording(name: str) -> Iterator[list[Launch]]:
    """Record launches instead of running them, with the launch tables of the target `name` ("sm90", "gfx942").

    This is how kernels are compiled ahead of time, for targets that the machine does not have, exactly as they would be
    launched there.
    """
    global _recording
    launches: list[Launch] = []
    _recording = name, launches
    try:
        yield launches
    finally:
        _recording = None


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launch a Triton kernel on its first argument's device; a grid with a zero is no launch. All launches go here.

    Fused multiply-add is switched on explicitly, as Triton's default for it changes between releases.
    """
    if _recording is not None:
        _recording[1].append(Launch(kernel, args, options))
        return
    if not all(grid):
        return
    device = args[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[grid](*args, enable_fp_fusion=True, **options)
    else:
        kernel[grid](*args, enable_fp_fusion=True, **options)


def target(device: torch.device) -> str:
    """The key of a launch table: "sm90" on NVIDIA, "gfx942" on AMD and the like, "cpu" when interpreted."""
    if _recording is not None:
        return _recording[0]
    if device.type != "cuda":
        return "cpu"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm{properties.major}{properties.minor}"
