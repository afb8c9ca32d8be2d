"""ReMoP's and FixMatch's step against slow float64 loops over the equations, values and gradients.

The loops sum over single numbers and know no tensors; gradients are central differences of the loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

BETA, LAMBDA_CENTER, LAMBDA_REG = 0.3, 0.4, 0.2


@dataclass(frozen=True)
class Example:
    """Labelled, weak and strong rows (features x, logits z), and the centres h."""

    x: Array
    z: Array
    y: list[int]
    weak_x: Array
    weak_z: Array
    strong_x: Array
    strong_z: Array
    h: Array

    def but(self, **arrays: Array) -> Example:
        return Example(**{**vars(self), **arrays})


def example(classes: int, width: int, b: int, u: int, seed: int = 0) -> Example:
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    return Example(
        x=draw((b, width)),
        z=draw((b, classes)),
        y=[int(label) for label in rng.integers(classes, size=b)],
        weak_x=draw((u, width)),
        weak_z=2.0 * draw((u, classes)),
        strong_x=draw((u, width)),
        strong_z=draw((u, classes)),
        h=draw((classes, width)),
    )


def dot(a: Array, b: Array) -> float:
    return sum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def softmax(z: list[float]) -> list[float]:
    total = sum(math.exp(value - max(z)) for value in z)
    return [math.exp(value - max(z)) / total for value in z]


def cross_entropy(z: Array, label: int) -> float:
    return -math.log(softmax([float(value) for value in z])[label])


def first_largest(values: list[float]) -> int:
    return min(k for k in range(len(values)) if values[k] == max(values))


def mixture(variant: str, z: Array, x: Array, h: Array, beta: float) -> list[float]:
    """Eqs. 5, 6; released: softmax of mixed logits and dot products."""
    if variant == "released":
        return softmax([beta * float(z[k]) + (1 - beta) * dot(x, h[k]) for k in range(len(h))])
    linear = softmax([float(value) for value in z])
    cosine = [dot(x, h[k]) / math.sqrt(dot(x, x) * dot(h[k], h[k])) for k in range(len(h))]
    return [beta * linear[k] + (1 - beta) * cosine[k] for k in range(len(h))]


def pseudo_labels(variant: str, e: Example, threshold: float) -> list[tuple[int, bool]]:
    """Eq. 7 and the gate of Eq. 3."""
    labels = [first_largest(mixture(variant, z, x, e.h, BETA)) for z, x in zip(e.weak_z, e.weak_x, strict=True)]
    return [(label, value >= threshold) for label, value in zip(labels, confidences(variant, e), strict=True)]


def confidences(variant: str, e: Example) -> list[float]:
    """What the gate looks at: the linear prediction, or (released) the mixture."""
    if variant == "released":
        return [max(mixture(variant, z, x, e.h, BETA)) for z, x in zip(e.weak_z, e.weak_x, strict=True)]
    return [max(softmax([float(value) for value in z])) for z in e.weak_z]


def split_in_half(variant: str, e: Example) -> float:
    """A threshold that the more confident half of the weak rows passes, with nothing close to it."""
    values = sorted(confidences(variant, e))
    middle = len(values) // 2
    return (values[max(middle - 1, 0)] + values[middle]) / 2


def regulariser(variant: str, h: Array) -> float:
    """Eq. 8; released: Frobenius norm of the cosines with -1 / (K - 1) on the diagonal."""
    classes = len(h)
    mean = [sum(float(h[k][i]) for k in range(classes)) / classes for i in range(h.shape[1])]
    centred = [np.array([float(h[k][i]) - mean[i] for i in range(h.shape[1])]) for k in range(classes)]
    total = 0.0
    for k in range(classes):
        for t in range(classes):
            if variant == "released" and k == t:
                total += 1 / (classes - 1) ** 2
            elif k != t:
                cosine = dot(centred[k], centred[t]) / math.sqrt(
                    dot(centred[k], centred[k]) * dot(centred[t], centred[t])
                )
                total += cosine**2 if variant == "released" else (cosine + 1 / (classes - 1)) ** 2
    return math.sqrt(total) if variant == "released" else total


def terms(variant: str, reduction: str, e: Example, pseudo: list[tuple[int, bool]]) -> dict[str, float]:
    """The weighted terms of Eq. 9 for given pseudo-labels."""
    b, u, kept = len(e.y), len(pseudo), sum(keep for _, keep in pseudo)
    mean = reduction == "mean"
    supervised = sum(cross_entropy(e.z[i], e.y[i]) for i in range(b))
    unsupervised = sum(cross_entropy(e.strong_z[j], label) for j, (label, keep) in enumerate(pseudo) if keep)
    near = sum(dot(e.x[i] - e.h[e.y[i]], e.x[i] - e.h[e.y[i]]) for i in range(b))
    far = sum(
        dot(e.strong_x[j] - e.h[label], e.strong_x[j] - e.h[label]) for j, (label, keep) in enumerate(pseudo) if keep
    )
    half, weight = (1.0, 0.2) if variant == "released" else (0.5, 1.0)
    return {
        "supervised": supervised / (b if mean else 1),
        "unsupervised": weight * unsupervised / (max(u, 1) if mean else 1),
        "center": LAMBDA_CENTER * half * (near / (b if mean else 1) + far / (max(kept, 1) if mean else 1)),
        "etf": LAMBDA_REG * regulariser(variant, e.h),
    }


@pytest.fixture
def run(encode: Any, batch: Any, table_method: Any) -> Callable[..., Any]:
    """A step of ReMoP on an example: (method, images, result). The slot not to be read holds wrong features."""

    def step(e: Example, variant: str, **options: Any) -> Any:
        method = table_method(
            "remop",
            centers=e.h,
            variant=variant,
            beta=BETA,
            lambda_center=LAMBDA_CENTER,
            lambda_reg=LAMBDA_REG,
            **options,
        )

        def images(x: Array, z: Array) -> Any:
            poison = np.full_like(x, 1e3)
            return encode(x, z, poison) if variant == "paper" else encode(poison, z, x)

        parts = {"": images(e.x, e.z), "weak": images(e.weak_x, e.weak_z), "strong": images(e.strong_x, e.strong_z)}
        return method, parts, method.step(*batch(parts[""], e.y, parts["weak"], parts["strong"]))

    return step


SIZES = pytest.mark.parametrize(
    ("classes", "width", "b", "u"),
    [(3, 2, 5, 7), (7, 5, 4, 9), (2, 3, 1, 1), (8, 1, 3, 5), (5, 17, 6, 2)],
    ids=lambda value: str(value),
)
VARIANTS = pytest.mark.parametrize("variant", ["paper", "released"])
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum"])


@SIZES
@REDUCTIONS
@VARIANTS
def test_eq9_terms(variant: str, reduction: str, classes: int, width: int, b: int, u: int, run: Any) -> None:
    e = example(classes, width, b, u)
    threshold = split_in_half(variant, e)
    _, _, result = run(e, variant, reduction=reduction, threshold=threshold)
    pseudo = pseudo_labels(variant, e, threshold)
    assert u == 1 or 0 < sum(keep for _, keep in pseudo) < u, "the example must have both kinds"
    assert result.pseudo.label.tolist() == [label for label, _ in pseudo]
    assert result.pseudo.keep.tolist() == [keep for _, keep in pseudo]
    expected = terms(variant, reduction, e, pseudo)
    assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-5, abs=1e-6)


@REDUCTIONS
@VARIANTS
def test_eq9_gradients(variant: str, reduction: str, run: Any) -> None:
    """Of the sum of all terms, to every number of labelled and strong features and logits and of the centres."""
    e = example(5, 3, 4, 6, seed=1)
    threshold = split_in_half(variant, e)
    method, images, result = run(e, variant, reduction=reduction, threshold=threshold)
    total: Any = torch.stack(list(result.losses.values())).sum()
    total.backward()
    pseudo = pseudo_labels(variant, e, threshold)
    slot = slice(0, 3) if variant == "paper" else slice(3, 6)
    got = {
        "x": images[""].grad[:, slot],
        "z": images[""].grad[:, 6:],
        "strong_x": images["strong"].grad[:, slot],
        "strong_z": images["strong"].grad[:, 6:],
        "h": method.centers.grad,
    }
    for name, gradient in got.items():
        at = getattr(e, name)
        for position in np.ndindex(at.shape):
            step = np.zeros_like(at)
            step[position] = 1e-5
            up, down = (sum(terms(variant, reduction, e.but(**{name: at + s}), pseudo).values()) for s in (step, -step))
            assert gradient[position].item() == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5), (name, position)


@VARIANTS
@REDUCTIONS
def test_no_confident_sample(variant: str, reduction: str, run: Any) -> None:
    """The unlabelled terms are 0, not NaN (the released code's loss is NaN here), and so are their gradients."""
    e = example(4, 3, 5, 6)
    _, images, result = run(e, variant, reduction=reduction, threshold=1.1)
    assert not result.pseudo.keep.any()
    expected = terms(variant, reduction, e, [(0, False)] * 6)
    assert expected["unsupervised"] == 0
    assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-5)
    total: Any = torch.stack(list(result.losses.values())).sum()
    total.backward()
    assert torch.equal(images["strong"].grad, torch.zeros_like(images["strong"]))
    assert images[""].grad.isfinite().all() and images[""].grad.any()


@VARIANTS
def test_all_confident(variant: str, run: Any) -> None:
    e = example(4, 3, 5, 6)
    _, images, result = run(e, variant, threshold=0.0)
    assert result.pseudo.keep.all()
    expected = terms(variant, "mean", e, pseudo_labels(variant, e, 0.0))
    assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-5)
    result.losses["center"].backward()
    slot = slice(0, 3) if variant == "paper" else slice(3, 6)
    assert images["strong"].grad[:, slot].abs().sum(dim=1).gt(0).all()


@VARIANTS
def test_eq7_tie_goes_to_the_lower_index(variant: str, run: Any) -> None:
    """Classes 1 and 3 share centre and logit and win together."""
    e = example(5, 3, 4, 3)
    h, z = e.h.copy(), e.weak_z.copy()
    h[3] = h[1]
    x = np.repeat(h[1][None], 3, axis=0)
    z[:, [1, 3]] = 6.0
    _, _, result = run(e.but(h=h, weak_z=z, weak_x=x), variant)
    assert result.pseudo.label.tolist() == [1, 1, 1]


def test_eq3_tie_goes_to_the_lower_index(encode: Any, batch: Any, table_method: Any) -> None:
    method = table_method("fixmatch", shape=(1, 4))
    weak = encode([[0.0]] * 2, [[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    pseudo = method.step(*batch(weak, [0, 0], weak, weak)).pseudo
    assert pseudo.label.tolist() == [1, 0]


def test_eq3_gate_is_inclusive(encode: Any, batch: Any, table_method: Any) -> None:
    """Two equal logits: a confidence of exactly one half."""
    method = table_method("fixmatch", shape=(1, 2), threshold=0.5)
    weak = encode([[0.0]], [[0.0, 0.0]])
    assert method.step(*batch(weak, [0], weak, weak)).pseudo.keep.tolist() == [True]


@SIZES
@REDUCTIONS
def test_eq3_fixmatch(
    classes: int, width: int, b: int, u: int, reduction: str, encode: Any, batch: Any, table_method: Any
) -> None:
    """The learner alone: label and gate of the linear prediction."""
    e = example(classes, width, b, u, seed=2)
    method = table_method("fixmatch", shape=(width, classes), threshold=0.5, unlabelled_weight=0.7, reduction=reduction)
    strong = encode(e.strong_x, e.strong_z)
    result = method.step(*batch(encode(e.x, e.z), e.y, encode(e.weak_x, e.weak_z), strong))
    unsupervised, kept = 0.0, []
    for weak, z in zip(e.weak_z, e.strong_z, strict=True):
        p = softmax([float(value) for value in weak])
        kept.append(max(p) >= 0.5)
        unsupervised += cross_entropy(z, first_largest(p)) if kept[-1] else 0.0
    supervised = sum(cross_entropy(z, y) for z, y in zip(e.z, e.y, strict=True))
    mean = reduction == "mean"
    assert result.pseudo.keep.tolist() == kept
    assert set(result.losses) == {"supervised", "unsupervised"}
    assert result.losses["supervised"].item() == pytest.approx(supervised / (b if mean else 1), rel=1e-5)
    assert result.losses["unsupervised"].item() == pytest.approx(
        0.7 * unsupervised / (u if mean else 1), rel=1e-5, abs=1e-7
    )


@REDUCTIONS
@pytest.mark.parametrize("name", ["vanilla", "remop"])
def test_vanilla_has_no_unlabelled_term(name: str, reduction: str, encode: Any, batch: Any, table_method: Any) -> None:
    """Also under ReMoP ("+H" on Vanilla), where centres learn from labelled images alone; unlabelled are ignored."""
    e = example(4, 3, 5, 6, seed=3)
    settings = {"centers": e.h, "learner": "vanilla"} if name == "remop" else {"shape": (3, 4)}
    method = table_method(name, reduction=reduction, **settings)
    assert method.views.unlabelled == ()
    weak = encode(e.weak_x, e.weak_z)
    for unlabelled in ((), (weak, weak)):
        result = method.step(*batch(encode(e.x, e.z), e.y, *unlabelled))
        assert result.pseudo is None
        assert set(result.losses) == {"supervised"} | ({"center", "etf"} if name == "remop" else set())
        expected = terms("paper", reduction, e, [])
        assert result.losses["supervised"].item() == pytest.approx(expected["supervised"], rel=1e-5)
        if name == "remop":
            center = 1e-4 * expected["center"] / LAMBDA_CENTER
            assert result.losses["center"].item() == pytest.approx(center, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_eq5_is_computed_in_float32_under_autocast(
    dtype: torch.dtype, encode: Any, batch: Any, table_method: Any
) -> None:
    """Half precision would round cosines of 0.98 to steps of 0.004 and make ties of them."""
    rng = np.random.default_rng(4)
    method = table_method("remop", centers=rng.standard_normal((7, 33)), variant="paper")
    images = encode(rng.standard_normal((9, 33)), np.zeros((9, 7)))
    prediction = method.learner.model(images)
    exact = method.similarity(prediction)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(method.similarity(prediction), exact)
