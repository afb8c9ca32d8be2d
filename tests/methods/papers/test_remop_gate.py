"""What the gate of Eq. 3 lets the mixture of Eq. 6 change, and that a run's log says how much that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.bench.training.train import train
from ferbench.methods import build, option_values
from ferbench.methods.papers.remop import ReMoP

BETA, TAU, WIDTH, CLASSES, IMAGES = 0.5, 0.95, 6, 4, 4000


def labels_of(method: Any, encode: Any, batch: Any, logits: Any, features: Any) -> Any:
    images = encode(features, logits)
    known = encode(np.zeros((2, WIDTH)), np.zeros((2, CLASSES)))
    return method.step(*batch(known, [0, 1], images, images)).pseudo


def drawn(seed: int) -> tuple[Any, Any, Any]:
    """Centres, and images whose linear prediction is often sure and whose feature is often another class's."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(CLASSES, WIDTH))
    near = centers[rng.integers(0, CLASSES, IMAGES)] * rng.uniform(1, 5, (IMAGES, 1))
    logits = rng.normal(0, 6, (IMAGES, CLASSES))
    return centers, logits, near + 0.3 * rng.normal(size=(IMAGES, WIDTH))


@pytest.mark.parametrize(("mix", "gate"), [(m, g) for m in ("paper", "released") for g in ("linear", "mixture")])
def test_gate_and_mixture_are_options_of_their_own(
    mix: Any, gate: Any, encode: Any, batch: Any, table_method: Any, slow: Any
) -> None:
    """By rows in float64: the label is the mixture's, the gate asks the linear prediction or the mixture."""
    centers, logits, features = drawn(0)
    method = table_method("remop", centers=centers, mix=mix, gate=gate, threshold=0.9)
    pseudo = labels_of(method, encode, batch, logits, features)
    linear = slow.softmax(logits)
    if mix == "paper":
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, centers)]
        mixture = BETA * linear + (1 - BETA) * unit[0] @ unit[1].T
    else:
        mixture = slow.softmax(BETA * logits + (1 - BETA) * features @ centers.T)
    confidence = (linear if gate == "linear" else mixture).max(1)
    sure = np.abs(confidence - 0.9) > 1e-5
    np.testing.assert_array_equal(pseudo.label, mixture.argmax(1))
    np.testing.assert_array_equal(pseudo.keep[sure], (confidence >= 0.9)[sure])
    np.testing.assert_allclose(pseudo.confidence, confidence, rtol=1e-4)
    np.testing.assert_array_equal(pseudo.changed, mixture.argmax(1) != linear.argmax(1))
    assert 0 < pseudo.keep.sum() < IMAGES


@pytest.mark.parametrize(("variant", "can"), [("paper", False), ("released", True)])
def test_what_the_published_constants_let_it_change(
    variant: Any, can: bool, encode: Any, batch: Any, table_method: Any
) -> None:
    """beta 0.5, tau 0.95: by the linear gate a taught label changes only where cosines differ by more than 0.9."""
    changed = taught = 0
    for seed in range(3):
        centers, logits, features = drawn(seed)
        centers = np.abs(centers)  # cosines of one sign differ by less than 0.9, as those of real features do
        pseudo = labels_of(
            table_method("remop", centers=centers, variant=variant), encode, batch, logits, np.abs(features)
        )
        changed += int((pseudo.changed & pseudo.keep).sum())
        taught += int(pseudo.keep.sum())
        assert pseudo.changed.any()
    assert taught > 500
    assert (changed > 0) is can


def test_two_weak_views_by_the_gate_that_is_not_the_mixtures_own(network: Any, random_batch: Any) -> None:
    """On Ada-CM, whose margin is one threshold per class."""
    torch.manual_seed(0)
    values = option_values("remop", "paper", {"learner": "adacm", "gate": "mixture", "initial_threshold": 0.2})
    method = build("remop", network(dropout=0.0), values).train()
    assert isinstance(method, ReMoP)
    labelled, unlabelled, progress = random_batch(method)
    method.learner.margins.copy_(torch.tensor([0.1, 0.9, 0.2, 0.3]))  # type: ignore[operator]
    pseudo = method.step(labelled, unlabelled, progress).pseudo
    with torch.no_grad():
        views = [method.learner.model.train()(unlabelled.views[name]) for name in ("weak", "weak2")]
        mixture = torch.stack([method.mixture(view) for view in views]).mean(dim=0)
    confidence, label = mixture.max(dim=1)
    assert torch.equal(pseudo.label, label)
    assert torch.equal(pseudo.keep, confidence >= method.learner.margins[label])  # type: ignore[index]


def test_the_log_says_how_many_taught_labels_are_changed(make_tiny_run: Any, tmp_path: Any) -> None:
    train(make_tiny_run("remop", options={"threshold": 0.3}), tmp_path / "linear")
    lines = (tmp_path / "linear" / "metrics.jsonl").read_text().splitlines()
    assert all('"labels changed": ' in line for line in lines)
