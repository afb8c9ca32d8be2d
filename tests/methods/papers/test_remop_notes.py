"""ReMoP on a worked example: K = 3, D = 2, four unlabelled images, beta 0.5, tau 0.95; expected numbers by NumPy in
float64 from the paper's equations ("paper") or from the released code's functions ("released")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ferbench.methods import StepResult

LABELLED_FEATURES = [[1.0, 0.5], [-0.5, 1.5], [0.2, -1.0]]
LABELS = [0, 1, 2]
LABELLED_LOGITS = [[2.0, 0.5, -1.0], [0.1, 1.2, 0.3], [-0.4, 0.0, 0.9]]
WEAK_FEATURES = [[2.0, 2.0], [0.5, 6.0], [-1.0, -2.0], [-0.2, 0.6]]
WEAK_LOGITS = [[8.0, 1.0, 0.5], [1.0, 2.0, 0.0], [0.2, 0.1, 6.0], [1.2, 1.0, 0.0]]
STRONG_FEATURES = [[3.0, 1.5], [0.2, 2.0], [-1.2, -1.0], [0.1, 0.4]]
STRONG_LOGITS = [[3.0, 0.5, 0.0], [0.5, 1.5, 0.2], [0.0, 0.3, 2.0], [0.4, 0.9, 0.1]]
CENTERS = [[2.0, 0.5], [-0.2, 1.8], [-0.9, -1.1]]
FOUR_CENTERS = [[1.0, 0.2, 0.0], [-0.3, 1.1, 0.4], [0.5, -0.7, 0.9], [-0.8, -0.1, -1.2]]

MIXTURE = {
    "paper": [
        [0.9280150512, 0.3128027978, -0.4972424575],
        [0.2834961344, 0.8232603683, -0.3669204133],
        [-0.3238905893, -0.4184232101, 0.984853535],
        [0.1975091551, 0.6820049175, -0.1959576106],
    ],
    "released": [
        [0.9876166711, 0.01212530557, 0.0002580233067],
        [0.02083529498, 0.9791143346, 5.037040004e-05],
        [0.002593817471, 0.002020067078, 0.9953861155],
        [0.3206016035, 0.5338950274, 0.1455033691],
    ],
}
CONFIDENCE: dict[str, list[float | None]] = {
    "paper": [0.9985371767, 0.6652409558, 0.994266068, None],
    "released": [0.9876166711, 0.9791143346, 0.9953861155, 0.5338950274],
}
KEEP = {"paper": [True, False, True, False], "released": [True, True, True, False]}
LAMBDA_CENTER, LAMBDA_REG = 1e-4, 0.1

VARIANTS = pytest.mark.parametrize("variant", ["paper", "released"])


def near(value: Any) -> Any:
    """float32 against numbers printed with ten digits."""
    return pytest.approx(value, rel=1e-6, abs=2e-8)


@pytest.fixture
def step(encode: Any, batch: Any, table_method: Any) -> Callable[..., StepResult]:
    """A whole step of `name` on the example."""

    def run(name: str = "remop", **settings: Any) -> StepResult:
        kind = {"centers": CENTERS} if name == "remop" else {"shape": (2, 3)}
        method = table_method(name, **kind, **settings)
        images = encode(LABELLED_FEATURES, LABELLED_LOGITS)
        weak, strong = encode(WEAK_FEATURES, WEAK_LOGITS), encode(STRONG_FEATURES, STRONG_LOGITS)
        result: StepResult = method.step(*batch(images, LABELS, weak, strong))
        return result

    return run


@VARIANTS
def test_eq5_eq6_mixture(variant: str, encode: Any, table_method: Any) -> None:
    method = table_method("remop", centers=CENTERS, variant=variant)
    mixture = method.mixture(method.learner.model(encode(WEAK_FEATURES, WEAK_LOGITS)))
    assert mixture.tolist() == [near(row) for row in MIXTURE[variant]]


@VARIANTS
def test_eq7_label_and_eq3_gate(variant: str, step: Any) -> None:
    pseudo = step(variant=variant).pseudo
    assert pseudo.label.tolist() == [0, 1, 2, 1]
    assert pseudo.keep.tolist() == KEEP[variant]
    expected = zip(pseudo.confidence.tolist(), CONFIDENCE[variant], strict=True)
    assert all(value == near(want) for value, want in expected if want is not None)


@pytest.mark.parametrize(("variant", "label", "first_two"), [("paper", 1, [0.46, 0.55]), ("released", 0, [1.03, 0.16])])
def test_eq6_mixture_space_decides_the_label(
    variant: str, label: int, first_two: list[float], encode: Any, batch: Any, table_method: Any
) -> None:
    """Probabilities with cosines against logits with dot products: the released numbers are before its softmax."""
    method = table_method("remop", centers=CENTERS, variant=variant)
    image = encode([[-0.02, 0.18]], [[2.0, 0.0, 0.0]])
    mixture = method.mixture(method.learner.model(image))[0]
    if variant == "released":
        assert (mixture[0] / mixture[1]).log().item() == pytest.approx(first_two[0] - first_two[1], abs=0.01)
    else:
        assert mixture[:2].tolist() == pytest.approx(first_two, abs=0.006)
    pseudo = method.step(*batch(encode(LABELLED_FEATURES, LABELLED_LOGITS), LABELS, image, image)).pseudo
    assert pseudo.label.tolist() == [label]


@pytest.mark.parametrize(
    ("settings", "supervised", "unsupervised"),
    [
        pytest.param({}, 0.4377112491, 0.100000666, id="paper-mean"),
        pytest.param({"reduction": "sum"}, 1.313133747, 0.4000026639, id="paper-sum"),
        pytest.param({"variant": "released"}, 0.4377112491, 0.04474748134, id="released"),
        pytest.param({"variant": "released", "unlabelled_weight": 1.0}, 0.4377112491, 0.2237374067, id="released-1"),
        pytest.param({"name": "fixmatch"}, 0.4377112491, 0.100000666, id="fixmatch"),
        pytest.param({"name": "fixmatch", "reduction": "sum"}, 1.313133747, 0.4000026639, id="fixmatch-sum"),
    ],
)
def test_eq3_supervised_and_unsupervised(
    settings: dict[str, Any], supervised: float, unsupervised: float, step: Any
) -> None:
    losses = step(**settings).losses
    assert losses["supervised"].item() == near(supervised)
    assert losses["unsupervised"].item() == near(unsupervised)


@pytest.mark.parametrize(
    ("settings", "center"),
    [
        pytest.param({"learner": "vanilla", "reduction": "sum"}, 1.2, id="labelled-sum"),
        pytest.param({"learner": "vanilla", "variant": "released"}, 0.8, id="labelled-released"),
        pytest.param({"reduction": "sum"}, 1.2 + 1.05, id="paper-sum"),
        pytest.param({}, 1.2 / 3 + 1.05 / 2, id="paper-mean-per-group"),
        pytest.param({"variant": "released"}, 0.8 + 0.7666666667, id="released"),
    ],
)
def test_sec42_center_loss(settings: dict[str, Any], center: float, step: Any) -> None:
    assert step(**settings).losses["center"].item() == near(LAMBDA_CENTER * center)


@pytest.mark.parametrize(("variant", "etf"), [("paper", 0.1551180755), ("released", 1.534766764)])
def test_eq8_regulariser(variant: str, etf: float, step: Any) -> None:
    assert step(variant=variant).losses["etf"].item() == near(LAMBDA_REG * etf)


@pytest.mark.parametrize(
    ("variant", "etf", "norm"), [("paper", 1.037348532, 3.847304548), ("released", 1.637449223, 1.142342091)]
)
def test_eq8_of_four_generic_centers(
    variant: str, etf: float, norm: float, encode: Any, batch: Any, table_method: Any
) -> None:
    method = table_method("remop", centers=FOUR_CENTERS, variant=variant, learner="vanilla", lambda_reg=1.0)
    loss = method.step(*batch(encode(FOUR_CENTERS, [[0.0] * 4] * 4), [0, 1, 2, 3])).losses["etf"]
    assert loss.item() == near(etf)
    loss.backward()
    assert method.centers.grad.norm().item() == near(norm)


@pytest.mark.parametrize(("variant", "etf"), [("paper", 0.0), ("released", 4 / 3)])
def test_eq8_of_a_simplex_etf(variant: str, etf: float, encode: Any, batch: Any, table_method: Any) -> None:
    """Four corners of a cube; the released minimum is K / (K - 1)."""
    corners = [[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
    method = table_method("remop", centers=corners, variant=variant, learner="vanilla", lambda_reg=1.0)
    loss = method.step(*batch(encode(corners, [[0.0] * 4] * 4), [0, 1, 2, 3])).losses["etf"]
    assert loss.item() == pytest.approx(etf, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        pytest.param({}, 0.5533162226, id="paper"),
        pytest.param({"variant": "released"}, 0.6360920735, id="released"),
        pytest.param(
            {"reduction": "sum"},
            1.313133747 + 0.4000026639 + LAMBDA_CENTER * 2.25 + LAMBDA_REG * 0.1551180755,
            id="paper-sum",
        ),
    ],
)
def test_eq9_total(settings: dict[str, Any], total: float, step: Any) -> None:
    losses: dict[str, Tensor] = step(**settings).losses
    assert sum(loss.item() for loss in losses.values()) == near(total)
    assert set(losses) == {"supervised", "unsupervised", "center", "etf"}


@pytest.mark.parametrize(("term", "norm"), [("center", 1.032795559), ("etf", 177.1901016)])
def test_released_center_gradients_are_divided_by_lambda_center(
    term: str, norm: float, encode: Any, batch: Any, table_method: Any
) -> None:
    method = table_method("remop", centers=CENTERS, variant="released", learner="vanilla")
    result = method.step(*batch(encode(LABELLED_FEATURES, LABELLED_LOGITS), LABELS))
    result.losses[term].backward()
    method.after_backward()
    assert method.centers.grad.norm().item() == near(norm)


def test_paper_center_gradients_are_left_alone(encode: Any, batch: Any, table_method: Any) -> None:
    method = table_method("remop", centers=CENTERS, learner="vanilla")
    losses = method.step(*batch(encode(LABELLED_FEATURES, LABELLED_LOGITS), LABELS)).losses
    (losses["center"] + losses["etf"]).backward()
    before = method.centers.grad.clone()
    method.after_backward()
    assert torch.equal(method.centers.grad, before)
