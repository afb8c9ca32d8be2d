"""The contrast of two views: Ada-CM's Eqs. 8-9 in slow loops, its worked numbers, kernels against reference.

Both paths of the kernel run on every shape: `SMALL_BATCH` decides which, and is moved to force one.
"""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ferbench.kernels import info_nce

op = importlib.import_module("ferbench.kernels.contrast.op")
tiles = importlib.import_module("ferbench.kernels.contrast.tiles")

PATHS = ("reference", "small", "large")
SIDES = [pytest.param(True, id="symmetric"), pytest.param(False, id="eq9")]

# Ada-CM's worked example: the features of subset II, three samples in two views
VIEW_A = torch.tensor([[1.0, 0.2], [0.3, 0.9], [-0.5, 0.8]], dtype=torch.float64)
VIEW_B = torch.tensor([[0.9, 0.4], [0.1, 1.1], [-0.9, 0.5]], dtype=torch.float64)


@pytest.fixture(params=PATHS)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each path of the op, as the `impl` to call it with."""
    monkeypatch.setattr(op, "SMALL_BATCH", {"large": 0}.get(request.param, 128))
    return "reference" if request.param == "reference" else "triton"


@pytest.fixture(params=["small", "large"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(op, "SMALL_BATCH", {"large": 0}.get(request.param, 128))
    return "triton"


def loop_eq9(anchors: list[list[float]], others: list[list[float]], temperature: float) -> float:
    """Eq. 9 with the cosine of Eq. 8, sum by sum."""

    def similarity(x: list[float], y: list[float]) -> float:
        lengths = math.sqrt(math.fsum(v * v for v in x)) * math.sqrt(math.fsum(v * v for v in y))
        return math.fsum(p * q for p, q in zip(x, y, strict=True)) / lengths if lengths else 0.0

    total = 0.0
    for i, anchor in enumerate(anchors):
        same = [math.exp(similarity(anchor, e) / temperature) for j, e in enumerate(anchors) if j != i]
        cross = [math.exp(similarity(anchor, e) / temperature) for e in others]
        total -= math.log(cross[i] / (math.fsum(same) + math.fsum(cross)))
    return total / len(anchors)


def loop_loss(a: Tensor, b: Tensor, keep: Tensor, temperature: float, symmetric: bool) -> float:
    left, right = a[keep].tolist(), b[keep].tolist()
    if len(left) < 2:
        return 0.0
    loss = loop_eq9(left, right, temperature)
    return (loss + loop_eq9(right, left, temperature)) / 2 if symmetric else loss


@pytest.mark.parametrize("symmetric", SIDES)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(
    ("rows", "features"), [(1, 3), (2, 1), (3, 7), (17, 16), (35, 40), (70, 5)], ids=lambda n: str(n)
)
def test_eq9_contrast(impl: str, symmetric: bool, masked: bool, rows: int, features: int, device: torch.device) -> None:
    a, b = torch.randn(2, rows, features, dtype=torch.float64)
    keep = torch.rand(rows) > 0.4 if masked else torch.ones(rows, dtype=torch.bool)
    loss = info_nce(
        a.to(device), b.to(device), mask=keep.to(device) if masked else None, temperature=0.2, symmetric=symmetric,
        impl=impl,
    )  # fmt: skip
    assert loss.dtype == torch.float64 and loss.shape == ()
    assert loss.item() == pytest.approx(loop_loss(a, b, keep, 0.2, symmetric), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "options", "expected"),
    [
        (VIEW_A, VIEW_B, {"symmetric": False}, 0.1101753064),
        (VIEW_B, VIEW_A, {"symmetric": False}, 0.03121653346),
        (VIEW_A, VIEW_B, {}, 0.07069591992),
        (VIEW_A, VIEW_B, {"symmetric": False, "temperature": 0.5}, 0.8388323274),
        (VIEW_A[:1], VIEW_B[:1], {"symmetric": False}, 0.0),
    ],
    ids=["anchors-a", "anchors-b", "both", "warm", "one-sample"],
)
def test_eq9_worked_example(
    impl: str, a: Tensor, b: Tensor, options: dict[str, Any], expected: float, device: torch.device
) -> None:
    loss = info_nce(a.to(device), b.to(device), impl=impl, **options)
    assert loss.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("kept", [0, 1], ids=["none", "one"])
@pytest.mark.parametrize("symmetric", SIDES)
def test_fewer_than_two_rows_give_zero_and_no_gradient(
    impl: str, kept: int, symmetric: bool, device: torch.device
) -> None:
    a, b = (torch.randn(5, 6, device=device, requires_grad=True) for _ in range(2))
    mask = torch.arange(5, device=device) < kept
    loss = info_nce(a, b, mask=mask, symmetric=symmetric, impl=impl)
    loss.backward()
    assert loss.item() == 0.0
    assert a.grad is not None and b.grad is not None
    assert a.grad.abs().max() == 0 and b.grad.abs().max() == 0


@pytest.mark.parametrize("rows", [0, 1], ids=["none", "one"])
def test_tiny_batches_give_zero(impl: str, rows: int, device: torch.device) -> None:
    a, b = (torch.randn(rows, 3, device=device, requires_grad=True) for _ in range(2))
    loss = info_nce(a, b, impl=impl)
    loss.backward()
    assert loss.item() == 0.0 and a.grad is not None and a.grad.abs().sum() == 0


def grads(a: Tensor, b: Tensor, impl: str, upstream: float = 1.0, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
    loss = info_nce(*leaves, impl=impl, **options)  # type: ignore[arg-type]
    loss.backward(torch.tensor(upstream, dtype=loss.dtype, device=loss.device))
    assert leaves[0].grad is not None and leaves[1].grad is not None
    return loss.detach(), leaves[0].grad, leaves[1].grad


def test_rows_left_out_do_not_matter(impl: str, device: torch.device) -> None:
    a, b = torch.randn(2, 9, 5, dtype=torch.float64, device=device)
    mask = torch.arange(9, device=device) % 3 != 1
    loss, da, db = grads(a[mask], b[mask], impl)
    a[~mask], b[~mask] = float("nan"), float("inf")
    ours = grads(a, b, impl, mask=mask)
    torch.testing.assert_close(ours[0], loss)
    torch.testing.assert_close(ours[1][mask], da)
    torch.testing.assert_close(ours[2][mask], db)
    assert ours[1][~mask].abs().max() == 0 and ours[2][~mask].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("symmetric", SIDES)
@pytest.mark.parametrize("temperature", [0.07, 0.01], ids=["bounded", "cold"])
@pytest.mark.parametrize(("rows", "features"), [(5, 130), (33, 20), (66, 9)], ids=lambda n: str(n))
def test_kernel_is_as_good_as_torch(
    kernel: str, dtype: torch.dtype, symmetric: bool, temperature: float, rows: int, features: int,
    device: torch.device, assert_as_good_as_torch: Callable[..., None],
) -> None:  # fmt: skip
    a = (3 * torch.randn(rows, features, device=device)).to(dtype)
    b = (a + 2 * torch.randn(rows, features, device=device)).to(dtype)
    options = {"mask": torch.rand(rows, device=device) > 0.2, "temperature": temperature, "symmetric": symmetric}
    ours = grads(a, b, kernel, 2.5, **options)
    plain = grads(a, b, "reference", 2.5, **options)
    truth = grads(a.double(), b.double(), "reference", 2.5, **options)
    for name, *values in zip(("loss", "da", "db"), ours, plain, truth, strict=True):
        # a logit is a cosine / temperature: that is what the rounding of a cosine is multiplied by. On a GPU a float32
        # product is three bfloat16 ones, which leave out up to 2^-16 of it; over a row that comes to a few units
        units = (2.5 if name == "loss" else 4.0) if device.type == "cuda" else 1.0
        assert_as_good_as_torch(name, *values, units * torch.finfo(torch.float32).eps / temperature)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Triton's interpreter gets bfloat16 products wrong")
@pytest.mark.parametrize("rows", [64, 300, 4096], ids=str)
def test_bfloat16_on_a_gpu_is_as_good_as_torch(rows: int, assert_as_good_as_torch: Callable[..., None]) -> None:
    a = torch.randn(rows, 128, device="cuda").bfloat16()
    b = (a + torch.randn(rows, 128, device="cuda")).bfloat16()
    ours, truth = grads(a, b, "triton"), grads(a.double(), b.double(), "reference")
    unit = [torch.nn.functional.normalize(x).double().detach() for x in (a, b)]
    plain = [x.to(y.dtype) for x, y in zip(grads(*unit, "reference"), ours, strict=True)]
    assert_as_good_as_torch("loss", ours[0], plain[0], truth[0], 2**-9 / 0.07)
    for name, *values in zip(("da", "db"), ours[1:], plain[1:], truth[1:], strict=True):
        assert_as_good_as_torch(name, *values, 2**-9)


@pytest.mark.parametrize("scale", [1e4, 1e-4, 1e25, 1e-25], ids=str)
def test_length_does_not_matter(impl: str, scale: float, device: torch.device) -> None:
    a, b = torch.randn(2, 12, 10, device=device)
    loss, da, _ = grads(a, b, impl)
    scaled_loss, scaled_da, _ = grads(a * scale, b, impl)
    torch.testing.assert_close(scaled_loss, loss)
    # a scale that is no power of two changes how a GPU's three bfloat16 products split a row
    split = device.type == "cuda" and impl == "triton"
    torch.testing.assert_close(scaled_da * scale, da, rtol=1e-4, atol=5e-6 if split else 1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.001], ids=str)
def test_degenerate_rows_stay_finite(impl: str, temperature: float, device: torch.device) -> None:
    """Zero rows, equal rows, opposite rows, all in one batch."""
    a = torch.randn(9, 6, device=device)
    a[0], a[1], a[2] = 0.0, 1.0, 1.0
    b = a.clone()
    b[3], b[4] = -a[3], 0.0
    results = grads(a, b, impl, temperature=temperature)
    truth = grads(a.double(), b.double(), "reference", temperature=temperature)
    for ours, exact in zip(results, truth, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-4 / temperature)
    assert results[1][0].abs().max() == 0 and results[2][4].abs().max() == 0


def test_all_equal_rows_give_the_logarithm_of_the_count(impl: str, device: torch.device) -> None:
    rows = torch.ones(10, 4, device=device)
    assert info_nce(rows, rows, impl=impl).item() == pytest.approx(math.log(19), rel=1e-5)


def test_cosine_takes_no_part_of_the_gradient_along_the_row(impl: str, device: torch.device) -> None:
    a, b = torch.randn(2, 20, 8, dtype=torch.float64, device=device)
    _, da, db = grads(a, b, impl)
    assert (a * da).sum(dim=1).abs().max() < 1e-12 and (b * db).sum(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("symmetric", SIDES)
@pytest.mark.parametrize("temperature", [0.3, 0.02], ids=["bounded", "cold"])
def test_gradcheck(impl: str, symmetric: bool, temperature: float, device: torch.device) -> None:
    a, b = (torch.randn(4, 3, dtype=torch.float64, device=device, requires_grad=True) for _ in range(2))
    mask = torch.tensor([True, True, False, True], device=device)
    assert torch.autograd.gradcheck(
        lambda x, y: info_nce(x, y, mask=mask, temperature=temperature, symmetric=symmetric, impl=impl),  # type: ignore[arg-type]
        (a, b), atol=1e-4,
    )  # fmt: skip


def test_only_one_view_may_need_a_gradient(impl: str, device: torch.device) -> None:
    a, b = torch.randn(2, 6, 5, dtype=torch.float64, device=device)
    _, both, _ = grads(a, b, impl)
    leaf = a.clone().requires_grad_()
    info_nce(leaf, b, impl=impl).backward()  # type: ignore[arg-type]
    torch.testing.assert_close(leaf.grad, both)


def test_strided_views(kernel: str, device: torch.device) -> None:
    wide = torch.randn(12, 40, device=device)
    mask = torch.rand(24, device=device)[::2] > 0.3
    for a, b in ((wide[:, :9], wide[:, 20:29]), (wide[:, ::4], wide.T[:12, :10]), (wide[:, 3:7], wide[:, 1:5])):
        ours, dense = grads(a, b, kernel, mask=mask), grads(a.contiguous(), b.contiguous(), kernel, mask=mask.clone())
        for x, y in zip(ours, dense, strict=True):
            torch.testing.assert_close(x, y)


def test_a_second_run_gives_the_same_bits(kernel: str, device: torch.device) -> None:
    a, b = torch.randn(2, 70, 20, device=device)
    runs = [grads(a, b, kernel) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


def test_without_gradient_the_loss_is_the_same(kernel: str, device: torch.device) -> None:
    a, b = torch.randn(2, 40, 20, device=device)
    assert info_nce(a, b, impl=kernel).item() == pytest.approx(grads(a, b, kernel)[0].item(), rel=1e-6)


def test_several_tiles_of_the_wide_launch(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Own tiles of more rows than the tiles they meet, and several feature blocks, as on a GPU."""
    kernel = importlib.import_module("ferbench.kernels.contrast.kernel")
    monkeypatch.setattr(op, "SMALL_BATCH", 0)
    monkeypatch.setattr(kernel, "large_tiles", lambda *_: tiles.Tiles(32, 16, 16, 4, 1))
    a, b = torch.randn(2, 75, 40, dtype=torch.float64, device=device)
    for symmetric in (True, False):
        ours = grads(a, b, "triton", symmetric=symmetric)
        for x, y in zip(ours, grads(a, b, "reference", symmetric=symmetric), strict=True):
            torch.testing.assert_close(x, y)


def test_no_tensor_of_the_kernel_grows_with_the_square_of_the_batch(device: torch.device) -> None:
    sizes = []
    for rows in (150, 300):
        a = torch.empty(rows, 16, device="meta")
        _, *saved = torch.ops.ferbench.info_nce_large(a, a, None, 0.07, True)
        sizes.append(sum(x.numel() for x in saved))
    assert sizes[1] < 2 * sizes[0] and sizes[1] <= 2 * 300 * (16 + 2) + 1


def test_ops_are_well_registered(device: torch.device) -> None:
    a, b = torch.randn(2, 6, 4, device=device)
    mask = torch.arange(6, device=device) < 4
    ops = torch.ops.ferbench
    for kept in (None, mask):
        for each in (ops.info_nce_small, ops.info_nce_small_grad, ops.info_nce_large):
            torch.library.opcheck(each.default, (a, b, kept, 0.07, True))
    _, *saved = ops.info_nce_large(a, b, mask, 0.07, True)
    arguments = (torch.ones((), device=device), *saved, mask, 4, torch.float32, 0.07, True)
    torch.library.opcheck(ops.info_nce_large_backward.default, arguments)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_in_one_graph(impl: str, backend: str, device: torch.device) -> None:
    def step(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
        return info_nce(a, b, mask=mask, impl=impl)  # type: ignore[arg-type]

    a, b = (torch.randn(6, 4, device=device, requires_grad=True) for _ in range(2))
    mask = torch.arange(6, device=device) < 5
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    ours = torch.autograd.grad(compiled(a, b, mask), (a, b))
    for x, y in zip(ours, torch.autograd.grad(step(a, b, mask), (a, b)), strict=True):
        torch.testing.assert_close(x, y)


# rows 2^30 elements apart in memory that is reserved but hardly touched: 32-bit addresses would fault or read elsewhere
FAR = """
import importlib, sys, torch
from ferbench.kernels import info_nce
step = 2**30
torch.set_default_device(sys.argv[1])
memory = torch.empty(3 * step, dtype=torch.float16)
rows = torch.as_strided(memory, (3, 5), (step, 1))
values = torch.linspace(-2, 2, 15).square().reshape(3, 5).half()
rows.copy_(values)
op = importlib.import_module("ferbench.kernels.contrast.op")
same = torch.equal if sys.argv[1] == "cpu" else torch.allclose  # a GPU sums rows of other strides in another order
for op.SMALL_BATCH in (128, 0):
    far = info_nce(rows, values.flip(1), impl="triton")
    assert same(far, info_nce(values, values.flip(1), impl="triton"))
"""


def test_rows_beyond_2_to_the_31_elements_are_addressed(assert_far_rows_are_read: Callable[[str], None]) -> None:
    assert_far_rows_are_read(FAR)


# the launch of small batches without and with a gradient, and those of large ones; all masked
FLOAT64 = """
import sys
sys.path.insert(0, sys.argv[1])
from compile_ahead import compile_case
import torch
from ferbench.kernels.contrast.aot import large, small
for with_grad in (False, True):
    compile_case(lambda: small(4, 3, torch.float64, with_grad), "sm90")
compile_case(lambda: large(9, 5, torch.float64, masked=True), "sm90")
"""


def test_masked_float64_compiles_for_a_gpu() -> None:
    """A byte in the reach of a float64 product, such as a mask's, is more than Triton's NVIDIA backend can compile."""
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", FLOAT64, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(3)}, "a must have shape"),
        ({"b": torch.zeros(3, 5)}, r"b must have shape \[3, 4\]"),
        ({"b": torch.zeros(3, 4).double()}, "a and b must be of one type"),
        ({"mask": torch.zeros(4, dtype=torch.bool)}, r"mask must have shape \[3\]"),
        ({"mask": torch.zeros(3)}, "mask must be bool"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
    ids=["one-dim", "shapes", "types", "mask-shape", "mask-type", "temperature"],
)
def test_misuse_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        info_nce(**{"a": torch.zeros(3, 4), "b": torch.zeros(3, 4), **change})
