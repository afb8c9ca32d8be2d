"""What every op shares: which implementation runs, how an opaque op is registered, how a kernel is launched.

Triton is imported by no module that `import ferbench.kernels` loads: an op's `kernel.py` is imported at its first
launch, so the package works on machines that have no Triton (macOS, CPU-only wheels).
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

Impl = Literal["auto", "triton", "reference"]

TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


def use_triton(op: str, impl: Impl, tensors: Sequence[Tensor], unfit: str | None = None) -> bool:
    """Whether `op` runs its Triton kernels on `tensors` (else its plain-torch reference).

    "auto" takes Triton on CUDA (and ROCm) tensors below float64 and the reference everywhere else. Where a kernel does
    not take the sizes at hand, the GPU, or a torch.func transform, "auto" takes the reference and warns once. "triton"
    on CPU tensors needs the Triton interpreter (TRITON_INTERPRET=1, set before Triton is imported).

    Args:
        unfit: why the kernel does not take these sizes, in half a sentence; None where it does.

    Raises:
        ValueError: unknown `impl`, tensors on several devices, or "triton" asked for sizes that it does not take.
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
        if not TRITON_INSTALLED or device.type != "cuda" or any(t.dtype == torch.float64 for t in tensors):
            return False
        reason = unfit or unfit_gpu(device) or unfit_transform()
        if reason:
            say_once(f"{op}: {reason}: plain torch runs instead, which is slower")
        return reason is None
    if not TRITON_INSTALLED:
        raise RuntimeError(f'{op}: impl="triton" needs Triton, which is not installed; use impl="reference"')
    if unfit:
        raise ValueError(f'{op}: {unfit}; use impl="reference"')
    if transform := unfit_transform():
        raise RuntimeError(f'{op}: {transform}; use impl="reference"')
    if device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return True
    raise RuntimeError(
        f'{op}: impl="triton" cannot run on {device.type} tensors; move them to a GPU, use impl="reference", '
        "or set TRITON_INTERPRET=1 to interpret the kernel on the CPU"
    )


def unfit_gpu(device: torch.device) -> str | None:
    """Why a GPU is not one that the kernels are made for, or None; None as well for tensors without values."""
    try:
        machine = target(device)
    except (RuntimeError, AssertionError):  # no driver, or a build without CUDA
        return None
    if machine.startswith("sm") and int(machine[2:]) < 80:
        return f"Triton kernels need compute capability 8.0 or newer, this GPU is {machine}"
    return None


def unfit_transform() -> str | None:
    """Why a transform of torch.func that is under way rules the kernels out, or None."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return "Triton kernels know no transform of torch.func"
    return None


_said: set[str] = set()


def say_once(message: str) -> None:
    """Warn, but only the first time in this process."""
    if message not in _said and not torch.compiler.is_compiling():
        _said.add(message)
        warnings.warn(message, stacklevel=4)


def one_of(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless the option `name` of `op` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def has_shape(op: str, name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise a ValueError unless `tensor` has `shape`; None stands for any size."""
    sizes = tensor.shape
    if len(sizes) == len(shape):
        for size, want in zip(sizes, shape):  # noqa: B905
            if want is not None and size != want:
                break
        else:
            return
    wanted = ", ".join("*" if size is None else str(size) for size in shape)
    raise ValueError(f"{op}: {name} must have shape [{wanted}], not {list(sizes)}")


def accumulate_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where an input is float64, else float32: the type of statistics, sums and returned losses."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def triton_type(dtype: torch.dtype) -> Any:
    """Triton's own name for a torch floating type, to hand to a kernel as a constant."""
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))


def opaque_op(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register `ferbench::<schema>` as an op that tracers do not look into, and return the way to call it.

    `run` launches the kernels on real tensors, `fake` allocates outputs of the right shapes. The call goes through the
    registered op only while something traces it: the boundary costs more host time than a small kernel. Autograd stays
    outside, in a `torch.autograd.Function`, for the same reason.
    """
    name = f"ferbench::{schema.partition('(')[0]}"
    torch.library.define(name, schema[schema.index("(") :])
    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, fake)
    op = getattr(torch.ops.ferbench, schema.partition("(")[0]).default

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling() or traced(args[0]):
            with torch.no_grad():
                return op(*args)
        return run(*args)

    return call


def traced(first: Any) -> bool:
    """Whether the call at hand is recorded rather than run: a dispatch mode, torch.jit, or a tensor that is a proxy."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or (isinstance(first, Tensor) and type(first) not in (Tensor, torch.nn.Parameter))
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How a kernel is launched: its grid, its arguments after the tensors, its constants and options by name."""

    grid: tuple[int, ...]
    scalars: tuple[Any, ...]
    options: dict[str, Any]


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


def layout(tensor: Tensor | None) -> tuple[Any, ...]:
    """All that a launch depends on of an input: sizes, strides, type, device, and alignment as Triton looks at it."""
    if tensor is None:
        return ()
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.get_device(), tensor.data_ptr() & 15


MOST_KEPT = 4096
"""Launches kept at most; a run has tens."""

_kept: dict[tuple[Any, ...], Callable[[tuple[Any, ...]], None]] = {}


def launch(kernel: Any, key: tuple[Any, ...], args: tuple[Any, ...], plan: Callable[[], Plan]) -> None:
    """Launch a Triton kernel on the device of its first argument; a grid with a zero is no launch.

    All launches go here. `args` are the kernel's first arguments, those that change from call to call: tensors, and
    numbers that the kernel is not specialised on. `key` decides the rest, `plan`, and how Triton specialises the
    kernel: it holds the `layout` of every tensor that a caller chose, and all the options. What a key once led to is
    kept, so that a later call neither plans nor binds. Launch hooks of Triton's own profiler see the first launch only.
    """
    if _recording is not None:
        made = plan()
        _recording[1].append(Launch(kernel, (*args, *made.scalars), made.options))
        return
    whole = id(kernel), key
    again = _kept.get(whole)
    if again is not None:
        again(args)
        return
    if len(_kept) >= MOST_KEPT:
        _kept.clear()
    _kept[whole] = _first_launch(kernel, args, plan())


def _first_launch(kernel: Any, args: tuple[Any, ...], plan: Plan) -> Callable[[tuple[Any, ...]], None]:
    """Launch in Triton's own way, and return a short way to launch again.

    Fused multiply-add is switched on explicitly, as Triton's default for it changes between releases.
    """
    if not all(plan.grid):
        return lambda args: None

    def whole_way(args: tuple[Any, ...]) -> Any:
        return kernel[plan.grid](*args, *plan.scalars, enable_fp_fusion=True, **plan.options)

    device = args[0].get_device()
    with torch.cuda.device(device):  # of a CPU tensor -1, which is no change
        compiled = whole_way(args)
    if not hasattr(compiled, "packed_metadata"):  # the interpreter compiles nothing
        return whole_way
    names = kernel.arg_names[len(args) + len(plan.scalars) :]
    tail = *plan.scalars, *(plan.options[name] for name in names)
    head = compiled.function, compiled.packed_metadata, None, None, None
    grid = (*plan.grid, 1, 1)[:3]
    run, stream = compiled.run, torch._C._cuda_getCurrentRawStream

    def short_way(args: tuple[Any, ...]) -> None:
        if torch.cuda.current_device() == device:
            run(*grid, stream(device), *head, *args, *tail)
        else:
            with torch.cuda.device(device):
                run(*grid, stream(device), *head, *args, *tail)

    return short_way


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """torch's decorator of a backward that has none of its own, in force only where a second one is asked for."""
    guarded = torch.autograd.function.once_differentiable(backward)

    def either(ctx: Any, *grads: Any) -> Any:
        return guarded(ctx, *grads) if torch.is_grad_enabled() else backward(ctx, *grads)

    return either


def scaled_rows(grad: Tensor, incoming: Tensor) -> Tensor:
    """A gradient kept from forward [B, K] times the incoming one of each row [B], in the type of the former."""
    scaled = grad * incoming.unsqueeze(1)
    return scaled if scaled.dtype == grad.dtype else scaled.to(grad.dtype)


def ceil_div(count: int, block: int) -> int:
    """`count` / `block` rounded up; Triton's own is a hundred times as slow on the host."""
    return -(-count // block)


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count` (1 for 0)."""
    return 1 << max(0, count - 1).bit_length()


def target(device: torch.device) -> str:
    """The key of a launch table: "sm90" on NVIDIA, "gfx942" on AMD and the like, "cpu" when interpreted."""
    if _recording is not None:
        return _recording[0]
    if device.type != "cuda":
        return "cpu"
    return _gpu(torch.cuda.current_device() if device.index is None else device.index)


@lru_cache
def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm{properties.major}{properties.minor}"
