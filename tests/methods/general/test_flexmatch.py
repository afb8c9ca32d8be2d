"""FlexMatch's curriculum against a table counted anew at every step (Eqs. 5-11)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Facts, build, option_values
from ferbench.methods.general.flexmatch import curriculum


def some_facts(images: int, unlabelled: Any) -> Facts:
    labelled = torch.arange(2)
    return Facts(images, labelled, torch.tensor([0, 1]), torch.as_tensor(unlabelled), steps=8, epochs=4)


def counted(table: Any, classes: int, warm_up: bool) -> Any:
    """beta_c / (2 - beta_c) by Eqs. 5, 6, 10 and 11, image by image; -1 stands for never confident."""
    sigma = [sum(1 for entry in table if entry == c) for c in range(classes)]
    most = max(max(sigma), sum(1 for entry in table if entry == -1) if warm_up else 0)
    beta = [0.0 if most == 0 else s / most for s in sigma]
    return np.array([b / (2 - b) for b in beta])


def test_worked_example(begun: Any, passes_of: Any) -> None:
    """Thresholds of this step come from the table before it; the table takes tau, not the class's threshold."""
    method = begun("flexmatch", 3, given=some_facts(8, range(8)))
    method.table[:8] = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3], dtype=torch.int32)
    method.counts.copy_(torch.tensor([3, 2, 1, 2]))
    weak = [[0.97, 0.02, 0.01], [0.3, 0.45, 0.25], [0.02, 0.96, 0.02], [0.5, 0.3, 0.2]]
    strong = [[2, 0.5, -1], [0.2, 0.1, 0.3], [-0.5, 1.5, 0], [1, 0, -1]]
    passes = passes_of([[0.0, 0.0, 0.0]], weak, strong, [6, 7, 0, 5])
    method.observe(passes)
    np.testing.assert_allclose(method.thresholds(), [0.95, 0.475, 0.19], rtol=1e-6)
    pseudo = method.pseudo_labels(passes)
    assert pseudo.label.tolist() == [0, 1, 1, 0] and pseudo.keep.tolist() == [True, False, True, False]
    losses = method.losses(passes, torch.tensor([0]), pseudo)
    assert losses["unsupervised"].item() == pytest.approx(0.13691675, rel=1e-6)
    assert method.table[:8].tolist() == [1, 0, 0, 1, 1, 2, 0, 3]
    assert method.counts.tolist() == [3, 3, 1, 1]
    method.observe(passes)
    np.testing.assert_allclose(method.thresholds(), [0.95, 0.95, 0.19], rtol=1e-6)


@pytest.mark.parametrize(
    ("warm_up", "thresholds"), [(True, [0.086363636, 0.086363636, 0]), (False, [0.95, 0.95, 0])], ids=["eq11", "eq6"]
)
def test_worked_example_of_the_start(warm_up: bool, thresholds: list[float]) -> None:
    """Two of eight images were ever confident."""
    counts = torch.tensor([1, 1, 0, 6])
    np.testing.assert_allclose(0.95 * curriculum(counts, warm_up), thresholds, rtol=1e-6)


def test_every_image_is_kept_before_any_was_confident(begun: Any, passes_of: Any) -> None:
    for warm_up in (True, False):
        method = begun("flexmatch", 3, given=some_facts(5, range(5)), warm_up=warm_up)
        passes = passes_of([[0.0, 0.0, 0.0]], np.full((4, 3), 1 / 3), np.zeros((4, 3)), [0, 1, 2, 3])
        method.observe(passes)
        assert method.thresholds().tolist() == [0, 0, 0]
        assert method.pseudo_labels(passes).keep.all()


@pytest.mark.parametrize("warm_up", [True, False], ids=["eq11", "eq6"])
@pytest.mark.parametrize("seed", range(4))
def test_eqs_5_to_11_over_many_steps(begun: Any, passes_of: Any, warm_up: bool, seed: int) -> None:
    """Images change class, stand twice in a batch (the last confident row counts), and half the data is not in the
    pool; the counts kept up to date equal those counted anew."""
    rng = np.random.default_rng(seed)
    images, classes, tau = 30, 4, 0.8
    pool = np.sort(rng.permutation(images)[:13])
    method = begun("flexmatch", classes, given=some_facts(images, pool), threshold=tau, warm_up=warm_up)
    table = dict.fromkeys(pool.tolist(), -1)
    for _ in range(25):
        index = rng.choice(pool, 9, replace=True)
        logits = rng.normal(0, 4, (9, classes))
        weak = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        passes = passes_of(np.zeros((1, classes)), weak, logits, index)
        expected = tau * counted(list(table.values()), classes, warm_up)
        for image, row in zip(index.tolist(), weak, strict=True):
            if row.max() >= tau:
                table[image] = int(row.argmax())
        method.observe(passes)
        np.testing.assert_allclose(method.thresholds(), expected, rtol=1e-6)
        assert {image: int(method.table[image]) % classes for image in table if table[image] >= 0} == {
            image: entry for image, entry in table.items() if entry >= 0
        }
        sigma = [list(table.values()).count(c) for c in (*range(classes), -1)]
        assert method.counts.tolist() == sigma
    assert (method.table == classes).sum() == images + 1 - sum(sigma[:-1])


def test_full_beta_is_fixmatch(begun: Any, passes_of: Any) -> None:
    """With every class learnt alike, all thresholds are tau and the losses FixMatch's."""
    rng = np.random.default_rng(0)
    weak, strong, labelled = rng.dirichlet([0.2] * 3, 6), rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    flex, fix = begun("flexmatch", 3, threshold=0.7), begun("fixmatch", 3, threshold=0.7)
    flex.counts.copy_(torch.tensor([5, 5, 5, 0]))
    passes = passes_of(labelled, weak, strong, np.arange(6))
    flex.observe(passes)
    labels = torch.tensor([0, 1, 2, 0])
    results = [method.losses(passes, labels, method.pseudo_labels(passes)) for method in (flex, fix)]
    assert results[0] == results[1]


def test_a_plug_in_meets_the_curriculum(network: Any, random_batch: Any) -> None:
    method: Any = build("remop", network(), option_values("remop", "paper", {"learner": "flexmatch", "threshold": 0.3}))
    method.begin(some_facts(24, range(24)))
    for seed in range(3):
        method.step(*random_batch(method, seed=seed))
    assert method.learner.counts.sum() == 24 and method.learner.counts[-1] < 24
    assert method.learner.limits.max() > 0
    assert "learner.table" in method.not_averaged()
