"""Which implementation runs, what is said when it cannot, and that the package needs no Triton to be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ferbench.kernels
import ferbench.kernels.reference
from ferbench.kernels import dispatch


def test_auto_takes_the_reference_on_cpu() -> None:
    assert dispatch.use_triton("op", "auto", [torch.zeros(1)]) is False


class OnGpu:
    """All that the choice looks at of a tensor."""

    device = torch.device("cuda", 0)

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype


def test_auto_takes_triton_on_a_gpu_below_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "target", lambda device: "sm90")
    single, double = OnGpu(torch.float32), OnGpu(torch.float64)
    assert dispatch.use_triton("op", "auto", [single]) is True  # type: ignore[list-item]
    assert dispatch.use_triton("op", "auto", [single, double]) is False  # type: ignore[list-item]
    assert dispatch.use_triton("op", "triton", [double]) is True  # type: ignore[list-item]
    assert dispatch.use_triton("op", "reference", [single]) is False  # type: ignore[list-item]


@pytest.mark.parametrize("machine", ["sm75", "sm80", "sm120", "gfx942"])
def test_auto_takes_the_reference_where_the_kernel_does_not_fit_and_says_so_once(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "target", lambda device: machine)
    monkeypatch.setattr(dispatch, "_said", set())
    tensors: Any = [OnGpu()]
    for unfit in (None, "at most 3 classes in Triton, got 4"):
        fits = unfit is None and machine != "sm75"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert [dispatch.use_triton("op", "auto", tensors, unfit) for _ in range(3)] == [fits] * 3
        assert [str(w.message).partition(":")[0] for w in caught] == ([] if fits else ["op"])
    with pytest.raises(ValueError, match=r'op: at most 3 classes in Triton, got 4; use impl="reference"'):
        dispatch.use_triton("op", "triton", tensors, "at most 3 classes in Triton, got 4")


def test_torch_func_is_refused_clearly_and_auto_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, partition = torch.randn(3, 5), torch.randn(3, 5)
    gradient = torch.func.grad(lambda y: ferbench.kernels.ambiguous_loss(y, partition).sum())(x)
    assert gradient.shape == x.shape
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match=r"ambiguous_loss: Triton kernels know no transform of torch.func"):
        torch.func.grad(lambda y: ferbench.kernels.ambiguous_loss(y, partition, impl="triton").sum())(x)
    monkeypatch.setattr(dispatch, "target", lambda device: "sm90")
    monkeypatch.setattr(dispatch, "_said", set())
    tensors: Any = [OnGpu()]
    with pytest.warns(UserWarning, match="torch.func"):
        torch.func.grad(lambda y: y.sum() * (1 + dispatch.use_triton("op", "auto", tensors)))(x)


@pytest.mark.parametrize("op", [path.parent.name for path in Path(ferbench.kernels.__path__[0]).glob("*/op.py")])
def test_every_module_can_be_imported_under_a_name(op: str) -> None:
    """A package that exported a function of a folder's own name would hide the folder."""
    scope: dict[str, Any] = {}
    exec(f"import ferbench.kernels.{op}.op as module", scope)
    assert scope["module"].__name__ == f"ferbench.kernels.{op}.op"


CALLS: dict[str, Callable[[str], Tensor]] = {
    "ambiguous_loss": lambda impl: ferbench.kernels.ambiguous_loss(ROWS, ROWS.flip(0), impl=impl),
    "center_etf_loss": lambda impl: torch.stack(
        ferbench.kernels.center_etf_loss(ROWS, LABELS, ROWS[:4] + 1.0, impl=impl)
    ),
    "center_etf_loss of many": lambda impl: torch.stack(
        ferbench.kernels.center_etf_loss(ROWS, LABELS, MANY, impl=impl)
    ),
    "info_nce": lambda impl: ferbench.kernels.info_nce(ROWS, ROWS + 0.5 * ROWS.flip(0), impl=impl),
    "mix_experts": lambda impl: ferbench.kernels.mix_experts(ROWS[:, :3], EXPERTS, impl=impl),
    "pseudo_label": lambda impl: ferbench.kernels.pseudo_label(ROWS, thresholds=0.2, impl=impl)[2],
    "topk_gate": lambda impl: ferbench.kernels.topk_gate(ROWS, 2, impl=impl),
    "ema_update": lambda impl: averaged(impl),
    "consistency_head": lambda impl: taught(impl),
    "pseudo_counts": lambda impl: ferbench.kernels.pseudo_counts(LABELS, ROWS[:, 0] > 0, LABELS.flip(0), impl=impl),
    "augment": lambda impl: ferbench.kernels.augment(
        PICTURES.to(ROWS.device), PLAN.to(ROWS.device), size=7, padding=1, mean=(0.5,) * 3, std=(0.2,) * 3, impl=impl
    ),
}  # fmt: skip
GENERATOR = torch.Generator().manual_seed(1)
ROWS = torch.randn(16, 24, generator=GENERATOR)
MANY = torch.randn(20, 24, generator=GENERATOR)
EXPERTS = torch.randn(16, 3, 5, generator=GENERATOR)
LABELS = torch.arange(16) % 4
PICTURES = torch.randint(256, (2, 5, 6, 1), dtype=torch.uint8, generator=GENERATOR)
PLAN = torch.tensor([[0, 0, -1, -1, 1, 0, 1], [1, 1, 3, 2, 2, 1, 0]], dtype=torch.int32)  # no operations
CPU_INPUTS = {"ROWS": ROWS, "MANY": MANY, "EXPERTS": EXPERTS, "LABELS": LABELS}


def test_no_op_is_left_out_of_these() -> None:
    assert {name.partition(" ")[0] for name in CALLS} == set(ferbench.kernels.reference.__all__)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the interpreter's bfloat16 is wrong")
@pytest.mark.parametrize("op", CALLS)
def test_bfloat16_on_a_gpu(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every op, run: the kernel is as near to float64 as plain torch in bfloat16 is, to its own rounding."""
    results = []
    for impl, dtype in (("triton", torch.bfloat16), ("reference", torch.bfloat16), ("reference", torch.float64)):
        for name in ("ROWS", "MANY", "EXPERTS"):
            monkeypatch.setitem(globals(), name, CPU_INPUTS[name].bfloat16().cuda().to(dtype))
        monkeypatch.setitem(globals(), "LABELS", CPU_INPUTS["LABELS"].cuda())
        results.append(CALLS[op](impl).double())
    ours, plain, truth = results
    scale = max(1.0, float(truth.abs().max()))
    assert float((ours - truth).abs().max()) <= float((plain - truth).abs().max()) + 2**-7 * scale


def taught(impl: Any) -> Tensor:
    labelled, weak, strong = ROWS[:, :9], ROWS[:, 1:10], ROWS[:, 2:11]
    return torch.stack(ferbench.kernels.consistency_head(labelled, LABELS, weak, strong, thresholds=0.2, impl=impl)[:2])


def averaged(impl: Any) -> Tensor:
    average = ROWS.clone()
    ferbench.kernels.ema_update([average], [ROWS.flip(0)], 0.9, impl=impl)
    return average


@pytest.mark.parametrize("op", CALLS)
def test_autocast_changes_no_op(op: str) -> None:
    """Both implementations, in a bfloat16 autocast: cosines of half precision would be 0.4 % off."""
    for impl in ("reference", "triton"):
        plain = CALLS[op](impl)
        with torch.autocast("cpu", torch.bfloat16):
            inside = CALLS[op](impl)
        assert inside.dtype == plain.dtype and torch.equal(inside, plain), impl


def test_two_threads_get_what_one_does() -> None:
    if torch.cuda.is_available():
        moved = [x.cuda() for x in (ROWS, ROWS.flip(0))]
        calls = [lambda: ferbench.kernels.ambiguous_loss(*moved, impl="triton").cpu()] * 8
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda call: call(), calls))
        assert all(torch.equal(result, results[0]) for result in results)
    kernel, seen = Kernel(), []
    with ThreadPoolExecutor(4) as pool:
        plan = dispatch.Plan((1,), (), {})
        jobs = [pool.submit(dispatch.launch, kernel, (i % 3,), (torch.tensor(i),), lambda: plan) for i in range(300)]
        seen = [job.result() for job in jobs]
    assert len(seen) == 300
    assert sorted(int(args[0]) for args in kernel.launched) == list(range(300))


class Kernel:
    """In the place of a Triton kernel: notes its launches, and compiles nothing, as the interpreter."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **options: self.launched.append(args)


def test_a_key_is_planned_once_and_numbers_that_change_are_handed_over() -> None:
    kernel, plans = Kernel(), []

    def plan() -> dispatch.Plan:
        plans.append(1)
        return dispatch.Plan((4,), (7,), {"BLOCK": 8})

    for decay in (0.5, 0.25):
        dispatch.launch(kernel, ("key",), (torch.zeros(1), decay), plan)
    assert len(plans) == 1 and [args[1:] for args in kernel.launched] == [(0.5, 7), (0.25, 7)]


def test_a_launch_depends_on_sizes_strides_type_and_alignment() -> None:
    x = torch.zeros(9, 8)
    others = x.t(), x[1:], x.double(), x.view(-1)[1:65].view(8, 8), torch.zeros(72)
    layouts = {dispatch.layout(tensor) for tensor in (x, *others)}
    assert len(layouts) == 6 and dispatch.layout(torch.ones(9, 8)) == dispatch.layout(x)
    assert dispatch.layout(None) == ()


def test_a_kept_launch_hands_over_what_triton_would() -> None:
    """Both ways to launch, of all ops, into a driver that launches nothing."""
    script = Path(__file__).with_name("host_cost.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    same = json.loads(done.stdout.splitlines()[-1])
    assert len(same) == 10 and all(same.values()), same


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams are a GPU's")
def test_a_kept_launch_follows_the_stream_and_the_device() -> None:
    x, partition = ROWS.cuda(), ROWS.flip(0).cuda()
    expected = ferbench.kernels.ambiguous_loss(x, partition, impl="triton")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        late = torch.zeros_like(x).copy_(x)  # written when the side stream gets there
        result = ferbench.kernels.ambiguous_loss(late, partition, impl="triton")
    side.synchronize()
    assert torch.equal(result, expected)
    if torch.cuda.device_count() > 1:
        for _ in range(2):
            other = ferbench.kernels.ambiguous_loss(x.to("cuda:1"), partition.to("cuda:1"), impl="triton")
        assert other.device.index == 1 and torch.equal(other.cpu(), expected.cpu())


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
    assert set(ferbench.kernels.reference.__all__) == set(ferbench.kernels.__all__) - {
        "Head",
        "Impl",
        "MovingAverage",
        "Rows",
    }
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
        dispatch.launch(kernel, (), (1, 2), lambda: dispatch.Plan((4,), (3,), {"BLOCK": 8}))
    assert [(launch.kernel, launch.args, launch.options) for launch in launches] == [(kernel, (1, 2, 3), {"BLOCK": 8})]
    assert dispatch.target(torch.device("cpu")) == "cpu"


def test_an_empty_grid_launches_nothing() -> None:
    class Refuses:
        def __getitem__(self, grid: object) -> object:
            raise AssertionError("launched")

    for _ in range(2):
        dispatch.launch(Refuses(), (), (torch.zeros(1),), lambda: dispatch.Plan((0, 3), (), {}))


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
