"""Mixture of experts against float64 loops over images, experts and units (LEAF, Eqs. 2-5 and Figure 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ferbench.methods.blocks.experts import LEAST_HIDDEN, Experts

Array = NDArray[np.float64]
PLAIN: dict[str, Any] = {"kind": "linear", "activation": "softplus", "fusion": "linear"}


def expert_by_loops(experts: Experts, j: int, x: Array) -> Array:
    """Output of the j-th expert for one x."""

    def layer(number: int, inputs: Array) -> Array:
        weight, bias = (
            experts.get_parameter(f"{name}{number}")[j].double().detach().numpy() for name in ("weight", "bias")
        )
        return np.array([sum(inputs[i] * weight[i, o] for i in range(len(inputs))) + bias[o] for o in range(len(bias))])

    first = layer(1, x)
    if experts.kind == "linear":
        return first
    second = layer(2, np.maximum(first, 0))
    return x + second if experts.kind == "residual" else second


def gate_by_loops(raw: Array, k: int, softplus: bool) -> Array:
    """Eq. 3: softmax over the k largest, minus infinity elsewhere."""
    activated = np.logaddexp(0, raw) if softplus else raw
    chosen = np.argsort(-activated, kind="stable")[:k]
    weights = np.zeros(len(raw))
    weights[chosen] = np.exp(activated[chosen]) / np.exp(activated[chosen]).sum()
    return weights


def fused_by_loops(experts: Experts, x: Array, k: int) -> Array:
    """Eq. 2 for one x, or its sum in log space."""
    outputs = [expert_by_loops(experts, j, x) for j in range(len(experts.weight1))]
    if len(outputs) == 1:
        return outputs[0]
    weights = gate_by_loops(x @ experts.gate.double().detach().numpy(), k, experts.activation == "softplus")
    if experts.fusion == "linear":
        return np.asarray(sum(w * output for w, output in zip(weights, outputs, strict=True)))
    return np.log(sum(w * np.exp(output) for w, output in zip(weights, outputs, strict=True)))


@pytest.mark.parametrize("fusion", ["linear", "log"])
@pytest.mark.parametrize("activation", ["softplus", "none"])
@pytest.mark.parametrize("kind", ["linear", "bottleneck", "residual"])
@pytest.mark.parametrize(("images", "width", "count", "k"), [(1, 7, 1, 1), (3, 7, 4, 1), (5, 20, 4, 2), (2, 33, 6, 3)])
def test_experts_eqs_2_and_3(
    images: int, width: int, count: int, k: int, kind: Any, activation: Any, fusion: Any
) -> None:
    torch.manual_seed(width)
    experts = Experts(width, count, k, kind=kind, activation=activation, fusion=fusion)
    x = torch.randn(images, width)
    got = experts(x)
    assert got.shape == x.shape
    for row, image in zip(got.detach().double().numpy(), x.double().numpy(), strict=True):
        np.testing.assert_allclose(row, fused_by_loops(experts, image, k), rtol=1e-4, atol=1e-5)


WORKED_X = torch.tensor([[0.6, -0.2, 0.5], [-0.4, 0.8, 0.1]])
WORKED_GATE = [[0.5, -1.0, 0.2, 0.8], [0.3, 0.4, -0.6, -0.2], [-0.7, 0.9, 0.1, 0.4]]
WORKED_EXPERTS = [
    [[1.0, 0.2, 0.0], [0.0, 0.5, 0.1], [0.3, 0.0, 1.0]],
    [[0.2, 0.0, 0.7], [0.6, 0.1, 0.0], [0.0, 0.9, 0.2]],
    [[0.5, 0.5, 0.0], [0.0, 0.0, 0.4], [0.1, 0.2, 0.3]],
    [[0.0, 1.0, 0.0], [0.8, 0.0, 0.2], [0.4, 0.0, 0.6]],
]
WORKED = {
    (2, "softplus", "linear"): (
        -0.02663788819,
        0.4153059938,
        0.3796400466,
        -0.09684779039,
        0.05523148054,
        0.4530246926,
    ),
    (2, "softplus", "log"): (-0.006771951994, 0.4326407163, 0.3960864717, -0.09075888221, 0.09471736165, 0.5155948131),
    (2, "none", "linear"): (-0.04234946737, 0.430231994, 0.3941732573, -0.07935300032, 0.01187482688, 0.5108335642),
    (2, "none", "log"): (-0.02282410624, 0.4469273101, 0.4100168834, -0.07395764006, 0.04836223546, 0.5650308412),
    (1, "softplus", "linear"): (-0.2, 0.58, 0.54, -0.01, -0.16, 0.74),
    (1, "none", "log"): (-0.2, 0.58, 0.54, -0.01, -0.16, 0.74),
}


@pytest.mark.parametrize("case", WORKED, ids=str)
def test_worked_example(case: tuple[int, Any, Any]) -> None:
    k, activation, fusion = case
    experts = Experts(3, 4, k, kind="linear", activation=activation, fusion=fusion)
    with torch.no_grad():
        experts.gate.copy_(torch.tensor(WORKED_GATE))
        experts.weight1.copy_(torch.tensor(WORKED_EXPERTS).transpose(1, 2))
        experts.bias1.zero_()
    got = experts(WORKED_X).detach().numpy().flatten()
    np.testing.assert_allclose(got, WORKED[case], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fusion", ["linear", "log"])
def test_gradients_are_those_of_finite_differences(fusion: Any) -> None:
    torch.manual_seed(0)
    experts = Experts(5, 3, 2, kind="residual", activation="softplus", fusion=fusion).double()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in experts.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(experts, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *experts.parameters()))


def test_log_fusion_neither_overflows_nor_underflows() -> None:
    """The released form takes exp of the outputs as they are: infinite above 88.7, a floor of -36 below."""
    experts = Experts(2, 3, 2, **{**PLAIN, "activation": "none", "fusion": "log"})
    with torch.no_grad():
        experts.weight1.zero_()
        experts.gate.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
        experts.bias1.copy_(torch.tensor([[100.0, -200.0], [100.0, -200.0], [1e30, 1e30]]))  # the last is not chosen
    x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    np.testing.assert_allclose(experts(x).detach().numpy(), [[100.0, -200.0]])
    experts(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in experts.parameters())


def test_one_expert_has_no_gate_and_more_than_all_are_all() -> None:
    one = Experts(6, 1, 2, **PLAIN)
    assert {name for name, _ in one.named_parameters()} == {"weight1", "bias1"}
    assert Experts(6, 3, 8, **PLAIN).top_k == 3


@pytest.mark.parametrize(("width", "hidden"), [(512, 256), (128, 64), (17, 8), (16, 8), (7, LEAST_HIDDEN)])
def test_a_bottleneck_is_half_as_wide_but_not_below_eight(width: int, hidden: int) -> None:
    experts = Experts(width, 2, 1, kind="bottleneck", activation="softplus", fusion="linear")
    assert tuple(experts.weight1.shape) == (2, width, hidden)
    assert tuple(experts.weight2.shape) == (2, hidden, width)


def test_experts_start_apart_and_within_the_bound_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    experts = Experts(64, 4, 2, kind="residual", activation="softplus", fusion="linear")
    for name, inputs in (("weight1", 64), ("bias1", 64), ("weight2", 32), ("bias2", 32), ("gate", 64)):
        values = experts.get_parameter(name)
        assert 0.5 * inputs**-0.5 < values.abs().max().item() <= inputs**-0.5, name
    assert not torch.equal(experts.weight1[0], experts.weight1[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_near(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    experts = Experts(32, 4, 2, kind="residual", activation="softplus", fusion="linear")
    x = torch.randn(6, 32)
    with torch.autocast("cpu", dtype=dtype):
        got = experts(x)
    assert (got.float() - experts(x)).abs().max().item() < 0.05
