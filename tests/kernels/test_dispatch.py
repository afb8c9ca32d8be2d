"""Which implementation runs, what is said when it cannot, and that the package needs no Triton to be imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import ferbench.kernels
import ferbench.kernels.reference
from ferbench.kernels import dispatch


def test_auto_takes_the_reference_on_cpu() -> None:
    assert dispatch.use_triton("op", "auto", [torch.zeros(1)]) is False


def test_auto_takes_triton_on_a_gpu_below_float64() -> None:
    class OnGpu:
        device = torch.device("cuda", 0)

        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

    single, double = OnGpu(torch.float32), OnGpu(torch.float64)
    assert dispatch.use_triton("op", "auto", [single]) is True  # type: ignore[list-item]
    assert dispatch.use_triton("op", "auto", [single, double]) is False  # type: ignore[list-item]
    assert dispatch.use_triton("op", "triton", [double]) is True  # type: ignore[list-item]
    assert dispatch.use_triton("op", "reference", [single]) is False  # type: ignore[list-item]


def test_triton_on_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.use_triton("op", "triton", [torch.zeros(1)]) is True
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match=r'^op: impl="triton" cannot run on cpu tensors; .*TRITON_INTERPRET=1'):
        dispatch.use_triton("op", "triton", [torch.zeros(1)])


def test_triton_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", False)
    assert dispatch.use_triton("op", "auto", [torch.zeros(1)]) is False
    with pytest.raises(RuntimeError, match='^op: impl="triton" needs Triton, which is not installed'):
        dispatch.use_triton("op", "triton", [torch.zeros(1)])


def test_unknown_impl_and_mixed_devices_are_errors() -> None:
    with pytest.raises(ValueError, match="impl must be .* not 'cuda'"):
        dispatch.use_triton("op", "cuda", [torch.zeros(1)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different devices: cpu and meta"):
        dispatch.use_triton("op", "auto", [torch.zeros(1), torch.zeros(1, device="meta")])


def test_every_op_has_a_reference_of_its_name() -> None:
    assert set(ferbench.kernels.reference.__all__) == set(ferbench.kernels.__all__) - {"Impl"}
    for name in ferbench.kernels.reference.__all__:
        assert callable(getattr(ferbench.kernels, name)) and callable(getattr(ferbench.kernels.reference, name))


WITHOUT_TRITON = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "triton" or name.startswith("triton."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "triton" else found(name, package)
import torch
from ferbench.kernels import center_etf_loss, ema_update, pseudo_label
center_etf_loss(torch.ones(2, 3), torch.zeros(2).long(), torch.eye(3))
pseudo_label(torch.eye(3), thresholds=0.5)
ema_update([torch.zeros(2)], [torch.ones(2)], 0.9)
assert not any(name.partition(".")[0] == "triton" for name in sys.modules)
try:
    pseudo_label(torch.eye(3), thresholds=0.5, impl="triton")
except RuntimeError as error:
    print(error)
"""


def test_package_works_without_triton() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "needs Triton, which is not installed" in done.stdout


def test_recording_keeps_launches_and_runs_nothing() -> None:
    def kernel() -> None:
        raise AssertionError("a recorded kernel must not run")

    with dispatch.recording("sm90") as launches:
        assert dispatch.target(torch.device("cpu")) == "sm90"
        dispatch.launch(kernel, (4,), 1, 2, BLOCK=8)
    assert [(launch.kernel, launch.args, launch.options) for launch in launches] == [(kernel, (1, 2), {"BLOCK": 8})]
    assert dispatch.target(torch.device("cpu")) == "cpu"


def test_an_empty_grid_launches_nothing() -> None:
    class Kernel:
        def __getitem__(self, grid: object) -> object:
            raise AssertionError("launched")

    assert dispatch.launch(Kernel(), (0, 3)) is None


@pytest.mark.parametrize(
    ("module", "poisoned"),
    [("ferbench.kernels.ema.kernel", True), ("ferbench.kernels", True), ("ferbench.kernels_more", False), ("a", False)],
)
def test_memory_is_poisoned_for_the_package_alone(module: str, poisoned: bool) -> None:
    """The fixture the other files rely on: a kernel that leaves a cell unwritten must show."""
    scope = {"__name__": module, "torch": torch}
    exec(
        "fresh = torch.empty(3), torch.empty(3, dtype=torch.int32), torch.empty_like(torch.zeros(2)).new_empty(2)",
        scope,
    )
    real, whole, again = scope["fresh"]  # type: ignore[misc]
    assert bool(real.isnan().all() and again.isnan().all()) is poisoned
    assert bool((whole == torch.iinfo(torch.int32).min).all()) is poisoned
