"""UDA (sharpened soft targets, training signal annealing) and DeFixMatch (the debiasing term)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize("variant", ["paper", "usb"])
def test_uda_target_and_gate(variant: Any, begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    """The gate looks at the unsharpened confidence; USB never sharpens and takes cross-entropy for KL."""
    rng = slow.random
    known, weak, strong, labels = rng.normal(size=(3, 4)), rng.normal(0, 2, (9, 4)), rng.normal(size=(9, 4)), [0, 1, 3]
    result, leaves = stepped(
        begun("uda", 4, variant=variant, threshold=0.6), labels, {"weak": known}, {"weak": weak, "strong": strong}
    )
    p = slow.softmax(weak)
    keep = p.max(1) >= 0.6
    assert 0 < keep.sum() < 9 and result.pseudo.keep.tolist() == keep.tolist()
    q = slow.softmax(weak / 0.4) if variant == "paper" else p
    entropy = -(q * np.log(q)).sum(1) if variant == "paper" else 0.0
    expected = ((slow.cross_entropy(strong, q) - entropy) * keep).mean()
    assert result.losses["unsupervised"].item() == pytest.approx(expected, rel=1e-4)
    assert result.losses["supervised"].item() == pytest.approx(slow.cross_entropy(known, labels).mean(), rel=1e-5)
    assert reached(result.losses["unsupervised"], leaves) == {"unlabelled strong"}


@pytest.mark.parametrize("tsa", ["linear", "exp", "log"])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("variant", ["paper", "usb"])
def test_uda_annealing(tsa: str, fraction: float, variant: Any, begun: Any, stepped: Any, slow: Any) -> None:
    rng, classes = slow.random, 4
    known, labels = rng.normal(0, 1.5, (12, classes)), rng.integers(0, classes, 12)
    other = np.zeros((2, classes))
    method = begun("uda", classes, variant=variant, tsa=tsa)
    result, _ = stepped(method, labels, {"weak": known}, {"weak": other, "strong": other}, fraction=fraction)
    c = {"linear": fraction, "exp": np.exp(5 * (fraction - 1)), "log": 1 - np.exp(-5 * fraction)}[tsa]
    eta = c * (1 - 1 / classes) + 1 / classes
    p = slow.softmax(known)
    seen = p[np.arange(12), labels] if variant == "paper" else p.max(1)
    used = seen <= eta
    loss = slow.cross_entropy(known, labels)[used].sum() / (max(used.sum(), 1) if variant == "paper" else 12)
    assert result.losses["supervised"].item() == pytest.approx(loss, rel=1e-4, abs=1e-6)


def test_uda_without_any_labelled_image_is_zero(begun: Any, stepped: Any) -> None:
    sure, other = 20 * np.eye(3), np.zeros((2, 3))
    result, _ = stepped(
        begun("uda", 3, tsa="exp"), [0, 1, 2], {"weak": sure}, {"weak": other, "strong": other}, fraction=0.1
    )
    assert result.losses["supervised"].item() == 0


def test_uda_cold_is_fixmatch(begun: Any, stepped: Any, slow: Any) -> None:
    rng = slow.random
    views = {"weak": rng.normal(0, 3, (7, 3)), "strong": rng.normal(size=(7, 3))}
    uda, fix = (
        stepped(method, [0], {"weak": [[0.0] * 3]}, views)[0].losses["unsupervised"].item()
        for method in (begun("uda", 3, temperature=1e-3, threshold=0.7), begun("fixmatch", 3, threshold=0.7))
    )
    assert uda == pytest.approx(fix, rel=1e-5)


def test_defixmatch(begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    rng, tau, weight = slow.random, 0.6, 0.5
    known, known2, weak, strong = (rng.normal(0, 2, (n, 4)) for n in (8, 8, 6, 6))
    labels = rng.integers(0, 4, 8)
    result, leaves = stepped(
        begun("defixmatch", 4, threshold=tau),
        labels,
        {"weak": known, "strong": known2},
        {"weak": weak, "strong": strong},
    )

    def term(weak: Any, strong: Any) -> float:
        p = slow.softmax(weak)
        keep = p.max(1) >= tau
        assert 0 < keep.sum() < len(keep)
        return float((slow.cross_entropy(strong, p.argmax(1)) * keep).mean())

    expected = {
        "supervised": (slow.cross_entropy(known, labels) + slow.cross_entropy(known2, labels)).mean() / 2,
        "unsupervised": weight * term(weak, strong),
        "debias": -weight * term(known, known2),
    }
    assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-5)
    assert reached(result.losses["debias"], leaves) == {"labelled strong"}
    assert reached(result.losses["supervised"], leaves) == {"labelled weak", "labelled strong"}


def test_defixmatch_without_weight_is_supervised(begun: Any, stepped: Any, slow: Any) -> None:
    logits = slow.random.normal(0, 5, (4, 3))
    method = begun("defixmatch", 3, unlabelled_weight=0.0)
    losses = stepped(method, [0] * 4, {"weak": logits, "strong": logits}, {"weak": logits, "strong": logits})[0].losses
    assert losses["unsupervised"] == 0 and losses["debias"] == 0
