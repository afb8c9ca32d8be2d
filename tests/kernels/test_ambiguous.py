"""The ambiguous loss: LEAF's Eqs. 6-14 in slow loops, its worked numbers, and the kernel against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ferbench.kernels import ambiguous_loss

IMPLS = ("reference", "triton")
DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float16, id="float16")]
VARIANTS = [
    pytest.param({}, id="paper"),
    pytest.param({"boundary": "exclusive", "max_positives": 3}, id="released"),
    pytest.param({"boundary": "exclusive"}, id="exclusive"),
    pytest.param({"max_positives": 2}, id="capped"),
    pytest.param({"threshold": 0.35}, id="low"),
    pytest.param({"threshold": 1.0}, id="all"),
]

# LEAF's worked example: K = 7, T = 0.9, logits of the strong and of the two weak views
STRONG = torch.tensor(
    [
        [4.0, 0.5, 0.2, 0.1, 0.0, -0.2, -0.5],
        [2.0, 1.8, -0.5, -0.6, -0.8, -1.0, -1.2],
        [1.2, 1.0, 0.9, -1.0, -1.2, -1.5, -1.6],
        [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
    ],
    dtype=torch.float64,
)
WEAK_A = torch.tensor(
    [
        [3.5, 0.8, 0.0, 0.3, -0.1, 0.0, -0.4],
        [2.2, 1.5, -0.2, -0.7, -0.9, -1.0, -1.0],
        [0.9, 1.4, -0.9, -0.8, -0.3, -1.6, -1.4],
        [0.5, 0.7, 0.3, 0.2, 0.3, 0.0, 0.1],
    ],
    dtype=torch.float64,
)
WEAK_B = torch.tensor(
    [
        [4.5, 0.4, 0.4, 0.1, 0.1, -0.2, -0.6],
        [1.8, 1.9, -0.4, -0.5, -0.7, -1.2, -1.4],
        [1.1, 1.2, 1.0, -1.2, -1.0, -1.4, -1.8],
        [0.7, 0.5, 0.5, 0.2, 0.1, 0.2, -0.1],
    ],
    dtype=torch.float64,
)


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loop_positives(
    partition: list[float], threshold: float = 0.9, boundary: str = "inclusive", max_positives: int | None = None
) -> list[int]:
    """Eqs. 6-8: the fewest most probable classes that hold the threshold; one fewer (at least 1) when exclusive."""
    top = max(partition)
    total = math.fsum(math.exp(v - top) for v in partition)
    order = sorted(range(len(partition)), key=lambda c: (-partition[c], c))
    mass, m = 0.0, 0
    while m < len(order) and (m == 0 or mass < threshold * (1 - 1e-6)):
        mass += math.exp(partition[order[m]] - top) / total
        m += 1
    if boundary == "exclusive":
        m = max(m - 1, 1)
    return order[: m if max_positives is None else min(m, max_positives)]


def loop_loss(scores: list[float], positives: list[int]) -> float:
    """Eq. 14 term by term."""
    inside = math.fsum(math.exp(-scores[c]) for c in positives)
    outside = math.fsum(math.exp(y) for c, y in enumerate(scores) if c not in positives)
    return math.log1p(inside * outside)


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize(
    ("rows", "classes"), [(3, 1), (5, 2), (40, 7), (33, 8), (7, 16), (5, 17), (3, 65)], ids=lambda n: str(n)
)
def test_eq14_over_the_sets_of_eqs6_to_8(
    impl: str, options: dict[str, Any], rows: int, classes: int, device: torch.device
) -> None:
    scores = 2 * torch.randn(rows, classes, dtype=torch.float64)
    partition = (2 * torch.randn(rows, classes, dtype=torch.float64)).mul(2).round() / 2  # ties
    expected = [
        loop_loss(y, loop_positives(q, **options)) for y, q in zip(scores.tolist(), partition.tolist(), strict=True)
    ]
    loss = ambiguous_loss(scores.to(device), partition.to(device), impl=impl, **options)
    assert loss.tolist() == pytest.approx(expected, rel=1e-9)


def test_eq14_worked_example(impl: str, device: torch.device) -> None:
    loss = ambiguous_loss(WEAK_A.to(device), STRONG.to(device), impl=impl)
    assert loss.tolist() == pytest.approx([1.212439381, 1.624734715, 1.99455273, 0.0], abs=1e-9)


def test_released_rule_worked_example(impl: str, device: torch.device) -> None:
    partition = (WEAK_A + WEAK_B).to(device) / 2
    loss = ambiguous_loss(STRONG.to(device), partition, boundary="exclusive", max_positives=3, impl=impl)
    assert loss.tolist() == pytest.approx([0.1108526573, 1.446917378, 0.7778842547, 2.255240485], abs=1e-9)


@pytest.mark.parametrize("classes", [10, 20], ids=["rows", "bisection"])
def test_eq8_reaches_an_exact_threshold_and_ties_go_to_the_lower_index(
    impl: str, classes: int, device: torch.device
) -> None:
    """Ten classes of 0.1 reach 0.9 with nine, twenty of 0.05 with eighteen, whatever the order of summation."""
    scores = torch.zeros(1, classes, device=device, requires_grad=True)
    ambiguous_loss(scores, torch.zeros(1, classes, device=device), impl=impl).sum().backward()
    assert scores.grad is not None
    assert (scores.grad[0] < 0).tolist() == [c < 0.9 * classes - 1e-9 for c in range(classes)]


def test_signed_zeros_tie(impl: str, device: torch.device) -> None:
    partition = torch.tensor([[-0.0, 0.0] + [-9.0] * 20], device=device)
    scores = torch.zeros(1, 22, device=device, requires_grad=True)
    ambiguous_loss(scores, partition, threshold=0.3, impl=impl).sum().backward()
    assert scores.grad is not None and (scores.grad[0] < 0).nonzero().tolist() == [[0]]


def test_no_negative_class_gives_zero_and_no_gradient(impl: str, device: torch.device) -> None:
    for classes in (1, 4, 20):
        scores = torch.randn(3, classes, device=device, requires_grad=True)
        loss = ambiguous_loss(scores, torch.zeros(3, classes, device=device), threshold=1.0, impl=impl)
        loss.sum().backward()
        assert scores.grad is not None
        assert loss.tolist() == [0.0] * 3 and scores.grad.abs().max() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("classes", [7, 20], ids=["rows", "bisection"])
def test_a_partition_without_softmax_gives_nan(impl: str, bad: float, classes: int, device: torch.device) -> None:
    partition = torch.randn(2, classes, device=device)
    partition[0, 3] = bad
    loss = ambiguous_loss(torch.randn(2, classes, device=device), partition, impl=impl)
    assert loss.isnan().tolist() == [True, False]


def test_no_rows(impl: str, device: torch.device) -> None:
    scores = torch.zeros(0, 7, device=device, requires_grad=True)
    loss = ambiguous_loss(scores, scores.detach(), impl=impl)
    loss.sum().backward()
    assert loss.shape == (0,) and scores.grad is not None and scores.grad.shape == (0, 7)


@pytest.mark.parametrize("classes", [7, 20], ids=["rows", "bisection"])
def test_extremes_stay_finite(impl: str, classes: int, device: torch.device) -> None:
    scores = torch.full((3, classes), 1e4, device=device)
    scores[0, 0], scores[1, 1:] = -1e4, -1e4
    partition = torch.zeros(3, classes, device=device)
    partition[:, 0], partition[:, -1] = 1e4, -torch.inf
    scores.requires_grad_()
    loss = ambiguous_loss(scores, partition, impl=impl)
    loss.sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()
    expected = [2e4 + math.log(classes - 1), 0.0, math.log1p(classes - 1)]
    # the reference adds two sums near 1e4, where float32 steps by 1e-3; the kernel cancels their maxima first
    assert loss.tolist() == pytest.approx(expected, rel=1e-6 if impl == "triton" else 1e-3, abs=1e-30)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter, which computes with NumPy
@pytest.mark.parametrize("classes", [7, 20], ids=["rows", "bisection"])
def test_infinite_scores(impl: str, classes: int, device: torch.device) -> None:
    """exp(-inf) is 0: negatives at -inf leave no loss; one at +inf, or a positive at -inf, makes it infinite."""
    scores = torch.zeros(3, classes, device=device)
    scores[0, 1:], scores[1, 3], scores[2, 0] = -torch.inf, torch.inf, -torch.inf
    partition = torch.zeros(3, classes, device=device)
    partition[:, 0] = 20.0
    scores.requires_grad_()
    loss = ambiguous_loss(scores, partition, impl=impl)
    assert loss.tolist() == [0.0, math.inf, math.inf]
    loss[0].backward()
    assert scores.grad is not None and scores.grad[0].eq(0.0).all()


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("classes", [7, 20], ids=["rows", "bisection"])
def test_concave_weight_of_the_released_code(
    impl: str, classes: int, options: dict[str, Any], device: torch.device
) -> None:
    """log(1 + 50 (c - q)) / log(1 + 50 c) from each row's own loops, times the loss and its gradient."""
    scores, partition = torch.randn(40, classes, device=device), 2 * torch.randn(40, classes, device=device)
    partition[0] = 0.0
    upstream = torch.randn(40, device=device)
    weights = []
    for row in partition.tolist():
        members = loop_positives(row, **options)
        total = math.fsum(map(math.exp, row))
        ranked = sorted((math.exp(v) / total for v in row), reverse=True)
        last = min(len(members), classes - 1)
        c = math.fsum(ranked[: last + 1]) / (last + 1)
        weights.append(min(1.0, max(0.0, math.log1p(50 * (c - ranked[last])) / math.log1p(50 * c))))
    plain = grads(scores, partition, impl, upstream, **options)
    ours = grads(scores, partition, impl, upstream, sample_weight="concave", **options)
    weight = torch.tensor(weights, device=device)
    torch.testing.assert_close(ours[0], plain[0] * weight, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(ours[1], plain[1] * weight[:, None], rtol=2e-5, atol=2e-6)


def grads(scores: Tensor, partition: Tensor, impl: str, upstream: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = scores.clone().requires_grad_()
    loss = ambiguous_loss(leaf, partition, impl=impl, **options)  # type: ignore[arg-type]
    loss.backward(upstream.to(loss.dtype))
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", VARIANTS[:2])
@pytest.mark.parametrize(("rows", "classes"), [(130, 7), (9, 100), (2, 1000)], ids=lambda n: str(n))
def test_kernel_is_as_good_as_torch(
    dtype: torch.dtype, options: dict[str, Any], rows: int, classes: int, device: torch.device,
    assert_as_good_as_torch: Callable[..., None],
) -> None:  # fmt: skip
    scores = (3 * torch.randn(rows, classes, device=device)).to(dtype)
    partition = (3 * torch.randn(rows, classes, device=device)).to(dtype)
    upstream = 3 * torch.randn(rows, device=device)
    ours = grads(scores, partition, "triton", upstream, **options)
    plain = grads(scores, partition, "reference", upstream, **options)
    truth = grads(scores.double(), partition.float(), "reference", upstream, **options)
    for name, *values in zip(("loss", "dscores"), ours, plain, truth, strict=True):
        # the gradient is rounded to the scores' type once before it meets the incoming one
        assert_as_good_as_torch(name, *values, torch.finfo(dtype if name == "dscores" else torch.float32).eps)


def test_strided_inputs_need_no_copy(device: torch.device) -> None:
    wide = torch.randn(14, 16, device=device)
    for view in (wide[:, ::2], wide.T[:9], wide[::3, 4:11]):
        ours = grads(view, view.flip(0), "triton", torch.ones(len(view), device=device))
        dense = grads(view.contiguous(), view.flip(0).contiguous(), "triton", torch.ones(len(view), device=device))
        # a GPU lays strided rows out otherwise over its threads and sums them in another order: 1.5 units for up to 16
        # terms, and 2 more from its exp and division, which are not rounded to nearest
        close = 4 * torch.finfo(torch.float32).eps if device.type == "cuda" else 0.0
        for x, y in zip(ours, dense, strict=True):
            torch.testing.assert_close(x, y, rtol=close, atol=close)


@pytest.mark.parametrize("classes", [5, 18], ids=["rows", "bisection"])
def test_gradcheck(impl: str, classes: int, device: torch.device) -> None:
    scores = torch.randn(2, classes, dtype=torch.float64, device=device, requires_grad=True)
    partition = torch.randn(2, classes, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: ambiguous_loss(y, partition, impl=impl), (scores,))
    ambiguous_loss(scores, partition, impl=impl).sum().backward()
    assert partition.grad is None


def test_a_second_run_gives_the_same_bits(device: torch.device) -> None:
    scores, partition = torch.randn(50, 7, device=device), torch.randn(50, 7, device=device)
    runs = [grads(scores, partition, "triton", torch.ones(50, device=device)) for _ in range(2)]
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


def test_without_gradient_the_loss_is_the_same(device: torch.device) -> None:
    scores, partition = torch.randn(50, 7, device=device), torch.randn(50, 7, device=device)
    loss, _ = grads(scores, partition, "triton", torch.ones(50, device=device))
    assert torch.equal(ambiguous_loss(scores, partition, impl="triton"), loss)


def test_ops_are_well_registered(device: torch.device) -> None:
    scores = torch.randn(5, 4, device=device)
    for op in (torch.ops.ferbench.ambiguous_loss, torch.ops.ferbench.ambiguous_loss_grad):
        torch.library.opcheck(op.default, (scores, scores.flip(0), 0.9, True, 4, False))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_in_one_graph(impl: str, backend: str, device: torch.device) -> None:
    def step(scores: Tensor, partition: Tensor) -> Tensor:
        return ambiguous_loss(scores, partition, impl=impl).mean()  # type: ignore[arg-type]

    scores, partition = torch.randn(9, 4, device=device, requires_grad=True), torch.randn(9, 4, device=device)
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for run in (compiled, step):
        torch.testing.assert_close(run(scores, partition), step(scores, partition))
        ours, eager = (torch.autograd.grad(f(scores, partition), scores)[0] for f in (run, step))
        torch.testing.assert_close(ours, eager)


# rows 2^30 elements apart in memory that is reserved but hardly touched: 32-bit addresses would fault or read elsewhere
FAR = """
import sys, torch
from ferbench.kernels import ambiguous_loss
step = 2**30
torch.set_default_device(sys.argv[1])
memory = torch.empty(3 * step, dtype=torch.float16)
rows = torch.as_strided(memory, (3, 7), (step, 1))
values = torch.linspace(-2, 2, 21).reshape(3, 7).half()
rows.copy_(values)
same = torch.equal if sys.argv[1] == "cpu" else torch.allclose  # a GPU sums rows of other strides in another order
assert same(ambiguous_loss(rows, rows, impl="triton"), ambiguous_loss(values, values, impl="triton"))
"""


def test_rows_beyond_2_to_the_31_elements_are_addressed(assert_far_rows_are_read: Callable[[str], None]) -> None:
    assert_far_rows_are_read(FAR)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(3)}, "scores must have shape"),
        ({"scores": torch.zeros(3, 0), "partition": torch.zeros(3, 0)}, "at least one class"),
        ({"partition": torch.zeros(3, 5)}, r"partition must have shape \[3, 4\]"),
        ({"threshold": 0.0}, r"threshold must lie in \(0, 1\]"),
        ({"max_positives": 0}, "max_positives must be at least 1"),
        ({"boundary": "open"}, "boundary must be one of"),
        ({"sample_weight": "square"}, "sample_weight must be one of"),
    ],
    ids=["one-dim", "no-class", "shapes", "threshold", "cap", "boundary", "weight"],
)
def test_misuse_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ambiguous_loss(**{"scores": torch.zeros(3, 4), "partition": torch.zeros(3, 4), **change})
