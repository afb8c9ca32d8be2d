"""The gate and the mixture of experts: LEAF's Eqs. 2-3 in slow loops, its worked numbers, and the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ferbench.kernels import mix_experts, topk_gate

IMPLS = ("reference", "triton")
ACTIVATIONS = ("softplus", "none")
DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float16, id="float16")]

# LEAF's worked example: two features, a gate matrix of four experts, four linear experts
FEATURES = torch.tensor([[0.6, -0.2, 0.5], [-0.4, 0.8, 0.1]], dtype=torch.float64)
GATE = torch.tensor([[0.5, -1.0, 0.2, 0.8], [0.3, 0.4, -0.6, -0.2], [-0.7, 0.9, 0.1, 0.4]], dtype=torch.float64)
EXPERTS = torch.tensor(
    [
        [[1.0, 0.2, 0.0], [0.0, 0.5, 0.1], [0.3, 0.0, 1.0]],
        [[0.2, 0.0, 0.7], [0.6, 0.1, 0.0], [0.0, 0.9, 0.2]],
        [[0.5, 0.5, 0.0], [0.0, 0.0, 0.4], [0.1, 0.2, 0.3]],
        [[0.0, 1.0, 0.0], [0.8, 0.0, 0.2], [0.4, 0.0, 0.6]],
    ],
    dtype=torch.float64,
)


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loop_gate(row: list[float], k: int, activation: str) -> list[float]:
    """Eq. 3 for one row: the k largest, ties to the lower index, softmax of their activations."""
    chosen = sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]
    value = {j: row[j] for j in chosen}
    if activation == "softplus":
        value = {j: max(x, 0.0) + math.log1p(math.exp(-abs(x))) for j, x in value.items()}
    top = max(value.values())
    total = sum(math.exp(v - top) for v in value.values())
    return [math.exp(value[j] - top) / total if j in value else 0.0 for j in range(len(row))]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("rows", "experts", "k"),
    [(1, 2, 1), (3, 2, 2), (17, 7, 3), (5, 33, 8), (2, 160, 6), (3, 256, 8), (0, 4, 2)],
    ids=lambda n: str(n),
)
def test_eq3_softmax_over_the_k_largest(
    impl: str, activation: str, rows: int, experts: int, k: int, device: torch.device
) -> None:
    logits = 3 * torch.randn(rows, experts, dtype=torch.float64)
    logits = logits.round() if experts > 8 else logits  # many ties
    expected = torch.tensor([loop_gate(row, k, activation) for row in logits.tolist()], dtype=torch.float64)
    weights = topk_gate(logits.to(device), k, activation=activation, impl=impl)
    assert weights.shape == (rows, experts)
    torch.testing.assert_close(weights.cpu(), expected.reshape(rows, experts), rtol=1e-9, atol=1e-12)
    assert ((weights > 0).sum(dim=1) == k).all()


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("softplus", [[0, 0, 0.4334052795, 0.5665947205], [0.3775990887, 0.6224009113, 0, 0]]),
        ("none", [[0, 0, 0.3941263316, 0.6058736684], [0.301534784, 0.698465216, 0, 0]]),
    ],
    ids=ACTIVATIONS,
)
def test_eq3_worked_example(impl: str, activation: str, expected: list[list[float]], device: torch.device) -> None:
    weights = topk_gate((FEATURES @ GATE).to(device), 2, activation=activation, impl=impl)
    torch.testing.assert_close(weights.cpu(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_eq2_worked_example(impl: str, device: torch.device) -> None:
    outputs = torch.einsum("jab,ib->ija", EXPERTS, FEATURES)
    weights = topk_gate(FEATURES @ GATE, 2, impl="reference")
    mixed = mix_experts(weights.to(device), outputs.to(device), impl=impl)
    expected = [[-0.02663788819, 0.4153059938, 0.3796400466], [-0.09684779039, 0.05523148054, 0.4530246926]]
    torch.testing.assert_close(mixed.cpu(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_softplus_is_exact_in_both_tails(impl: str, device: torch.device) -> None:
    """log(1 + exp(x)) computed plainly is 0 below -17: the two weights would tie at 1/2 in a softmax of logarithms."""
    logits = torch.tensor([[-20.0, -1e4], [60.0, 59.0], [0.0, -0.0], [1e4, -1e4]], device=device).double()
    weights = topk_gate(logits, 2, impl=impl).cpu()
    expected = torch.tensor([loop_gate(row, 2, "softplus") for row in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(weights - 0.5, expected - 0.5, rtol=1e-6, atol=1e-13)


def test_choice_is_made_where_softplus_underflows(impl: str, device: torch.device) -> None:
    logits = torch.tensor([[-300.0, -200.0, -250.0]], device=device)
    assert topk_gate(logits, 1, impl=impl).tolist() == [[0.0, 1.0, 0.0]]


def test_nan_reaches_the_weights_and_the_rest_stay_zero(impl: str, device: torch.device) -> None:
    weights = topk_gate(torch.tensor([[1.0, float("nan"), 0.0], [1.0, 2.0, 3.0]], device=device), 2, impl=impl)
    assert weights[0].isnan().tolist() == [True, True, False] and weights[0, 2] == 0
    assert weights[1].isfinite().all()


def gate_grads(logits: Tensor, k: int, activation: str, impl: str, upstream: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    weights = topk_gate(leaf, k, activation=activation, impl=impl)
    weights.backward(upstream.to(weights.dtype))
    assert leaf.grad is not None
    return weights.detach(), leaf.grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "experts", "k"), [(33, 5, 2), (7, 100, 8), (1, 2, 1)], ids=lambda n: str(n))
def test_gate_kernel_is_as_good_as_torch(
    dtype: torch.dtype, activation: str, rows: int, experts: int, k: int, device: torch.device,
    assert_as_good_as_torch: Callable[..., None],
) -> None:  # fmt: skip
    logits = (4 * torch.randn(rows, experts, device=device)).to(dtype)
    upstream = 3 * torch.randn(rows, experts, device=device)
    ours = gate_grads(logits, k, activation, "triton", upstream)
    plain = gate_grads(logits, k, activation, "reference", upstream)
    truth = gate_grads(logits.double(), k, activation, "reference", upstream)
    for name, *values in zip(("weights", "dlogits"), ours, plain, truth, strict=True):
        # a GPU's exp rounds its argument first, and its division is off by 2 units: a weight and a sigmoid are off by a
        # few, which a float32 gradient multiplies by an incoming one of up to 9 before two such terms cancel
        coarse = device.type == "cuda" and (name, dtype, activation) == ("dlogits", torch.float32, "softplus")
        assert_as_good_as_torch(name, *values, (7 if coarse else 1) * torch.finfo(dtype).eps)


@pytest.mark.parametrize("row", [[1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0.0, 0.0, 0.0]], ids=str)
def test_gate_stays_finite_at_extremes(impl: str, row: list[float], device: torch.device) -> None:
    upstream = torch.tensor([[1.0, -2.0, 3.0]], device=device)
    weights, grad = gate_grads(torch.tensor([row], device=device), 2, "softplus", impl, upstream)
    assert weights.isfinite().all() and grad.isfinite().all()
    assert weights.sum().item() == pytest.approx(1.0)


def test_gate_takes_strided_logits(device: torch.device) -> None:
    wide = torch.randn(9, 24, device=device)
    for view in (wide[:, ::3], wide.T, wide[::2, 3:10]):
        dense = topk_gate(view.contiguous(), 2, impl="triton")
        assert torch.equal(topk_gate(view, 2, impl="triton"), dense)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gate_gradcheck(impl: str, activation: str, device: torch.device) -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: topk_gate(x, 3, activation=activation, impl=impl), (logits,))


def loop_mix(weights: Tensor, outputs: Tensor) -> Tensor:
    mixed = torch.zeros(outputs.shape[0], outputs.shape[2], dtype=torch.float64)
    for b in range(outputs.shape[0]):
        for j in range(outputs.shape[1]):
            for d in range(outputs.shape[2]):
                mixed[b, d] += weights[b, j].item() * outputs[b, j, d].item()
    return mixed


@pytest.mark.parametrize(
    ("rows", "experts", "features"), [(1, 1, 1), (5, 4, 7), (3, 2, 33), (0, 3, 4), (2, 100, 5)], ids=str
)
def test_eq2_weighted_sum(impl: str, rows: int, experts: int, features: int, device: torch.device) -> None:
    weights, outputs = torch.randn(rows, experts).double(), torch.randn(rows, experts, features).double()
    mixed = mix_experts(weights.to(device), outputs.to(device), impl=impl)
    torch.testing.assert_close(mixed.cpu(), loop_mix(weights, outputs))


def mix_grads(weights: Tensor, outputs: Tensor, impl: str, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leaves = weights.clone().requires_grad_(), outputs.clone().requires_grad_()
    mixed = mix_experts(*leaves, impl=impl)
    mixed.backward(upstream.to(mixed.dtype))
    assert leaves[0].grad is not None and leaves[1].grad is not None
    return mixed.detach(), leaves[0].grad, leaves[1].grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "experts", "features"), [(5, 4, 700), (67, 3, 7), (2, 9, 64), (3, 60, 32)], ids=str)
def test_mix_kernel_is_as_good_as_torch(
    dtype: torch.dtype, rows: int, experts: int, features: int, device: torch.device,
    assert_as_good_as_torch: Callable[..., None],
) -> None:  # fmt: skip
    weights = topk_gate(torch.randn(rows, experts, device=device), 2, impl="reference").to(dtype)
    outputs = torch.randn(rows, experts, features, device=device).to(dtype)
    upstream = 3 * torch.randn(rows, features, device=device)
    ours = mix_grads(weights, outputs, "triton", upstream)
    plain = mix_grads(weights, outputs, "reference", upstream)
    truth = mix_grads(weights.double(), outputs.double(), "reference", upstream)
    for name, *values in zip(("mixed", "dweights", "doutputs"), ours, plain, truth, strict=True):
        assert_as_good_as_torch(name, *values, torch.finfo(dtype).eps)


@pytest.mark.parametrize("features", [6, 40], ids=["at-once", "one-by-one"])
def test_mix_takes_strided_and_mixed_types(features: int, device: torch.device) -> None:
    stacked = torch.randn(4, 5, 2 * features, device=device)  # experts first, as a list of experts stacks
    weights = torch.randn(4, 5, device=device, dtype=torch.float64).T
    outputs = stacked.permute(1, 0, 2)[:, :, ::2]
    mixed = mix_experts(weights, outputs, impl="triton")
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed.cpu(), loop_mix(weights, outputs))


@pytest.mark.parametrize("times", [1, 20], ids=["at-once", "one-by-one"])
def test_an_unchosen_expert_cannot_spoil_the_sum(impl: str, times: int, device: torch.device) -> None:
    weights = torch.tensor([[0.0, 1.0]], device=device)
    outputs = torch.tensor([[[float("nan"), float("inf")], [2.0, 3.0]]], device=device).repeat(1, 1, times)
    mixed, dweights, doutputs = mix_grads(weights, outputs, impl, torch.ones(1, 2 * times, device=device))
    assert mixed.tolist() == [[2.0, 3.0] * times]
    assert dweights.tolist() == [[0.0, 5.0 * times]]
    assert doutputs.tolist() == [[[0.0, 0.0] * times, [1.0, 1.0] * times]]


def test_mix_gradcheck(impl: str, device: torch.device) -> None:
    weights = torch.tensor([[0.0, 0.3, 0.7], [1.0, 0.0, 0.0]], dtype=torch.float64, device=device, requires_grad=True)
    outputs = torch.randn(2, 3, 5, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, o: mix_experts(w, o, impl=impl), (weights, outputs))


def test_a_second_run_gives_the_same_bits(device: torch.device) -> None:
    logits, outputs = torch.randn(20, 6, device=device), torch.randn(20, 6, 40, device=device)
    ones = torch.ones(20, 40, device=device)
    runs = [mix_grads(topk_gate(logits, 2, impl="triton"), outputs, "triton", ones) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


def test_ops_are_well_registered(device: torch.device) -> None:
    logits = torch.randn(4, 5, device=device)
    outputs = torch.randn(4, 5, 3, device=device)
    ops = torch.ops.ferbench
    torch.library.opcheck(ops.topk_gate_forward.default, (logits, 2, True))
    torch.library.opcheck(ops.topk_gate_backward.default, (logits, logits.softmax(1), logits, True))
    torch.library.opcheck(ops.mix_experts_forward.default, (logits, outputs))
    torch.library.opcheck(ops.mix_experts_backward.default, (outputs[:, 0], logits, outputs))


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["auto", "triton"])
def test_gate_and_mix_compile_in_one_graph(impl: str, device: torch.device) -> None:
    def step(logits: Tensor, outputs: Tensor) -> Tensor:
        return mix_experts(topk_gate(logits, 2, impl=impl), outputs, impl=impl).square().sum()  # type: ignore[arg-type]

    def grads(run: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        leaves = [torch.randn(size, generator=generator).to(device).requires_grad_() for size in ((6, 4), (6, 4, 9))]
        return [run(*leaves).detach(), *torch.autograd.grad(run(*leaves), leaves)]

    for ours, eager in zip(grads(torch.compile(step, fullgraph=True)), grads(step), strict=True):
        torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: topk_gate(torch.zeros(2, 3), 4), "k must lie in 1..3"),
        (lambda: topk_gate(torch.zeros(2, 3), 0), "k must lie in 1..3"),
        (lambda: topk_gate(torch.zeros(3), 1), "logits must have shape"),
        (lambda: topk_gate(torch.zeros(2, 3), 1, activation="relu"), "activation must be one of"),
        (lambda: mix_experts(torch.zeros(2, 3), torch.zeros(2, 4, 5)), "outputs must have shape"),
    ],
    ids=["k-large", "k-zero", "one-dim", "activation", "mix-shape"],
)
def test_misuse_is_one_clear_line(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_gate_kernel_names_its_expert_limit(device: torch.device) -> None:
    with pytest.raises(ValueError, match="at most 256 experts and k 8 in Triton, got 300 and 1"):
        topk_gate(torch.zeros(2, 300, device=device), 1, impl="triton")
