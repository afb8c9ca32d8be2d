"""FreeMatch (Eqs. 5-12): running means before thresholds, thresholds before the fairness of what is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods.general.freematch import fairness

STEPS = (
    {
        "weak": [[0.7, 0.2, 0.1], [0.15, 0.8, 0.05], [0.4, 0.35, 0.25], [0.9, 0.05, 0.05], [0.05, 0.1, 0.85]],
        "strong": [[1.2, 0.3, -0.4], [0.1, 1, -0.2], [0.5, 0.4, 0.1], [2, -1, -1], [0.2, 0.1, 1.3]],
        "state": (0.793, [0.494, 0.3, 0.206], [0.6, 0.29, 0.11]),
        "thresholds": [0.793, 0.48157895, 0.33068421],
        "keep": [0, 1, 0, 1, 1],
        "losses": (0.22423575, -1.1802055),
    },
    {
        "weak": [[0.85, 0.1, 0.05], [0.98, 0.01, 0.01], [0.34, 0.33, 0.33], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]],
        "strong": [[0.8, 0.2, 0.1], [1.5, -0.5, 0], [0.2, 0.3, 0.1], [1, 0.2, 0.6], [0.4, 0.3, 0.2]],
        "state": (0.7851, [0.494, 0.2928, 0.2132], [0.6, 0.281, 0.119]),
        "thresholds": [0.7851, 0.46533862, 0.33883263],
        "keep": [1, 1, 0, 1, 1],
        "losses": (0.65502819, -21.410069),
    },
)


def test_worked_example(begun: Any, passes_of: Any) -> None:
    """Two steps from a state in the middle of training; in the second one class alone is predicted."""
    method = begun("freematch", 3, momentum=0.9, fairness_weight=1.0)
    method.confidence.value.fill_(0.8)
    method.probability.value.copy_(torch.tensor([0.5, 0.3, 0.2]))
    method.histogram.value.copy_(torch.tensor([0.6, 0.3, 0.1]))
    for step in STEPS:
        passes = passes_of([[0.0, 0.0, 0.0]], step["weak"], step["strong"], range(5))
        method.observe(passes)
        confidence, probability, histogram = step["state"]  # type: ignore[misc]
        assert method.confidence.value.item() == pytest.approx(confidence)
        np.testing.assert_allclose(method.probability.value, probability, rtol=1e-6)
        np.testing.assert_allclose(method.histogram.value, histogram, rtol=1e-6)
        np.testing.assert_allclose(method.thresholds(), step["thresholds"], rtol=1e-6)
        pseudo = method.pseudo_labels(passes)
        assert pseudo.keep.int().tolist() == step["keep"]
        losses = method.losses(passes, torch.tensor([0]), pseudo)
        got = (losses["unsupervised"].item(), losses["fairness"].item())
        assert got == pytest.approx(step["losses"], rel=1e-5)


def test_it_starts_uniform(begun: Any) -> None:
    method = begun("freematch", 4)
    np.testing.assert_allclose(method.thresholds(), [0.25] * 4)


def slow_fairness(strong: Any, keep: Any, p_bar: Any, h_bar: Any, softmax: Any) -> float:
    """Eqs. 9-11 over the kept rows alone."""
    rows = softmax(strong[keep])
    if not len(rows):
        return 0.0
    h = [np.mean([row.argmax() == c for row in rows]) for c in range(rows.shape[1])]
    a = np.array([p / q if q > 0 else 0.0 for p, q in zip(p_bar, h_bar, strict=True)])
    b = np.array([p / q if q > 0 else 0.0 for p, q in zip(rows.mean(0), h, strict=True)])
    a, b = a / a.sum(), b / b.sum()
    return float(sum(x * np.log(y + 1e-12) for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("kept", [0, 1, 3, 20])
@pytest.mark.parametrize("unused_class", [False, True])
def test_eq11(kept: int, unused_class: bool, slow: Any) -> None:
    strong, p_bar, h_bar = (
        slow.random.normal(size=(20, 4)),
        slow.random.dirichlet([1] * 4),
        slow.random.dirichlet([1] * 4),
    )
    keep = np.arange(20) < kept
    if unused_class:
        h_bar[2] = 0.0
    got = fairness(*(torch.tensor(x, dtype=torch.float32) for x in (strong,)), torch.tensor(keep), *_f32(p_bar, h_bar))
    assert got.item() == pytest.approx(slow_fairness(strong, keep, p_bar, h_bar, slow.softmax), rel=1e-4)


def _f32(*arrays: Any) -> list[torch.Tensor]:
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


def test_eq11_moves_kept_strong_rows_alone(slow: Any) -> None:
    """By finite differences; rows that are not kept and the running means get nothing."""
    strong = slow.random.normal(size=(6, 3))
    keep, p_bar, h_bar = np.array([1, 0, 1, 1, 0, 1], bool), np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    leaf = torch.tensor(strong, dtype=torch.float32, requires_grad=True)
    term = fairness(leaf, torch.tensor(keep), *_f32(p_bar, h_bar))
    term.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    for i, c in np.ndindex(6, 3):
        moved = [strong.copy(), strong.copy()]
        for sign, values in zip((1, -1), moved, strict=True):
            values[i, c] += sign * 1e-5
        up, down = (slow_fairness(values, keep, p_bar, h_bar, slow.softmax) for values in moved)
        assert leaf.grad[i, c].item() == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-5)


def test_eqs_5_to_12_over_steps(begun: Any, stepped: Any, slow: Any) -> None:
    momentum, weight, rng = 0.6, 0.3, slow.random
    method = begun("freematch", 4, momentum=momentum, fairness_weight=weight)
    tau, p_bar, h_bar = 0.25, np.full(4, 0.25), np.full(4, 0.25)
    for _ in range(5):
        known, weak, strong = (rng.normal(0, 2, (n, 4)) for n in (3, 7, 7))
        labels = rng.integers(0, 4, 3)
        result, _ = stepped(method, labels, {"weak": known}, {"weak": weak, "strong": strong})
        p = slow.softmax(weak)
        tau = momentum * tau + (1 - momentum) * p.max(1).mean()
        p_bar = momentum * p_bar + (1 - momentum) * p.mean(0)
        h_bar = momentum * h_bar + (1 - momentum) * np.bincount(p.argmax(1), minlength=4) / 7
        keep = np.array([row.max() >= tau * p_bar[row.argmax()] / p_bar.max() for row in p])
        assert result.pseudo.keep.tolist() == keep.tolist()
        expected = {
            "supervised": slow.cross_entropy(known, labels).mean(),
            "unsupervised": (slow.cross_entropy(strong, p.argmax(1)) * keep).mean(),
            "fairness": weight * slow_fairness(strong, keep, p_bar, h_bar, slow.softmax),
        }
        assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-4)
