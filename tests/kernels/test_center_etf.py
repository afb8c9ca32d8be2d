"""Centre loss and ETF regulariser: against the paper's equations in slow loops, and kernels against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ferbench.kernels.reference
from ferbench.kernels import Rows, center_etf_loss

IMPLS = ("reference", "triton")
FORMS = ("paper", "released")

# ReMoP's worked example: K = 3, D = 2
CENTERS = torch.tensor([[2.0, 0.5], [-0.2, 1.8], [-0.9, -1.1]], dtype=torch.float64)
LABELLED = torch.tensor([[1.0, 0.5], [-0.5, 1.5], [0.2, -1.0]], dtype=torch.float64)
STRONG = torch.tensor([[3.0, 1.5], [0.2, 2.0], [-1.2, -1.0], [0.1, 0.4]], dtype=torch.float64)
GENERIC = torch.tensor([[1.0, 0.2, 0.0], [-0.3, 1.1, 0.4], [0.5, -0.7, 0.9], [-0.8, -0.1, -1.2]], dtype=torch.float64)

# rows, centres, features; "tiles" shapes are past the paper-size kernels
SHAPES = {
    "B16-K7-D512": (16, 7, 512),
    "B33-K8-D63": (33, 8, 63),
    "B5-K2-D1": (5, 2, 1),
    "B1-K16-D3": (1, 16, 3),
    "B600-K7-D5": (600, 7, 5),
    "B20-K3-D2050": (20, 3, 2050),
    "tiles-pairs-B70-K19-D20": (70, 19, 20),
    "tiles-pairs-B9-K70-D150": (9, 70, 150),
    "tiles-gram-B21-K70-D20": (21, 70, 20),
    "tiles-gram-B3-K301-D140": (3, 301, 140),
}


def loop_center(features: np.ndarray, labels: np.ndarray, centers: np.ndarray, keep: np.ndarray) -> tuple[float, int]:
    """Sum of half squared distances and the number of kept rows, one number at a time."""
    total, count = 0.0, 0
    for i, kept in enumerate(keep):
        if kept:
            count += 1
            total += 0.5 * sum((features[i, d] - centers[labels[i], d]) ** 2 for d in range(centers.shape[1]))
    return total, count


def loop_cosines(centers: np.ndarray) -> np.ndarray:
    """Cosines of the centred centres, pair by pair."""
    count, width = centers.shape
    mean = [sum(centers[k, d] for k in range(count)) / count for d in range(width)]
    unit = []
    for k in range(count):
        offset = [centers[k, d] - mean[d] for d in range(width)]
        length = math.sqrt(sum(v * v for v in offset))
        unit.append([v / length for v in offset])
    return np.array([[sum(a * b for a, b in zip(u, v, strict=True)) for v in unit] for u in unit])


def draw(
    rows: int, classes: int, width: int, dtype: torch.dtype, device: torch.device, masked: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    features = torch.randn(rows, width, dtype=torch.float64).to(dtype)
    centers = (torch.randn(classes, width, dtype=torch.float64) + 0.5).to(dtype)
    mask = (torch.rand(rows) > 0.3).to(device) if masked else None
    return features.to(device), torch.randint(classes, (rows,)).to(device), centers.to(device), mask


def evaluate(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    mask: Tensor | None,
    incoming: tuple[float, float],
    **options: Any,
) -> dict[str, Tensor]:
    """Both losses and both gradients, with an incoming gradient of its own for each loss."""
    features, centers = features.detach().requires_grad_(), centers.detach().requires_grad_()
    center, etf = center_etf_loss(features, labels, centers, mask=mask, **options)
    (incoming[0] * center + incoming[1] * etf).backward()
    assert features.grad is not None and centers.grad is not None
    return {"center": center.detach(), "etf": etf.detach(), "d_features": features.grad, "d_centers": centers.grad}


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- the paper's equations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [5, 20], ids=["paper", "tiles"])
@pytest.mark.parametrize("divisor", [None, 1.0, 2.5, "tensor"], ids=str)
def test_center_loss_of_section_4_2(impl: str, divisor: float | str | None, classes: int, device: torch.device) -> None:
    features, labels, centers, mask = draw(11, classes, 6, torch.float64, device)
    by = torch.tensor(3.0, device=device) if divisor == "tensor" else divisor
    center, _ = center_etf_loss(features, labels, centers, mask=mask, divisor=by, impl=impl)
    total, count = loop_center(*(t.cpu().numpy() for t in (features, labels, centers, mask)))
    assert 0 < count < 11
    assert float(center) == pytest.approx(total / (count if by is None else float(by)), rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "classes"), [((5, 7), 4), ((300, 20), 3), ((5, 7), 20)], ids=["paper", "many", "tiles"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_two_sets_of_rows_are_two_losses_added(
    impl: str, rows: tuple[int, int], classes: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Labelled rows and confident ones in one call: values and all three gradients are those of two calls."""
    features, labels, centers, _ = draw(rows[0], classes, 6, dtype, device)
    others, guesses, _, keep = draw(rows[1], classes, 6, dtype, device)
    assert keep is not None
    count, leaves = keep.sum().float(), [x.requires_grad_() for x in (features, others, centers)]
    incoming = torch.tensor([0.7, -1.3], dtype=dtype, device=device)

    def gradients(center: Tensor, etf: Tensor) -> list[Tensor]:
        both = torch.stack([center, etf])
        return [both.detach(), *torch.autograd.grad(both, leaves, incoming)]

    together = center_etf_loss(
        features, labels, centers, divisor=2.0, more=Rows(others, guesses, keep, count), impl=impl
    )  # fmt: skip
    first, etf = center_etf_loss(features, labels, centers, divisor=2.0, impl="reference")
    second, _ = center_etf_loss(others, guesses, centers, mask=keep, divisor=count, impl="reference")
    close = 1e-12 if dtype == torch.float64 else 2e-5
    expected = gradients(first + second, etf)
    for ours, wanted in zip(gradients(*together), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=close, atol=close)


@pytest.mark.parametrize("shape", [(2, 1), (3, 2), (7, 9), (9, 4)], ids=["K2-D1", "K3-D2", "K7-D9", "K9-D4"])
def test_eq8_etf_regulariser(impl: str, shape: tuple[int, int], device: torch.device) -> None:
    centers = torch.randn(shape, dtype=torch.float64)
    cosines, count = loop_cosines(centers.numpy()), shape[0]
    expected = sum((cosines[k, t] + 1.0 / (count - 1)) ** 2 for k in range(count) for t in range(count) if k != t)
    _, etf = center_etf_loss(centers[:1].to(device), torch.zeros(1).long().to(device), centers.to(device), impl=impl)
    assert float(etf) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 1), (3, 2), (7, 9), (9, 4)], ids=["K2-D1", "K3-D2", "K7-D9", "K9-D4"])
def test_released_norm_with_shifted_diagonal(impl: str, shape: tuple[int, int], device: torch.device) -> None:
    centers = torch.randn(shape, dtype=torch.float64)
    matrix = loop_cosines(centers.numpy())
    np.fill_diagonal(matrix, -1.0 / (shape[0] - 1))
    no_rows = torch.empty(0, shape[1], dtype=torch.float64, device=device)
    _, etf = center_etf_loss(no_rows, torch.zeros(0).long().to(device), centers.to(device), etf="released", impl=impl)
    assert float(etf) == pytest.approx(np.linalg.norm(matrix), rel=1e-12)


def test_worked_example_c_center_loss(impl: str, device: torch.device) -> None:
    centers, labels = CENTERS.to(device), torch.tensor([0, 1, 2], device=device)
    center, _ = center_etf_loss(LABELLED.to(device), labels, centers, divisor=1.0, impl=impl)
    assert float(center) == pytest.approx(1.2, rel=1e-9)
    confident = torch.tensor([True, False, True, False], device=device)
    labels = torch.tensor([0, 1, 2, 1], device=device)
    center, _ = center_etf_loss(STRONG.to(device), labels, centers, mask=confident, divisor=1.0, impl=impl)
    assert float(center) == pytest.approx(1.05, rel=1e-9)


@pytest.mark.parametrize(
    ("centers", "paper", "released"),
    [
        pytest.param(CENTERS, 0.1551180755, 1.534766764, id="three"),
        pytest.param(GENERIC, 1.037348532, 1.637449223, id="generic-four"),
        pytest.param(math.sqrt(4 / 3) * (torch.eye(4).double() - 0.25), 0.0, 1.333333333, id="simplex-etf"),
    ],
)
def test_worked_example_d_etf(impl: str, centers: Tensor, paper: float, released: float, device: torch.device) -> None:
    centers, labels = centers.to(device), torch.zeros(1).long().to(device)
    for form, expected in (("paper", paper), ("released", released)):
        _, etf = center_etf_loss(centers[:1], labels, centers, etf=form, impl=impl)
        assert float(etf) == pytest.approx(expected, rel=1e-9, abs=1e-24)


def test_worked_example_d_gradients(impl: str, device: torch.device) -> None:
    gradients = [
        evaluate(GENERIC[:1].to(device), torch.zeros(1).long().to(device), GENERIC.to(device), None, (0.0, 1.0),
                 etf=form, impl=impl)["d_centers"]
        for form in FORMS
    ]  # fmt: skip
    assert [float(g.norm()) for g in gradients] == pytest.approx([3.847304548, 1.142342091], rel=1e-9)
    assert float(torch.cosine_similarity(*(g.flatten() for g in gradients), dim=0)) == pytest.approx(0.9916192067)


def test_worked_example_e_total_with_means_per_group(impl: str, device: torch.device) -> None:
    centers, labels = CENTERS.to(device), torch.tensor([0, 1, 2], device=device)
    labelled, etf = center_etf_loss(LABELLED.to(device), labels, centers, impl=impl)
    confident = torch.tensor([True, False, True, False], device=device)
    chosen = torch.tensor([0, 1, 2, 1], device=device)
    unlabelled, _ = center_etf_loss(STRONG.to(device), chosen, centers, mask=confident, impl=impl)
    total = 0.4377112491 + 0.100000666 + 1e-4 * (labelled + unlabelled) + 0.1 * etf
    assert float(total) == pytest.approx(0.5533162226, rel=1e-9)


def test_worked_example_f_rescaled_center_gradients(impl: str, device: torch.device) -> None:
    labels = torch.tensor([0, 1, 2], device=device)
    released = {
        name: evaluate(LABELLED.to(device), labels, CENTERS.to(device), None, incoming, etf="released", impl=impl)
        for name, incoming in (("center", (2.0, 0.0)), ("etf", (0.0, 0.1 * 1e4)))
    }
    assert float(released["center"]["d_centers"].norm()) == pytest.approx(1.032795559, rel=1e-9)
    assert float(released["etf"]["d_centers"].norm()) == pytest.approx(177.1901016, rel=1e-9)


# --- kernels against the reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "form"),
    [
        pytest.param(shape, dtype, form, id=f"{name}-{kind}-{form}",
                     marks=pytest.mark.slow if shape[1] > 300 and (kind, form) != ("fp32", "paper") else ())
        for name, shape in SHAPES.items()
        for kind, dtype in (("fp32", torch.float32), ("fp16", torch.float16))
        for form in FORMS
    ],
)  # fmt: skip
def test_values_and_gradients(
    shape: tuple[int, int, int], dtype: torch.dtype, form: str, device: torch.device,
    assert_as_good_as_torch: Callable[..., None],
) -> None:  # fmt: skip
    inputs = draw(*shape, dtype, device)
    incoming = (0.7, -1.3)
    ours = evaluate(*inputs, incoming, etf=form, impl="triton")
    plain = evaluate(*inputs, incoming, etf=form, impl="reference")
    truth = evaluate(inputs[0].double(), inputs[1], inputs[2].double(), inputs[3], incoming, etf=form, impl="reference")
    gram_on_gpu = device.type == "cuda" and shape[1] > 2 * shape[2]
    for name in ours:
        # half precision gradients are rounded once more on the way out: half a unit in the last place
        rounding = torch.finfo(ours[name].dtype).eps if ours[name].dtype == torch.float16 else 0.0
        constant = (5e-5 if gram_on_gpu else 1e-6) + rounding
        assert_as_good_as_torch(name, ours[name], plain[name], truth[name], constant)


@pytest.mark.parametrize("shape", ["B33-K8-D63", "tiles-pairs-B70-K19-D20", "tiles-gram-B21-K70-D20"])
def test_strided_inputs(shape: str, device: torch.device) -> None:
    rows, classes, width = SHAPES[shape]
    features = torch.randn(2 * rows, 3 * width, device=device)[::2, ::3]
    centers = torch.randn(width, classes, device=device).t()
    labels = torch.randint(classes, (rows, 2), device=device).int()[:, 1]
    mask = (torch.rand(rows, 3, device=device) > 0.4)[:, 2]
    assert not (features.is_contiguous() or centers.is_contiguous() or labels.is_contiguous() or mask.is_contiguous())
    ours = evaluate(features, labels, centers, mask, (1.0, 1.0), impl="triton")
    expected = evaluate(features, labels, centers, mask, (1.0, 1.0), impl="reference")
    # float32 Gram matrices are three bfloat16 products on a GPU, which leave out up to 2^-16
    gram_on_gpu = device.type == "cuda" and classes > 2 * width
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2.5e-5 if gram_on_gpu else 1e-5)


@pytest.mark.parametrize("classes", [4, 20, 25], ids=["paper", "pairs", "gram"])
def test_features_and_centers_of_two_types(classes: int, device: torch.device) -> None:
    """float64 beside float16: losses in float64, each gradient in its own type, from narrow labels."""
    features, labels, centers, mask = draw(30, classes, 10, torch.float64, device)
    inputs = features, labels.int(), centers.half(), mask
    ours, plain = (evaluate(*inputs, (1.0, 0.5), impl=impl) for impl in ("triton", "reference"))
    assert (ours["center"].dtype, ours["d_centers"].dtype) == (torch.float64, torch.float16)
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4, 10), (40, 20, 10)], ids=["paper", "tiles"])
@pytest.mark.parametrize("used", ["center", "etf"])
def test_one_loss_alone_and_centers_alone(
    impl: str, used: str, shape: tuple[int, int, int], device: torch.device
) -> None:
    features, labels, centers, mask = draw(*shape, torch.float64, device)
    whole = evaluate(features, labels, centers, mask, (1.0, 0.0) if used == "center" else (0.0, 1.0), impl="reference")
    centers.requires_grad_()
    center, etf = center_etf_loss(features, labels, centers, mask=mask, impl=impl)
    (center if used == "center" else etf).backward()
    torch.testing.assert_close(centers.grad, whole["d_centers"])


def test_gradient_of_etf_reaches_centers_only(impl: str, device: torch.device) -> None:
    result = evaluate(*draw(6, 4, 10, torch.float32, device), (0.0, 1.0), impl=impl)
    assert not result["d_features"].any()
    assert result["d_centers"].any()


@pytest.mark.parametrize("shape", [(6, 4, 10), (40, 20, 10), (40, 25, 10)], ids=["paper", "pairs", "gram"])
def test_twice_the_same_bits(shape: tuple[int, int, int], device: torch.device) -> None:
    inputs = draw(*shape, torch.float32, device)
    first, second = (evaluate(*inputs, (1.0, 1.0), impl="triton") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(3, 3, 2), (4, 17, 9), (4, 17, 3)], ids=["paper", "pairs", "gram"])
def test_gradcheck(impl: str, form: str, shape: tuple[int, int, int], device: torch.device) -> None:
    features, labels, centers, mask = draw(*shape, torch.float64, device)
    mask = torch.tensor([True, False, True, True], device=device)[: shape[0]]

    def losses(features: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        return center_etf_loss(features, labels, centers, mask=mask, etf=form, impl=impl)

    assert torch.autograd.gradcheck(losses, (features.requires_grad_(), centers.requires_grad_()), fast_mode=True)


def test_reference_has_second_derivatives() -> None:
    features, labels, centers, mask = draw(3, 3, 2, torch.float64, torch.device("cpu"))
    assert torch.autograd.gradgradcheck(
        lambda x, h: center_etf_loss(x, labels, h, mask=mask, impl="reference"),
        (features.requires_grad_(), centers.requires_grad_()),
    )


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [5, 40], ids=["paper", "tiles"])
@pytest.mark.parametrize("empty", ["no-rows", "all-masked"])
def test_nothing_kept_is_zero_with_zero_gradients(impl: str, empty: str, classes: int, device: torch.device) -> None:
    rows = 0 if empty == "no-rows" else 4
    features, labels, centers, _ = draw(rows, classes, 6, torch.float32, device)
    result = evaluate(features, labels, centers, torch.zeros(rows).bool().to(device), (1.0, 0.0), impl=impl)
    assert float(result["center"]) == 0.0
    assert not result["d_features"].any() and not result["d_centers"].any()


@pytest.mark.parametrize("classes", [5, 40], ids=["paper", "tiles"])
def test_rows_left_out_are_not_looked_at(impl: str, classes: int, device: torch.device) -> None:
    features, labels, centers, _ = draw(6, classes, 8, torch.float32, device)
    mask = torch.tensor([True, False, True, True, False, True], device=device)
    clean = evaluate(features, labels, centers, mask, (1.0, 1.0), impl=impl)
    features[~mask], labels[~mask] = float("nan"), torch.tensor([-7, classes + 3], device=device)
    torch.testing.assert_close(evaluate(features, labels, centers, mask, (1.0, 1.0), impl=impl), clean, rtol=0, atol=0)


@pytest.mark.parametrize("classes", [5, 40], ids=["paper", "tiles"])
@pytest.mark.parametrize("label", [-1, 40, 2**40])
def test_kernel_turns_a_label_out_of_range_into_nan(classes: int, label: int, device: torch.device) -> None:
    features, labels, centers, _ = draw(6, classes, 8, torch.float32, device)
    labels[3] = label
    center, etf = center_etf_loss(features, labels, centers, impl="triton")
    assert center.isnan() and etf.isfinite()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(7, 5), (40, 30), (40, 5)], ids=["paper", "pairs", "gram"])
@pytest.mark.parametrize("kind", ["all-equal", "one-at-the-mean", "two-equal", "huge", "zero"])
def test_degenerate_centers_stay_finite(
    impl: str, kind: str, shape: tuple[int, int], form: str, device: torch.device
) -> None:
    centers = torch.randn(shape)
    if kind == "all-equal":
        centers[:] = centers[0] * 3.3
    elif kind == "one-at-the-mean":
        centers[0] = centers[1:].mean(0)
    elif kind == "two-equal":
        centers[1] = centers[0]
    else:
        centers = centers.sign() * 1e4 if kind == "huge" else torch.zeros(shape)
    features, labels = torch.randn(4, shape[1]) * 1e4, torch.randint(shape[0], (4,))
    result = evaluate(features.to(device), labels.to(device), centers.to(device), None, (1.0, 1.0), etf=form, impl=impl)
    assert all(value.isfinite().all() for value in result.values())
    if kind in ("all-equal", "zero") and form == "paper":
        # every cosine is zero: K (K-1) pairs of (1 / (K-1))^2
        assert float(result["etf"]) == pytest.approx(shape[0] / (shape[0] - 1), rel=1e-5)


def test_near_the_optimum_the_diagonal_does_not_cancel(impl: str, device: torch.device) -> None:
    etf = math.sqrt(7 / 6) * (torch.eye(7).double() - 1 / 7) + 1e-5 * torch.randn(7, 7).double()
    labels = torch.zeros(1).long().to(device)
    _, truth = center_etf_loss(etf[:1], labels.cpu(), etf, impl="reference")
    near = etf.float().to(device)
    _, value = center_etf_loss(near[:1], labels, near, impl=impl)
    assert 1e-10 < float(truth) < 1e-7
    assert float(value) == pytest.approx(float(truth), rel=0.05)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any op returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, Tensor):
                self.largest = max(self.largest, item.numel())
        return out


def test_many_centers_need_no_square_matrix(impl: str, device: torch.device) -> None:
    features, labels, centers, _ = draw(8, 400, 6, torch.float32, device)
    with LargestTensor() as seen:
        evaluate(features, labels, centers, None, (1.0, 1.0), impl=impl)
    assert seen.largest <= 4 * centers.numel() < 400 * 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(3)}, r"features must have shape \[\*, \*\], not \[3\]"),
        ({"centers": torch.zeros(4, 5)}, r"centers must have shape \[\*, 2\], not \[4, 5\]"),
        ({"labels": torch.zeros(4).long()}, r"labels must have shape \[3\]"),
        ({"labels": torch.zeros(3)}, "labels must be integers"),
        ({"mask": torch.zeros(3)}, "mask must be bool"),
        ({"centers": torch.zeros(1, 2)}, "at least 2 centres"),
        ({"etf": "frobenius"}, "etf must be one of 'paper', 'released', not 'frobenius'"),
        ({"divisor": torch.ones(2)}, r"divisor must have shape \[\]"),
        ({"more": Rows(torch.zeros(2, 3), torch.zeros(2).long())}, r"centers must have shape \[\*, 3\]"),
        ({"more": Rows(torch.zeros(2, 2), torch.zeros(3).long())}, r"more.labels must have shape \[2\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_name_the_argument(change: dict[str, Any], message: str) -> None:
    good = {"features": torch.zeros(3, 2), "labels": torch.zeros(3).long(), "centers": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match="center_etf_loss: .*" + message):
        center_etf_loss(**{**good, **change})


# --- tracing and addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 4, 10), (20, 20, 11), (20, 25, 10)], ids=["paper", "pairs", "gram"])
def test_opcheck(shape: tuple[int, int, int], device: torch.device) -> None:
    features, labels, centers, mask = draw(*shape, torch.float32, device)
    forward = torch.ops.ferbench.center_etf_forward.default
    backward = torch.ops.ferbench.center_etf_backward.default
    grad = torch.tensor(0.5, device=device)
    for more in ((None, None, None, None, 1.0), (features + 1, labels, None, grad, 1.0)):
        inputs = centers, features, labels, mask, None, 3.0, *more
        torch.library.opcheck(forward, (*inputs, True))
        _, *state = forward(*inputs, True)
        torch.library.opcheck(backward, (*inputs, *state, grad, grad, True))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(impl: str, backend: str, device: torch.device) -> None:
    inputs = draw(9, 4, 10, torch.float32, device)

    def step(features: Tensor, labels: Tensor, centers: Tensor, mask: Tensor) -> Tensor:
        center, etf = center_etf_loss(features, labels, centers, mask=mask, impl=impl)
        return 0.3 * center + etf

    torch._dynamo.reset()
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend=backend)):
        features, centers = inputs[0].clone().requires_grad_(), inputs[2].clone().requires_grad_()
        function(features, inputs[1], centers, inputs[3]).backward()
        results.append((features.grad, centers.grad))
    torch.testing.assert_close(results[0], results[1])


FAR_ROWS = """
import sys, torch
from ferbench.kernels import Rows, center_etf_loss
step = 2**30
torch.set_default_device(sys.argv[1])
memory = torch.empty(2 * step + 8, dtype=torch.float16)  # committed page by page, as touched
features = memory.as_strided((3, 8), (step, 1))
features.copy_(torch.arange(24.0).reshape(3, 8))
for classes in (3, 40):
    centers, labels = torch.randn(classes, 8), torch.tensor([0, 1, 2])
    far, _ = center_etf_loss(features, labels, centers, impl="triton")
    near, _ = center_etf_loss(features.contiguous(), labels, centers, impl="reference")
    torch.testing.assert_close(far, near)
"""


def test_rows_beyond_two_to_the_31_elements(assert_far_rows_are_read: Callable[[str], None]) -> None:
    assert_far_rows_are_read(FAR_ROWS)


def test_reference_is_exported() -> None:
    center, etf = ferbench.kernels.reference.center_etf_loss(LABELLED, torch.tensor([0, 1, 2]), CENTERS)
    assert (float(center), float(etf)) == pytest.approx((0.4, 0.1551180755))
