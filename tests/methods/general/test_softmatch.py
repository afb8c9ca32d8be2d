"""SoftMatch: running mean and variance of the aligned confidence, then the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods.general.softmatch import truncated_gaussian

WEAK = [
    [0.85, 0.05, 0.05, 0.05], [0.1, 0.6, 0.2, 0.1], [0.05, 0.1, 0.8, 0.05], [0.3, 0.25, 0.25, 0.2],
    [0.02, 0.02, 0.01, 0.95],
]  # fmt: skip


@pytest.mark.parametrize(
    ("n_sigma", "weights"),
    [
        (2.0, [0.60075968, 0.0044730274, 1, 0.00057196606, 1]),
        (1.0, [0.88039019, 0.25861302, 1, 0.15464738, 1]),
    ],
)
def test_worked_example(n_sigma: float, weights: list[float], begun: Any, passes_of: Any) -> None:
    """Labels come from the probabilities as they are: aligned, the fourth image would be of another class."""
    method = begun("softmatch", 4, n_sigma=n_sigma)
    method.mean.value.fill_(0.8)
    method.variance.value.fill_(0.04)
    method.marginal.value.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    method.marginal.fresh.fill_(False)
    passes = passes_of([[0.0] * 4], WEAK, np.zeros((5, 4)), range(5))
    method.observe(passes)
    np.testing.assert_allclose(method.marginal.value, [0.399864, 0.299904, 0.200062, 0.10017], rtol=1e-6)
    assert method.mean.value.item() == pytest.approx(0.79987453, rel=1e-6)
    assert method.variance.value.item() == pytest.approx(0.040015688, rel=1e-6)
    pseudo = method.pseudo_labels(passes)
    assert pseudo.label.tolist() == [0, 1, 2, 0, 3]
    assert pseudo.keep.tolist() == [False, False, True, False, True]
    confidence = [0.69890324, 0.47088178, 0.80678844, 0.41336815, 0.98272738]
    np.testing.assert_allclose(pseudo.confidence, confidence, rtol=1e-5)
    got = truncated_gaussian(pseudo.confidence, method.mean.value, method.variance.value, n_sigma)
    np.testing.assert_allclose(got, weights, rtol=1e-4)


@pytest.mark.parametrize("variant", ["paper", "usb"])
def test_over_steps(variant: Any, begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    rng, momentum = slow.random, 0.5
    method = begun("softmatch", 3, variant=variant, momentum=momentum)
    n = 2.0 if variant == "usb" else 1.0
    mu, var, marginal = 1 / 3, 1.0, None
    for _ in range(4):
        known, weak, strong, labels = (
            rng.normal(0, 2, (2, 3)),
            rng.normal(0, 2, (6, 3)),
            rng.normal(size=(6, 3)),
            [0, 2],
        )
        result, leaves = stepped(method, labels, {"weak": known}, {"weak": weak, "strong": strong})
        p = slow.softmax(weak)
        marginal = p.mean(0) if marginal is None else momentum * marginal + (1 - momentum) * p.mean(0)
        aligned = p * (1 / 3 + 1e-6) / (marginal + 1e-6)
        c = (aligned / aligned.sum(1, keepdims=True)).max(1)
        mu = momentum * mu + (1 - momentum) * c.mean()
        var = momentum * var + (1 - momentum) * c.var(ddof=1)
        w = [1.0 if x >= mu else np.exp(-((x - mu) ** 2) / (2 * var / n**2)) for x in c]
        assert result.losses["unsupervised"].item() == pytest.approx(
            (slow.cross_entropy(strong, p.argmax(1)) * w).mean(), rel=1e-4
        )
        assert reached(result.losses["unsupervised"], leaves) == {"unlabelled strong"}


def test_a_step_function_is_fixmatch(begun: Any, passes_of: Any) -> None:
    """With no width to speak of, what lies below the mean counts nothing and the rest as in FixMatch."""
    weights = truncated_gaussian(torch.tensor([0.5, 0.79, 0.8, 0.9]), torch.tensor(0.8), torch.tensor(1e-9), 1.0)
    assert weights.tolist() == [0, 0, 1, 1]
