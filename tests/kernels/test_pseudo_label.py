"""Pseudo-labels: ReMoP's equations in slow loops, its worked numbers, and the kernel against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ferbench.kernels import pseudo_counts, pseudo_label

IMPLS = ("reference", "triton")
MIXES = ("paper", "released")

# ReMoP's worked example: K = 3, D = 2, tau = 0.95, beta = 0.5
CENTERS = torch.tensor([[2.0, 0.5], [-0.2, 1.8], [-0.9, -1.1]], dtype=torch.float64)
WEAK = torch.tensor([[2.0, 2.0], [0.5, 6.0], [-1.0, -2.0], [-0.2, 0.6]], dtype=torch.float64)
LOGITS = torch.tensor([[8.0, 1.0, 0.5], [1.0, 2.0, 0.0], [0.2, 0.1, 6.0], [1.2, 1.0, 0.0]], dtype=torch.float64)


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def feature_scores(features: Tensor, mix: str) -> Tensor:
    """Cosines (Eq. 5), or the released code's dot products, with the example's centres."""
    if mix == "released":
        return features @ CENTERS.T
    return torch.cosine_similarity(features[:, None, :], CENTERS[None, :, :], dim=2)


def loop_softmax(row: list[float]) -> list[float]:
    top = max(row)
    exps = [math.exp(v - top) for v in row]
    return [e / sum(exps) for e in exps]


def loop_rows(
    logits: Tensor, features: Tensor, beta: float, thresholds: list[float], mix: str
) -> list[tuple[int, bool, float]]:
    """Label, gate and confidence of each row, from Eqs. 3 and 5-7, or as the released code does."""
    rows = []
    for z, s in zip(logits.tolist(), features.tolist(), strict=True):
        if mix == "paper":
            probability = loop_softmax(z)
            mixed = [beta * p + (1 - beta) * q for p, q in zip(probability, s, strict=True)]
        else:
            mixed = probability = loop_softmax([beta * a + (1 - beta) * b for a, b in zip(z, s, strict=True)])
        label = mixed.index(max(mixed))
        rows.append((label, max(probability) >= thresholds[label], max(probability)))
    return rows


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("shape", [(1, 1), (17, 7), (5, 33)], ids=["B1-K1", "B17-K7", "B5-K33"])
def test_eq3_gate_and_eqs5_to_7_mixture(impl: str, mix: str, shape: tuple[int, int], device: torch.device) -> None:
    logits, features = 3 * torch.randn(shape).double(), torch.randn(shape).double()
    thresholds = torch.rand(shape[1]).double()
    expected = loop_rows(logits, features, 0.3, thresholds.tolist(), mix)
    label, keep, confidence = pseudo_label(
        logits.to(device), feature_scores=features.to(device), beta=0.3, thresholds=thresholds.to(device), mix=mix,
        impl=impl,
    )  # fmt: skip
    assert label.tolist() == [row[0] for row in expected]
    assert keep.tolist() == [row[1] for row in expected]
    assert confidence.tolist() == pytest.approx([row[2] for row in expected], rel=1e-12)


@pytest.mark.parametrize(
    ("mix", "labels", "gate", "confidence"),
    [
        ("paper", [0, 1, 2, 1], [1, 0, 1, 0], [0.9985371767, 0.6652409558, 0.994266068, 0.4683105308]),
        ("released", [0, 1, 2, 1], [1, 1, 1, 0], [0.9876166711, 0.9791143346, 0.9953861155, 0.5338950274]),
    ],
    ids=MIXES,
)
def test_worked_example_a(
    impl: str, mix: str, labels: list[int], gate: list[int], confidence: list[float], device: torch.device
) -> None:
    label, keep, sure = pseudo_label(
        LOGITS.to(device), feature_scores=feature_scores(WEAK, mix).to(device), beta=0.5, thresholds=0.95, mix=mix,
        impl=impl,
    )  # fmt: skip
    assert label.tolist() == labels
    assert keep.int().tolist() == gate
    if mix == "paper":
        confidence[3] = max(loop_softmax(LOGITS[3].tolist()))
    assert sure.tolist() == pytest.approx(confidence, rel=1e-8)


@pytest.mark.parametrize(("mix", "expected"), [("paper", 1), ("released", 0)])
def test_worked_example_that_tells_the_mixture_spaces_apart(
    impl: str, mix: str, expected: int, device: torch.device
) -> None:
    logits, feature = torch.tensor([[2.0, 0.0, 0.0]]).double(), torch.tensor([[-0.02, 0.18]]).double()
    scores = feature_scores(feature, mix)
    label, _, _ = pseudo_label(
        logits.to(device), feature_scores=scores.to(device), beta=0.5, thresholds=0.95, mix=mix, impl=impl
    )
    assert label.item() == expected


def test_without_feature_scores_it_is_fixmatch(impl: str, device: torch.device) -> None:
    logits = 2 * torch.randn(50, 7, device=device)
    label, keep, confidence = pseudo_label(logits, thresholds=0.6, impl=impl)
    top, index = logits.softmax(1).max(1)
    assert torch.equal(label, index)
    assert torch.equal(keep, confidence >= 0.6)
    torch.testing.assert_close(confidence, top)
    assert 0 < int(keep.sum()) < 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=["fp32", "fp16", "fp64"])
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("shape", [(0, 7), (3, 1), (300, 7), (9, 100), (2, 1500)], ids=lambda s: f"B{s[0]}-K{s[1]}")
def test_kernel_matches_reference(shape: tuple[int, int], mix: str, dtype: torch.dtype, device: torch.device) -> None:
    logits, features = (torch.randn(shape).to(device, dtype) for _ in range(2))
    options: dict[str, Any] = {"feature_scores": features, "beta": 0.4, "thresholds": 1.5 / shape[1], "mix": mix}
    label, keep, confidence = pseudo_label(logits, **options, impl="triton")
    expected = pseudo_label(logits, **options, impl="reference")
    assert (label.dtype, keep.dtype) == (torch.int64, torch.bool)
    assert torch.equal(label, expected[0])
    torch.testing.assert_close(confidence, expected[2], rtol=1e-6 if dtype != torch.float64 else 1e-14, atol=0)
    assert torch.equal(keep, confidence >= 1.5 / shape[1])


def test_ties_go_to_the_lower_index(impl: str, device: torch.device) -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0], [-1e4, -1e4, -5e4, -1e4]], device=device)
    label, _, confidence = pseudo_label(logits, thresholds=0.5, impl=impl)
    assert label.tolist() == [1, 0, 0]
    assert confidence[1:].tolist() == pytest.approx([1 / 4, 1 / 3])
    scores = torch.zeros_like(logits)
    for mix in MIXES:
        label, _, _ = pseudo_label(logits, feature_scores=scores, beta=0.0, thresholds=0.5, mix=mix, impl=impl)
        assert label.tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_extreme_logits_and_rows_with_nan(impl: str, device: torch.device) -> None:
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor(
        [[1e4, -1e4, 0.0], [-inf, 0.0, -inf], [nan, 1.0, 0.0], [-inf, -inf, -inf], [0.0, inf, 0.0]], device=device
    )
    label, keep, confidence = pseudo_label(logits, thresholds=0.0, impl=impl)
    assert label[:2].tolist() == [0, 1]
    assert keep.tolist() == [True, True, False, False, False]
    assert confidence[:2].tolist() == [1.0, 1.0]
    assert confidence[2:].isnan().all()
    assert ((label >= 0) & (label < 3)).all()


def test_threshold_is_inclusive_and_belongs_to_the_chosen_label(impl: str, device: torch.device) -> None:
    logits = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], device=device)
    _, keep, confidence = pseudo_label(logits, thresholds=torch.tensor([0.5, 1.0], device=device), impl=impl)
    assert keep.tolist() == [True, True, False]
    for limits in (0.5, torch.tensor(0.5, device=device), torch.full((2,), 0.5, device=device)):
        assert pseudo_label(logits, thresholds=limits, impl=impl)[1].tolist() == [True, True, True]
    nearly = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).to(device)
    assert pseudo_label(logits, thresholds=nearly, impl=impl)[1].tolist() == [False, True, True]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_beta_zero_and_one_are_the_two_classifiers(impl: str, beta: float, device: torch.device) -> None:
    logits, features = torch.randn(20, 5, device=device), torch.randn(20, 5, device=device)
    for mix in MIXES:
        label, _, _ = pseudo_label(logits, feature_scores=features, beta=beta, thresholds=0.0, mix=mix, impl=impl)
        assert torch.equal(label, (logits if beta == 1.0 else features).argmax(1))


def test_strided_inputs(impl: str, device: torch.device) -> None:
    logits, features = torch.randn(7, 20, device=device).t(), torch.randn(40, 21, device=device)[::2, ::3]
    thresholds = torch.rand(14, device=device)[::2]
    options: dict[str, Any] = {"beta": 0.5, "mix": "paper"}
    plain = pseudo_label(
        logits.contiguous(), feature_scores=features.contiguous(), thresholds=thresholds.contiguous(), impl="reference",
        **options,
    )  # fmt: skip
    strided = pseudo_label(logits, feature_scores=features, thresholds=thresholds, impl=impl, **options)
    assert torch.equal(strided[0], plain[0]) and torch.equal(strided[1], plain[1])


def test_no_gradient_leaves_the_op(impl: str, device: torch.device) -> None:
    logits = torch.randn(4, 3, device=device, requires_grad=True)
    features = torch.randn(4, 3, device=device, requires_grad=True)
    outputs = pseudo_label(logits, feature_scores=features, beta=0.5, thresholds=0.5, impl=impl)
    assert not any(output.requires_grad for output in outputs)


def test_twice_the_same_bits(device: torch.device) -> None:
    logits = torch.randn(40, 7, device=device)
    first, second = (pseudo_label(logits, thresholds=0.3, impl="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("extras", [False, True], ids=["plain", "mixed"])
def test_opcheck(extras: bool, device: torch.device) -> None:
    logits = torch.randn(5, 4, device=device)
    other, limits = (torch.randn(5, 4, device=device), torch.rand(4, device=device)) if extras else (None, None)
    torch.library.opcheck(torch.ops.ferbench.pseudo_label.default, (logits, other, limits, 0.5, 0.9, False))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(impl: str, backend: str, device: torch.device) -> None:
    logits, features = torch.randn(9, 4, device=device), torch.randn(9, 4, device=device)

    def step(logits: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pseudo_label(logits, feature_scores=features, beta=0.5, thresholds=0.4, impl=impl)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend)(logits, features)
    torch.testing.assert_close(compiled, step(logits, features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3)}, r"logits must have shape \[\*, \*\]"),
        ({"logits": torch.zeros(3, 0)}, "at least one class"),
        ({"feature_scores": torch.zeros(3, 5)}, r"feature_scores must have shape \[3, 4\]"),
        ({"thresholds": torch.zeros(3)}, r"thresholds must have shape \[4\]"),
        ({"beta": 0.5}, "feature_scores, which are missing"),
        ({"mix": "logits"}, "mix must be one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_name_the_argument(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="pseudo_label: .*" + message):
        pseudo_label(**{"logits": torch.zeros(3, 4), "thresholds": 0.5, **change})


def test_kernel_names_its_class_limit(device: torch.device) -> None:
    with pytest.raises(ValueError, match="at most 8192 classes in Triton, got 8193"):
        pseudo_label(torch.zeros(1, 8193, device=device), thresholds=0.5, impl="triton")


FAR_ROWS = """
import sys, torch
from ferbench.kernels import pseudo_label
step = 2**30
torch.set_default_device(sys.argv[1])
memory = torch.empty(2 * step + 8, dtype=torch.float16)  # committed page by page, as touched
logits = memory.as_strided((3, 4), (step, 1))
logits.copy_(torch.eye(3, 4))
assert pseudo_label(logits, thresholds=0.1, impl="triton")[0].tolist() == [0, 1, 2]
"""


def test_rows_beyond_two_to_the_31_elements(assert_far_rows_are_read: Callable[[str], None]) -> None:
    assert_far_rows_are_read(FAR_ROWS)


@pytest.mark.parametrize("rows", [0, 1, 37, 2500])
@pytest.mark.parametrize("plugged", [False, True], ids=["learner", "plug-in"])
def test_counts_by_a_loop(impl: str, plugged: bool, rows: int, device: torch.device) -> None:
    """Strided inputs, some rows without a class."""
    label, truth = torch.randint(0, 3, (rows,)), torch.randint(-1, 3, (2 * rows,))[::2].int()
    keep, changed = torch.rand(rows, 2)[:, 1] > 0.4, torch.rand(rows) > 0.7
    counts = [0] * (6 if plugged else 5)
    for y, kept, t, other in zip(label.tolist(), keep.tolist(), truth.tolist(), changed.tolist(), strict=True):
        counts[0] += kept
        counts[1] += t != -1
        counts[2] += kept and t != -1
        counts[3] += y == t
        counts[4] += kept and y == t
        if plugged:
            counts[5] += kept and other
    given = [tensor.to(device) for tensor in (label, keep, truth)] + [changed.to(device) if plugged else None]
    found = pseudo_counts(*given, impl=impl)  # type: ignore[arg-type]
    assert found.dtype == torch.float32 and found.tolist() == counts


def test_counts_are_an_op_that_compiles(impl: str, device: torch.device) -> None:
    label, keep = torch.arange(9, device=device) % 4, torch.arange(9, device=device) > 3
    torch.library.opcheck(torch.ops.ferbench.pseudo_counts.default, (label, keep, label, keep))
    torch._dynamo.reset()
    compiled = torch.compile(lambda y, m: pseudo_counts(y, m, y, impl=impl), fullgraph=True, backend="aot_eager")
    assert compiled(label, keep).tolist() == [5, 9, 5, 9, 5]
    with pytest.raises(ValueError, match=r"pseudo_counts: truth must have shape \[9\]"):
        pseudo_counts(label, keep, label[:3], impl=impl)  # type: ignore[arg-type]
