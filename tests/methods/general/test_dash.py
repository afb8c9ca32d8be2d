"""Dash: the falling threshold on the loss of the weak prediction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Facts, MethodError, Progress, option_values

SCHEDULE = [
    1.20012, 0.94497638, 0.74407589, 0.58588653, 0.46132797, 0.36325037, 0.28602392, 0.22521568, 0.17733518, 0.139634,
    0.10994803, 0.086573254, 0.068167917, 0.053675525, 0.05, 0.05,
]  # fmt: skip
LOGITS = [[3.0, 0, 0], [1, 0.5, 0], [0.2, 0.1, 0], [5, 0, -1]]


STEPS = 2048  # of training: the warm-up is 4 of them, and the threshold falls every 20


def dash(begun: Any, classes: int, rho: float | None = None, **options: Any) -> Any:
    given = facts(STEPS)._replace(labelled_labels=torch.arange(8) % classes)
    method = begun("dash", classes, given=given, **options)
    if rho is not None:
        method.known.copy_(torch.tensor([2 * rho, 2.0]))
    return method


def facts(steps: int) -> Facts:
    return Facts(24, torch.arange(8), torch.arange(8), torch.arange(24), steps, epochs=4)


def after_falls(method: Any, fall: float) -> float:
    """The fraction of training at which the threshold has fallen so often."""
    return (method.warm_steps + fall * method.options.decay_every * STEPS) / STEPS


def at(method: Any, fall: float) -> Any:
    method.progress = Progress(torch.tensor(after_falls(method, fall)), 3)
    return method


@pytest.mark.parametrize("k", range(16))
def test_worked_schedule(k: int, begun: Any) -> None:
    method = dash(begun, 3, 1.2)
    assert at(method, k + 0.5).thresholds().item() == pytest.approx(SCHEDULE[k], rel=1e-6)


@pytest.mark.parametrize(("k", "keep"), [(0, [1, 1, 1, 1]), (3, [1, 0, 0, 1]), (14, [0, 0, 0, 1])])
def test_worked_mask(k: int, keep: list[int], begun: Any, passes_of: Any, slow: Any) -> None:
    """Soft targets above the floor, one-hot ones at it (k = 14)."""
    method = dash(begun, 3, 1.2)
    passes = passes_of([[0.0] * 3], slow.softmax(LOGITS), LOGITS, range(4))
    assert at(method, k + 0.5).pseudo_labels(passes).keep.int().tolist() == keep
    soft = [[0.99506695, 0.0024665244, 0.0024665244], [0.66524096, 0.24472847, 0.090030573]]
    expected = soft if k < 14 else [[1, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(method.target(passes)[:2], expected, rtol=1e-5)


@pytest.mark.parametrize("steps", [300, 5000, 32000, 2**20])
@pytest.mark.parametrize("options", [{}, {"warm_up": 0.01, "decay_every": 0.05}, {"warm_up": 0.1}])
def test_the_first_threshold_after_the_warm_up_is_c_rho(steps: int, options: Any, begun: Any) -> None:
    """And none before it, however long the run and its warm-up are; the next one comes `decay_every` later."""
    method = begun("dash", 4, given=facts(steps)._replace(labelled_labels=torch.arange(8) % 4), **options)
    method.known.copy_(torch.tensor([2.4, 2.0]))
    last = method.warm_steps - 1
    fall = math.ceil(method.options.decay_every * steps)
    steps_and_limits = {last: 0.0, last + 1: 1.20012, last + fall: 1.20012, last + 1 + fall: 1.20012 / 1.27}
    for step, expected in steps_and_limits.items():
        method.progress = Progress(torch.tensor(step / steps), 0)
        assert method.thresholds().item() == pytest.approx(expected, rel=1e-6), step


def test_rho_is_the_mean_labelled_loss_of_the_second_half_of_the_warm_up(begun: Any, stepped: Any, slow: Any) -> None:
    method, losses = dash(begun, 3), []
    for step in range(8):
        known, labels = slow.random.normal(size=(2, 3)), slow.random.integers(0, 3, 2)
        blank = {"weak": np.zeros((2, 3)), "strong": np.zeros((2, 3))}
        result, _ = stepped(method, labels, {"weak": known}, blank, fraction=step / STEPS)
        losses.append(slow.cross_entropy(known, labels).mean())
        if step == 1:
            assert method.rho == 0
        if step >= 4:
            assert result.figures["rho"].item() == pytest.approx(np.mean(losses[2:4]), rel=1e-5)
            assert result.figures["rho_k"].item() == pytest.approx(1.0001 * np.mean(losses[2:4]), rel=1e-5)


def test_nothing_is_kept_in_the_warm_up(begun: Any, stepped: Any) -> None:
    logits = 50 * np.eye(3)
    views = {"weak": logits, "strong": -logits}
    result, _ = stepped(dash(begun, 3, 1.0), [0], {"weak": [[0.0] * 3]}, views, fraction=3 / STEPS)
    assert not result.pseudo.keep.any() and result.losses["unsupervised"] == 0
    result, _ = stepped(dash(begun, 3, 1.0), [0], {"weak": [[0.0] * 3]}, views, fraction=4 / STEPS)
    assert result.pseudo.keep.all()


def test_a_warm_up_counted_in_epochs_is_refused() -> None:
    with pytest.raises(MethodError, match=r"option 'warm_up' is a fraction of training, below 1, not 1"):
        option_values("dash", "paper", {"warm_up": 1})


@pytest.mark.parametrize("fall", [0, 4, 20])
def test_losses(fall: int, begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    rng = slow.random
    method = dash(begun, 4, 1.1, gamma=1.5, rho_min=0.3, temperature=0.7)
    known, weak, strong, labels = rng.normal(size=(3, 4)), rng.normal(0, 3, (8, 4)), rng.normal(size=(8, 4)), [0, 3, 1]
    fraction = after_falls(method, fall + 0.5)
    result, leaves = stepped(method, labels, {"weak": known}, {"weak": weak, "strong": strong}, fraction=fraction)
    rho = max(1.0001 * 1.5**-fall * 1.1, 0.3)
    target = slow.softmax(weak / 0.7) if rho > 0.3 else np.eye(4)[weak.argmax(1)]
    keep = slow.cross_entropy(weak, target) <= rho
    assert 0 < keep.sum()
    assert result.pseudo.keep.tolist() == keep.tolist()
    expected = (slow.cross_entropy(strong, target) * keep).mean()
    assert result.losses["unsupervised"].item() == pytest.approx(expected, rel=1e-5)
    assert reached(result.losses["unsupervised"], leaves) == {"unlabelled strong"}
