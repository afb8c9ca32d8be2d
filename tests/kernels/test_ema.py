"""Moving average: against a loop over numbers, the worked example, and the kernel against the reference."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from ferbench.kernels import MovingAverage, ema_update

IMPLS = ("reference", "triton")


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tensors(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Shapes of a model: weights, a scalar, nothing, more than one chunk, channels last, a view with gaps."""
    shapes: list[tuple[int, ...]] = [(3, 5), (), (0,), (1,), (4097,), (2, 3, 4, 5)]
    made = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
    made.append(torch.randn(2, 3, 4, 5, device=device).to(dtype).to(memory_format=torch.channels_last))
    made.append(torch.randn(6, 10, device=device).to(dtype)[::2, 1:8:3])
    return made


def copies(values: list[Tensor]) -> list[Tensor]:
    """Clones that keep even a gapped view's layout."""
    made = []
    for value in values:
        span = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
        made.append(span.copy_(value))
    return made


def test_worked_example_g_average_then_shrink(impl: str, device: torch.device) -> None:
    average, value = torch.tensor(0.5, device=device).double(), torch.tensor(1.0, device=device).double()
    ema_update([average], [value], 0.999, shrink=1 - 0.02 * 1e-4, impl=impl)
    assert average.item() == pytest.approx(0.5005, rel=1e-14)
    assert value.item() == pytest.approx(0.999998, rel=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("shrink", [1.0, 0.25])
def test_average_of_every_number(impl: str, decay: float, as_tensor: bool, shrink: float, device: torch.device) -> None:
    averages, values = tensors(device, torch.float64), tensors(device, torch.float64)
    before = [(a.flatten().tolist(), v.flatten().tolist()) for a, v in zip(averages, values, strict=True)]
    factor = torch.tensor(decay, device=device, dtype=torch.float64) if as_tensor else decay
    ema_update(averages, values, factor, shrink=shrink, impl=impl)
    for (old, new), average, value in zip(before, averages, values, strict=True):
        expected = [decay * a + (1 - decay) * v for a, v in zip(old, new, strict=True)]
        assert average.flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)
        assert value.flatten().tolist() == [shrink * v for v in new]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_kernel_is_within_one_rounding_of_the_reference(dtype: torch.dtype, device: torch.device) -> None:
    averages, values = tensors(device, dtype), tensors(device, dtype)
    expected = copies(averages)
    ema_update(expected, values, 0.9, impl="reference")
    ema_update(averages, values, 0.9, impl="triton")
    for ours, reference in zip(averages, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


def test_lists_of_several_types_at_once(impl: str, device: torch.device) -> None:
    averages = [torch.zeros(3, dtype=t, device=device) for t in (torch.float32, torch.float64, torch.float16)]
    values = [torch.ones_like(average) for average in averages]
    ema_update(averages, values, 0.75, impl=impl)
    assert all(average.eq(0.25).all() for average in averages)


def test_decay_zero_copies_and_decay_one_keeps_exactly(impl: str, device: torch.device) -> None:
    values = tensors(device)
    averages, kept = tensors(device), tensors(device)
    before = copies(kept)
    ema_update(averages, values, 0.0, impl=impl)
    ema_update(kept, values, 1.0, impl=impl)
    assert all(torch.equal(a, v) for a, v in zip(averages, values, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))


def test_parameters_that_require_gradients(impl: str, device: torch.device) -> None:
    model, teacher = torch.nn.Linear(3, 2, device=device), torch.nn.Linear(3, 2, device=device)
    expected = 0.9 * teacher.weight.detach() + 0.1 * model.weight.detach()
    ema_update(list(teacher.parameters()), list(model.parameters()), 0.9, shrink=0.5, impl=impl)
    torch.testing.assert_close(teacher.weight.detach(), expected)
    assert model.weight.requires_grad and model.weight.is_leaf


def test_memory_that_moves_is_followed(impl: str, device: torch.device) -> None:
    averages, values = [torch.zeros(5, device=device)], [torch.ones(5, device=device)]
    ema_update(averages, values, 0.5, impl=impl)
    values[0].data = torch.full((5,), 3.0, device=device)
    ema_update(averages, values, 0.5, impl=impl)
    assert averages[0].tolist() == [1.75] * 5


def test_misaligned_memory(device: torch.device) -> None:
    average, value = torch.zeros(9, device=device)[1:], torch.ones(9, device=device)[1:]
    ema_update([average], [value], 0.5, impl="triton")
    assert average.tolist() == [0.5] * 8


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_nan_and_infinity_pass_through(impl: str, device: torch.device) -> None:
    average = torch.tensor([1.0, 1.0, float("nan")], device=device)
    ema_update([average], [torch.tensor([float("nan"), float("inf"), 1.0], device=device)], 0.9, impl=impl)
    assert average[0].isnan() and average[1].isinf() and average[2].isnan()


def test_nothing_to_average(impl: str) -> None:
    assert ema_update([], [], 0.9, impl=impl) is None  # and no launch, which would have nothing to point at


@pytest.mark.parametrize(
    ("averages", "values", "message"),
    [
        ([torch.zeros(2)], [], "1 averages but 0 values"),
        ([torch.zeros(2)], [torch.zeros(3)], r"pair 0 must be .* torch.float32 \[2\] and torch.float32 \[3\]"),
        ([torch.zeros(2), torch.zeros(1)], [torch.zeros(2), torch.zeros(1).double()], "pair 1 must be"),
        ([torch.zeros(2).long()], [torch.zeros(2).long()], "pair 0 must be two floating-point tensors"),
    ],
    ids=["lengths", "shapes", "types", "integers"],
)
def test_bad_lists_name_the_pair(averages: list[Tensor], values: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=r"ema_update: .*" + message):
        ema_update(averages, values, 0.9)


def test_autograd_sees_that_saved_tensors_changed(impl: str, device: torch.device) -> None:
    """Shrinking a weight between forward and backward would give a wrong gradient without a word."""
    weight, average = torch.ones(3, device=device, requires_grad=True), torch.zeros(3, device=device)
    square = (weight**2).sum()
    ema_update([average], [weight.detach()], 0.5, impl=impl)
    before = average._version
    square.backward(retain_graph=True)
    ema_update([average], [weight], 0.5, shrink=0.5, impl=impl)
    assert average._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


def test_an_object_follows_its_tensors_step_by_step(impl: str, device: torch.device) -> None:
    averages, values = tensors(device), tensors(device)
    expected, others = copies(averages), copies(values)
    average = MovingAverage(averages, values, impl=impl)  # type: ignore[arg-type]
    for step, decay in enumerate((0.9, torch.tensor(0.5, device=device), 0.99)):
        shrink = 1.0 if step == 1 else torch.tensor(0.75, device=device) if step else 0.75
        average.update(decay, shrink=shrink)
        ema_update(expected, others, decay, shrink=shrink, impl="reference")
    for ours, reference in zip(averages + values, expected + others, strict=True):
        torch.testing.assert_close(ours, reference)


def test_tensors_on_several_devices_are_refused() -> None:
    meta = torch.zeros(2, device="meta")
    for averages, values in (([torch.zeros(2), meta], [torch.zeros(2), meta]), ([torch.zeros(2)], [meta])):
        for impl in IMPLS:
            with pytest.raises(ValueError, match="different devices: cpu and meta"):
                MovingAverage(averages, values, impl=impl)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different devices: cpu and decay on meta"):
        MovingAverage([torch.zeros(2)], [torch.zeros(2)]).update(torch.zeros((), device="meta"))


def test_compiles_as_one_graph(impl: str, device: torch.device) -> None:
    averages, values = tensors(device)[:4], tensors(device)[:4]
    expected = copies(averages)
    ema_update(expected, values, 0.9, impl="reference")  # which is what a compiler is given of either
    torch._dynamo.reset()
    torch.compile(lambda a, v: ema_update(a, v, 0.9, impl=impl), fullgraph=True, backend="aot_eager")(averages, values)
    # torch.compile takes the reference's lerp apart; CUDA's own is one fused multiply-add, which rounds once less
    fused = device.type == "cuda"
    close = torch.finfo(torch.float32).eps if fused else 0.0
    for ours, eager in zip(averages, expected, strict=True):
        torch.testing.assert_close(ours, eager, rtol=close, atol=close)


@pytest.mark.slow
@pytest.mark.timing
def test_reference_takes_a_wide_resnet_in_well_under_a_step() -> None:
    """Shapes of a WideResNet-28-2 (1.5 million numbers): 1.5 ms, where a loop over tensors takes tens."""
    widths = [(16, 3)] + [(n, m) for n in (32, 64, 128) for m in (n // 2, *[n] * 7)]
    shapes = [(n, m, 3, 3) for n, m in widths] + [(n,) for n, _ in widths for _ in range(4)] + [(10, 128), (10,)]
    averages, values = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        ema_update(averages, values, 0.999)
        times.append(time.perf_counter() - begin)
    assert min(times) < 1.5e-3, f"{1e3 * min(times):.2f} ms"
