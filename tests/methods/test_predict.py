"""Scores of test images by every inference rule, against loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ferbench.bench.training.ema import Averaged

Array = NDArray[np.float64]

VARIANTS = pytest.mark.parametrize("variant", ["paper", "released"])
BETA = 0.3


@pytest.fixture
def rows() -> dict[str, Array]:
    """Features x [6, 4], features "after dropout" f, logits z [6, 5], centres h [5, 4]."""
    rng = np.random.default_rng(0)
    shapes = {"x": (6, 4), "f": (6, 4), "z": (6, 5), "h": (5, 4)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def softmax(z: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in z)
    return [math.exp(value) / total for value in z]


def expected(variant: str, rows: dict[str, Array]) -> dict[str, Array]:
    """One image, one class at a time."""
    used = rows["x"] if variant == "paper" else rows["f"]
    rules: dict[str, list[list[float]]] = {"mixture": [], "linear": [], "centers": []}
    for x, z in zip(used, rows["z"], strict=True):
        similarity = []
        for h in rows["h"]:
            product = sum(float(a) * float(b) for a, b in zip(x, h, strict=True))
            lengths = math.sqrt(sum(float(a) ** 2 for a in x) * sum(float(b) ** 2 for b in h))
            similarity.append(product / lengths if variant == "paper" else product)
        linear = softmax([float(value) for value in z])
        rules["linear"].append(linear)
        rules["centers"].append(similarity)
        rules["mixture"].append(
            [BETA * p + (1 - BETA) * s for p, s in zip(linear, similarity, strict=True)]
            if variant == "paper"
            else softmax([BETA * float(a) + (1 - BETA) * s for a, s in zip(z, similarity, strict=True)])
        )
    return {name: np.array(values) for name, values in rules.items()}


@VARIANTS
def test_eq6_at_test_time(variant: str, rows: dict[str, Array], encode: Any, table_method: Any) -> None:
    method = table_method("remop", centers=rows["h"], variant=variant, beta=BETA).eval()
    images = encode(rows["x"], rows["z"], rows["f"])
    with torch.no_grad():
        scores = method.predict_all(images)
    assert list(scores) == ["mixture", "linear", "centers"]
    for rule, want in expected(variant, rows).items():
        np.testing.assert_allclose(scores[rule].numpy(), want, rtol=1e-5, atol=1e-6, err_msg=rule)
    assert torch.equal(method.predict(images), scores["mixture"])


@VARIANTS
def test_figure_3_linear_headline(variant: str, rows: dict[str, Array], encode: Any, table_method: Any) -> None:
    """The same scores, the linear rule first."""
    method = table_method("remop", centers=rows["h"], variant=variant, beta=BETA, mixture_at_test=False).eval()
    images = encode(rows["x"], rows["z"], rows["f"])
    scores = method.predict_all(images)
    assert list(scores) == ["linear", "mixture", "centers"]
    np.testing.assert_allclose(scores["linear"].detach(), expected(variant, rows)["linear"], rtol=1e-5)
    assert torch.equal(method.predict(images), scores["linear"])


@pytest.mark.parametrize("name", ["vanilla", "fixmatch"])
def test_learners_score_by_softmax(name: str, rows: dict[str, Array], encode: Any, table_method: Any) -> None:
    method = table_method(name, shape=(4, 5)).eval()
    images = encode(rows["x"], rows["z"])
    scores = method.predict_all(images)
    assert list(scores) == ["main"]
    np.testing.assert_allclose(scores["main"].detach(), expected("paper", rows)["linear"], rtol=1e-5)
    assert torch.equal(method.predict(images), scores["main"])


def test_a_feature_of_zeros_has_finite_scores(encode: Any, table_method: Any) -> None:
    """Cosine with the zero vector counts as 0."""
    method = table_method("remop", centers=np.eye(3, 2)).eval()
    scores = method.predict(encode(np.zeros((1, 2)), np.zeros((1, 3))))
    np.testing.assert_allclose(scores.detach(), np.full((1, 3), 0.5 / 3), rtol=1e-6)


@pytest.mark.parametrize("name", ["vanilla", "fixmatch", "remop"])
def test_half_precision_logits_are_scored_in_float32(name: str, table_method: Any, encode: Any) -> None:
    settings = {"centers": np.eye(3, 2)} if name == "remop" else {"shape": (2, 3)}
    method = table_method(name, **settings).eval()
    images = encode([[0.5, 0.25]], [[1.0, 2.0, 4.0]]).half()
    for rule, scores in method.predict_all(images).items():
        assert scores.dtype == torch.float32, rule
    np.testing.assert_allclose(
        method.predict_all(images)["main" if name != "remop" else "linear"].detach()[0],
        softmax([1.0, 2.0, 4.0]),
        rtol=1e-6,
    )


@pytest.mark.parametrize(("average", "variant"), [(True, "paper"), (False, "released")])
def test_centers_of_the_evaluated_model(average: bool, variant: str, table_method: Any) -> None:
    """Released: the averaged copy works with the student's current centres, which the recipe's decay leaves alone."""
    method = table_method("remop", centers=np.zeros((3, 2)), variant=variant)
    assert method.options.average_centers is average
    assert method.not_averaged() == (frozenset() if average else frozenset({"centers"}))
    averaged: Any = Averaged(method, 0.9, buffers="ema", shrink=0.5)
    method.centers.data.fill_(1.0)
    averaged.update(lr=0.1)
    assert averaged.method.centers.flatten().tolist() == pytest.approx([0.1 if average else 1.0] * 6)
    assert method.centers.flatten().tolist() == pytest.approx([1 - 0.5 * 0.1 if average else 1.0] * 6)


def test_not_averaged_names_of_the_learner_are_prefixed(table_method: Any) -> None:
    method = table_method("remop", centers=np.zeros((3, 2)), average_centers=False)
    method.learner.not_averaged = lambda: frozenset({"model.bank"})
    assert method.not_averaged() == {"learner.model.bank", "centers"}
