"""Dash: the falling threshold on the loss of the weak prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Progress, Scored

SCHEDULE = [
    1.20012, 0.94497638, 0.74407589, 0.58588653, 0.46132797, 0.36325037, 0.28602392, 0.22521568, 0.17733518, 0.139634,
    0.10994803, 0.086573254, 0.068167917, 0.053675525, 0.05, 0.05,
]  # fmt: skip
LOGITS = [[3.0, 0, 0], [1, 0.5, 0], [0.2, 0.1, 0], [5, 0, -1]]


def at(method: Any, fall: float) -> Any:
    method.progress = Progress(torch.tensor(fall * method.options.decay_every), 3)
    return method


@pytest.mark.parametrize("k", range(16))
def test_worked_schedule(k: int, begun: Any) -> None:
    method = begun("dash", 3)
    method.rho.fill_(1.2)
    assert at(method, k + 0.5).thresholds().item() == pytest.approx(SCHEDULE[k], rel=1e-6)


@pytest.mark.parametrize(("k", "keep"), [(0, [1, 1, 1, 1]), (3, [1, 0, 0, 1]), (14, [0, 0, 0, 1])])
def test_worked_mask(k: int, keep: list[int], begun: Any, passes_of: Any, slow: Any) -> None:
    """Soft targets above the floor, one-hot ones at it (k = 14)."""
    method = begun("dash", 3)
    method.rho.fill_(1.2)
    passes = passes_of([[0.0] * 3], slow.softmax(LOGITS), LOGITS, range(4))
    assert at(method, k + 0.5).pseudo_labels(passes).keep.int().tolist() == keep
    soft = [[0.99506695, 0.0024665244, 0.0024665244], [0.66524096, 0.24472847, 0.090030573]]
    expected = soft if k < 14 else [[1, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(method.target(passes)[:2], expected, rtol=1e-5)


def test_rho_is_the_mean_labelled_loss_at_the_end_of_the_warm_up(begun: Any, slow: Any) -> None:
    method = begun("dash", 3, warm_up=2)
    p, labels = slow.softmax(slow.random.normal(size=(9, 3))), slow.random.integers(0, 3, 9)
    scored = Scored(torch.tensor(p, dtype=torch.float32), torch.arange(9), torch.tensor(labels))
    for epoch, expected in ((0, 0.0), (1, -np.log(p[np.arange(9), labels]).mean())):
        method.end_epoch(Progress(torch.tensor(0.1), epoch), lambda which, **_: scored)
        assert method.rho.item() == pytest.approx(expected, rel=1e-5)
    method.rho.fill_(7.0)
    method.end_epoch(Progress(torch.tensor(0.2), 2), lambda which, **_: scored)
    assert method.rho.item() == 7.0


def test_nothing_is_kept_in_the_warm_up(begun: Any, stepped: Any, slow: Any) -> None:
    logits = 50 * np.eye(3)
    result, _ = stepped(begun("dash", 3), [0], {"weak": [[0.0] * 3]}, {"weak": logits, "strong": -logits})
    assert not result.pseudo.keep.any() and result.losses["unsupervised"] == 0


@pytest.mark.parametrize("fall", [0, 4, 20])
def test_losses(fall: int, begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    rng = slow.random
    method = begun("dash", 4, gamma=1.5, rho_min=0.3, temperature=0.7)
    method.rho.fill_(1.1)
    known, weak, strong, labels = rng.normal(size=(3, 4)), rng.normal(0, 3, (8, 4)), rng.normal(size=(8, 4)), [0, 3, 1]
    fraction = (fall + 0.5) * 10 / 1024
    result, leaves = stepped(method, labels, {"weak": known}, {"weak": weak, "strong": strong}, fraction=fraction)
    rho = max(1.0001 * 1.5**-fall * 1.1, 0.3)
    target = slow.softmax(weak / 0.7) if rho > 0.3 else np.eye(4)[weak.argmax(1)]
    keep = slow.cross_entropy(weak, target) <= rho
    assert 0 < keep.sum()
    assert result.pseudo.keep.tolist() == keep.tolist()
    expected = (slow.cross_entropy(strong, target) * keep).mean()
    assert result.losses["unsupervised"].item() == pytest.approx(expected, rel=1e-5)
    assert reached(result.losses["unsupervised"], leaves) == {"unlabelled strong"}
