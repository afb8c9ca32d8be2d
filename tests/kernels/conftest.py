"""Kernel tests run the real kernels: on a GPU where there is one, else through Triton's CPU interpreter.

The interpreter is chosen when Triton is imported, so TRITON_INTERPRET has to be set before that, and a process that
interprets kernels cannot compile them: ahead-of-time compilation runs in a child process (`compile_ahead.py`). The
interpreter gets bfloat16 arithmetic wrong without a word: CPU cases use float16, float32 and float64. Triton 3.6's
takes one-element arrays for numbers, which NumPy has refused from 2.4 on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distributions, version

import pytest
import torch
from torch import Tensor
from torch.utils._device import _device_constructors

ON_GPU = torch.cuda.is_available()

if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    language = sys.modules.get("triton.language")
    here = next((found.version for found in distributions(name="triton")), "")
    if here.startswith("3.6.") and tuple(map(int, version("numpy").split(".")[:2])) >= (2, 4):
        raise pytest.UsageError("Triton 3.6's interpreter needs NumPy before 2.4: pip install 'numpy<2.4'")
    if language is not None and "JITFunction" in type(language.sum).__name__:
        raise pytest.UsageError("Triton was imported without its interpreter: set TRITON_INTERPRET=1 for the whole run")


@pytest.fixture
def device() -> torch.device:
    """Where the kernels under test run."""
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture
def assert_far_rows_are_read(device: torch.device) -> Callable[[str], None]:
    """Run a script in a child process, its argument the device: an address computed in 32 bits is a fault there."""

    def check(script: str) -> None:
        if device.type == "cuda" and torch.cuda.mem_get_info()[0] < 8 * 2**30:
            pytest.skip("a GPU has no memory that is reserved but not used: 6 GiB must be free")
        done = subprocess.run([sys.executable, "-c", script, device.type], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    return check


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that ferbench.kernels allocates unfilled starts as NaN (integers: the least value, bool: True)."""

    def poison(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poisoned(*args: object, **kwargs: object) -> Tensor:
            fresh = allocate(*args, **kwargs)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller == "ferbench.kernels" or caller.startswith("ferbench.kernels."):
                whole = fresh.dtype.is_floating_point or fresh.dtype == torch.bool
                fresh.fill_(float("nan") if whole else torch.iinfo(fresh.dtype).min)
            return fresh

        return poisoned

    _device_constructors()  # torch remembers which functions a device context is for: the real ones, not ours
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seed 42 in every test, and the generator's state as it was afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(42)
        yield


@pytest.fixture
def assert_as_good_as_torch() -> Callable[..., None]:
    """Judge by a yardstick: the error against float64 is at most plain torch's in the same types, plus a constant.

    Called with (name, ours, torch_same_types, truth_float64, constant); the constant is relative to the truth's
    largest entry (at least 1).
    """

    def check(name: str, ours: Tensor, plain: Tensor, truth: Tensor, constant: float) -> None:
        assert ours.shape == truth.shape, f"{name}: shape {tuple(ours.shape)}, not {tuple(truth.shape)}"
        assert ours.dtype == plain.dtype, f"{name}: {ours.dtype}, not {plain.dtype}"
        if truth.numel() == 0:
            return
        assert ours.isfinite().all(), f"{name}: not finite"
        error, yardstick = (float((x.double() - truth.double()).abs().max()) for x in (ours, plain))
        allowed = yardstick + constant * max(1.0, float(truth.abs().max()))
        assert error <= allowed, f"{name}: error {error:.3g}, plain torch {yardstick:.3g}, allowed {allowed:.3g}"

    return check
