"""FixMatch's head: Eqs. 3 and 4 in slow loops, and the one launch against the separate ops, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.kernels import Head, consistency_head, pseudo_label

IMPLS = ("reference", "triton")


@pytest.fixture(params=IMPLS)
def impl(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def draw(known: int, taught: int, classes: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Labelled logits, labels, weak and strong logits; the first and last require gradients."""
    labelled, weak, strong = (
        (2 * torch.randn(rows, classes, device=device)).to(dtype) for rows in (known, taught, taught)
    )
    return [labelled.requires_grad_(), torch.randint(classes, (known,), device=device), weak, strong.requires_grad_()]


def loop_cross_entropy(logits: list[float], target: int) -> float:
    top = max(logits)
    return top + math.log(math.fsum(math.exp(x - top) for x in logits)) - logits[target]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("per_class", [False, True], ids=["one-threshold", "per-class"])
def test_fixmatch_eqs3_and_4(impl: str, per_class: bool, reduction: Any, device: torch.device) -> None:
    labelled, labels, weak, strong = draw(5, 9, 4, torch.float64, device)
    thresholds: Any = torch.tensor([0.3, 0.5, 0.7, 0.4], device=device).double() if per_class else 0.5
    head = consistency_head(labelled, labels, weak, strong, thresholds=thresholds, reduction=reduction, impl=impl)  # type: ignore[arg-type]
    known = [loop_cross_entropy(row, y) for row, y in zip(labelled.tolist(), labels.tolist(), strict=True)]
    taught, kept = [], []
    for row, target in zip(weak.tolist(), strong.tolist(), strict=True):
        total = math.fsum(map(math.exp, row))
        guess = max(range(4), key=lambda k: row[k])
        limit = float(thresholds[guess]) if per_class else 0.5
        kept.append(math.exp(row[guess]) / total >= limit)
        taught.append(loop_cross_entropy(target, guess) * kept[-1])
    assert 0 < sum(kept) < 9 and head.keep.tolist() == kept
    assert head.label.tolist() == weak.argmax(1).tolist()
    by = (5, 9) if reduction == "mean" else (1, 1)
    assert head.supervised.item() == pytest.approx(math.fsum(known) / by[0], rel=1e-12)
    assert head.unsupervised.item() == pytest.approx(math.fsum(taught) / by[1], rel=1e-12)


def separate(labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor, thresholds: Any, impl: Any) -> Head:
    """The ops one by one, as a step without the head calls them."""
    label, keep, confidence = pseudo_label(weak, thresholds=thresholds, impl=impl)
    taught = (F.cross_entropy(strong.float(), label, reduction="none") * keep).mean()
    return Head(F.cross_entropy(labelled.float(), labels), taught, label, keep, confidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("known", "taught", "classes"), [(32, 64, 7), (3, 1, 2), (1, 300, 8), (520, 5, 16)], ids=lambda n: str(n)
)
def test_one_launch_is_the_separate_ops(
    known: int, taught: int, classes: int, dtype: torch.dtype, device: torch.device,
    assert_as_good_as_torch: Callable[..., None],
) -> None:  # fmt: skip
    inputs = draw(known, taught, classes, dtype, device)
    thresholds = torch.rand(classes, device=device)
    heads = [
        consistency_head(*inputs, thresholds=thresholds, impl="triton"),
        separate(*inputs, thresholds, "triton"),
    ]
    assert torch.equal(heads[0].label, heads[1].label) and torch.equal(heads[0].keep, heads[1].keep)
    torch.testing.assert_close(heads[0].confidence, heads[1].confidence, rtol=0, atol=0)
    wide = [inputs[0].detach().double().requires_grad_(), inputs[1], inputs[2], inputs[3].detach().double()]
    wide[3].requires_grad_()
    truth = consistency_head(*wide, thresholds=thresholds, impl="reference")
    leaves = [inputs, inputs, wide]
    results = []
    for head, (labelled, _, _, strong) in zip([*heads, truth], leaves, strict=True):
        gradients = torch.autograd.grad(0.7 * head.supervised - 1.3 * head.unsupervised, (labelled, strong))
        results.append([head.supervised.detach(), head.unsupervised.detach(), *gradients])
    for name, *values in zip(("supervised", "unsupervised", "dlabelled", "dstrong"), *results, strict=True):
        assert_as_good_as_torch(name, *values, 2 * torch.finfo(torch.float32).eps)


def test_gradcheck(impl: str, device: torch.device) -> None:
    labelled, labels, weak, strong = draw(3, 4, 3, torch.float64, device)
    assert torch.autograd.gradcheck(
        lambda x, y: consistency_head(x, labels, weak, y, thresholds=0.5, impl=impl)[:2],  # type: ignore[arg-type]
        (labelled, strong),
    )
    assert weak.grad is None


def test_strided_logits_of_one_pass(device: torch.device) -> None:
    """Views of a joint pass, of which the second begins anywhere."""
    whole = torch.randn(15, 9, device=device)[:, 1:8].requires_grad_()
    labels = torch.arange(4, device=device).int()
    gradients = []
    for dense in (False, True):
        labelled, strong = (part.contiguous() if dense else part for part in whole.split([4, 11]))
        head = consistency_head(labelled, labels, whole[4:].detach().flip(1), strong, thresholds=0.3, impl="triton")
        gradients += torch.autograd.grad(head.supervised + head.unsupervised, whole)
    torch.testing.assert_close(*gradients)


def test_extremes_and_no_rows(impl: str, device: torch.device) -> None:
    labelled, labels, weak, strong = draw(2, 0, 3, torch.float32, device)
    labelled = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], device=device)
    head = consistency_head(labelled, torch.tensor([0, 0], device=device), weak, strong, thresholds=0.5,
                            reduction="sum", impl=impl)  # type: ignore[arg-type]  # fmt: skip
    assert (float(head.supervised), float(head.unsupervised)) == (2e4, 0.0)
    weak = torch.tensor([[float("nan"), 0.0, 0.0], [9.0, 0.0, 0.0]], device=device)
    head = consistency_head(labelled, labels, weak, labelled, thresholds=0.5, impl=impl)  # type: ignore[arg-type]
    assert head.keep.tolist() == [False, True] and head.unsupervised.isfinite()


def test_a_label_out_of_range_is_nan_in_the_kernel(device: torch.device) -> None:
    labelled, labels, weak, strong = draw(4, 3, 5, torch.float32, device)
    labels[2] = 5
    head = consistency_head(labelled, labels, weak, strong, thresholds=0.5, impl="triton")
    assert head.supervised.isnan() and head.unsupervised.isfinite()


def test_opcheck(device: torch.device) -> None:
    labelled, labels, weak, strong = (x.detach() for x in draw(4, 3, 5, torch.float32, device))
    op = torch.ops.ferbench.consistency_head.default
    for limits, grad in ((None, True), (torch.rand(5, device=device), False)):
        torch.library.opcheck(op, (labelled, labels, weak, strong, limits, 0.5, True, grad))


def test_compiles_as_one_graph(impl: str, device: torch.device) -> None:
    inputs = draw(4, 3, 5, torch.float32, device)

    def step(labelled: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> Tensor:
        head = consistency_head(labelled, labels, weak, strong, thresholds=0.3, impl=impl)  # type: ignore[arg-type]
        return head.supervised + 0.5 * head.unsupervised

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = [torch.autograd.grad(run(*inputs), (inputs[0], inputs[3])) for run in (step, compiled)]
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(2).long()}, r"labels must have shape \[3\]"),
        ({"weak": torch.zeros(2, 5)}, r"weak must have shape \[\*, 4\]"),
        ({"strong": torch.zeros(3, 4)}, r"strong must have shape \[2, 4\]"),
        ({"thresholds": torch.zeros(3)}, r"thresholds must have shape \[4\]"),
        ({"reduction": "none"}, "reduction must be one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments_name_the_argument(change: dict[str, Any], message: str) -> None:
    good = {"labelled": torch.zeros(3, 4), "labels": torch.zeros(3).long(), "weak": torch.zeros(2, 4)}
    good |= {"strong": torch.zeros(2, 4), "thresholds": 0.5}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="consistency_head: .*" + message):
        consistency_head(**{**good, **change})  # type: ignore[arg-type]
