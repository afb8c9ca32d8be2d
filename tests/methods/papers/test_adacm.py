"""Ada-CM against slow float64 loops written from the paper's equations, and against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferbench.methods import (
    Labelled,
    MethodError,
    Passes,
    Prediction,
    Progress,
    PseudoLabels,
    Scored,
    Unlabelled,
    Variant,
    build,
    option_values,
)
from ferbench.methods.blocks.views import mean_probability
from ferbench.methods.papers.adacm import AdaCM, AdaCMOptions, adaptive_margin
from ferbench.methods.papers.remop import ReMoP

Array = NDArray[np.float64]
RELEASED = AdaCMOptions(floor=True, denominator="batch", timing="previous", symmetric=True)

# Logits of six labelled images (the 4th and 6th wrong), then of five unlabelled ones in two weak and a strong view.
LABELLED = np.array([[6, 1, 0], [5, 0, 1], [0.2, 4, 0.1], [2, 1.5, 0], [0, 0.5, 3], [1, 0.2, 0.9]])
LABELS = np.array([0, 0, 1, 1, 2, 2])
WEAK = np.array([[5, 0.5, 0], [2, 1, 0.5], [0, 3.5, 0.2], [0.4, 1.9, 0.2], [0.1, 0.6, 2.6]])
WEAK2 = np.array([[4, 0, 0.5], [1, 2, 0], [0.3, 4.5, 0], [0.1, 1.6, 0.3], [0, 0.2, 3.4]])
STRONG = np.array([[2.5, 0.3, 0.1], [0.8, 0.9, 0.1], [0.2, 2, 0.4], [0.3, 0.2, 0.1], [0.5, 0.4, 1.5]])
FEATURES_A = np.array([[1, 0.2], [0.3, 0.9], [-0.5, 0.8]])
FEATURES_B = np.array([[0.9, 0.4], [0.1, 1.1], [-0.9, 0.5]])


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return cast(Array, powers / powers.sum(axis=1, keepdims=True))


def entropy(logits: Array, label: int) -> float:
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])


def margins_by_loops(scores: Array, labels: NDArray[np.int64], t: int, options: AdaCMOptions) -> Array:
    result = []
    for c in range(scores.shape[1]):
        right = [row[c] for row, label in zip(scores, labels, strict=True) if label == c and row.argmax() == c]
        value = options.bound * np.mean(right) / (1 + options.gamma**-t) if right else options.initial_threshold
        result.append(max(value, options.initial_threshold) if options.floor else value)
    return np.array(result)


def contrast_by_loops(a: Array, b: Array, temperature: float) -> float:
    """Eq. 9: a's rows are the anchors; j runs over a without the anchor, k over b."""

    def power(x: Array, y: Array) -> float:
        return math.exp(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) / temperature)

    total = 0.0
    for i in range(len(a)):
        below = sum(power(a[i], a[j]) for j in range(len(a)) if j != i) + sum(power(a[i], row) for row in b)
        total -= math.log(power(a[i], b[i]) / below)
    return total / len(a)


def prediction(logits: Any, features: Any = None) -> Prediction:
    """Leaves that take gradients."""
    rows = torch.as_tensor(np.asarray(logits, dtype=np.float32)).requires_grad_()
    width = np.zeros((len(rows), 2)) if features is None else features
    vectors = torch.as_tensor(np.asarray(width, dtype=np.float32)).requires_grad_()
    return Prediction(vectors, vectors, rows)


@pytest.fixture
def adacm(network: Any) -> Callable[..., AdaCM]:
    def make(classes: int = 3, variant: Variant = "paper", **options: object) -> AdaCM:
        method = build("adacm", network(num_classes=classes), option_values("adacm", variant, options))
        assert isinstance(method, AdaCM)
        return method

    return make


def test_options_are_the_papers() -> None:
    expected = {
        "bound": 0.97, "gamma": math.e, "initial_threshold": 0.8, "floor": False, "timing": "current", "margin": True,
        "threshold": 0.95, "contrast": True, "contrast_gradient": True, "supervised_weight": 0.5,
        "unlabelled_weight": 1.0, "contrast_weight": 0.1,
        "temperature": 0.07, "denominator": "kept", "symmetric": False, "joint": False,
    }  # fmt: skip
    assert option_values("adacm", "paper", {}) == expected
    changes = {"floor": True, "timing": "previous", "denominator": "batch", "symmetric": True}
    assert option_values("adacm", "released", {}) == expected | changes


@pytest.mark.parametrize("gradient", [True, False])
def test_the_contrast_teaches_or_not(gradient: bool, network: Any, random_batch: Any) -> None:
    """Before October 2022 the released code passed the weak views without a gradient: Eq. 9 was a constant."""
    torch.manual_seed(0)
    values = option_values("adacm", "paper", {"contrast_gradient": gradient, "initial_threshold": 0.99})
    method = build("adacm", network(dropout=0.0), values).train()
    contrast = method.step(*random_batch(method)).losses["contrast"]
    assert contrast.item() > 0 and contrast.requires_grad is gradient


WORKED_MARGINS = {
    1: ((0.69722279, 0.6801440579, 0.6265079261), (0.8, 0.8, 0.8)),
    2: ((0.8400309005, 0.8194540306, 0.7548319201), (0.8400309005, 0.8194540306, 0.8)),
    3: ((0.9084858721, 0.8862321721, 0.8163439402),) * 2,
    5: ((0.9473336365, 0.9241283461, 0.8512516235),) * 2,
    20: ((0.9537167184, 0.930355072, 0.85698731),) * 2,
}


@pytest.mark.parametrize("t", WORKED_MARGINS)
def test_worked_margins_eqs_4_and_5(t: int) -> None:
    scores = torch.from_numpy(softmax(LABELLED))
    for options, expected in zip((AdaCMOptions(), RELEASED), WORKED_MARGINS[t], strict=True):
        got = adaptive_margin(scores, torch.from_numpy(LABELS), t, options)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("options", [AdaCMOptions(), RELEASED, AdaCMOptions(bound=0.6, gamma=1.5)], ids=str)
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (7, 3), (64, 8), (5, 8)])
def test_margins_eqs_4_and_5(options: AdaCMOptions, images: int, classes: int) -> None:
    """Also with classes that have no image, and no correct one."""
    rng = np.random.default_rng(images)
    labels = rng.integers(classes, size=images)
    scores = softmax(rng.normal(size=(images, classes)) * 2 + 2 * np.eye(classes)[labels])
    for t in (1, 4):
        got = adaptive_margin(torch.from_numpy(scores), torch.from_numpy(labels), t, options)
        np.testing.assert_allclose(got.numpy(), margins_by_loops(scores, labels, t, options), rtol=1e-12)


def test_a_class_without_a_correct_prediction_has_the_initial_margin() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    got = adaptive_margin(scores, torch.tensor([0, 1]), 1, AdaCMOptions(initial_threshold=0.7))
    np.testing.assert_allclose(got.numpy(), [0.97 * 0.9 / (1 + math.exp(-1)), 0.7], rtol=1e-6)


def test_worked_partition_eq_6(adacm: Any) -> None:
    """t = 3; then t = 1, where the literal margin lets a fourth image in and the floor does not."""
    passes = Passes(prediction(LABELLED), (prediction(WEAK), prediction(WEAK2)), (prediction(STRONG),))
    kept = {(3, False): [0, 2, 4], (3, True): [0, 2, 4], (1, False): [0, 2, 3, 4], (1, True): [0, 2, 4]}
    for (t, floor), rows in kept.items():
        method = adacm(floor=floor)
        scores, labels = torch.from_numpy(softmax(LABELLED)), torch.from_numpy(LABELS)
        method.margins.copy_(adaptive_margin(scores, labels, t, method.options))
        pseudo = method.pseudo_labels(passes)
        assert pseudo.label.tolist() == [0, 1, 1, 1, 2]
        assert pseudo.keep.nonzero().flatten().tolist() == rows
        expected = [0.9680987914, 0.4482324267, 0.9558479574, 0.6899660474, 0.8761951412]
        np.testing.assert_allclose(pseudo.confidence.numpy(), expected, rtol=1e-5)


def test_the_margin_of_the_label_gates_and_is_reached_at_equality(adacm: Any) -> None:
    method = adacm(classes=2)
    weak = prediction(np.log([[0.6, 0.4], [0.4, 0.6], [0.1, 0.9], [0.5, 0.5]]))
    passes = Passes(weak, (weak, weak))
    confidence = method.pseudo_labels(passes).confidence
    for margin, reached in ((confidence[2], True), (torch.nextafter(confidence[2], torch.tensor(1.0)), False)):
        method.margins.copy_(torch.stack([confidence[3], margin]))
        pseudo = method.pseudo_labels(passes)
        assert pseudo.label.tolist() == [0, 1, 1, 0]  # a tie goes to the first class
        assert pseudo.keep.tolist() == [True, False, reached, True]


def test_eq_6_averages_probabilities_not_logits() -> None:
    a, b = np.array([[9.0, 0, 0], [0.1, 0.2, 0.3]]), np.array([[0, 2.0, 0], [1000.0, 0, 0]])
    got = mean_probability([torch.tensor(a), torch.tensor(b)]).softmax(dim=1)
    np.testing.assert_allclose(got.numpy(), (softmax(a) + softmax(b)) / 2, rtol=1e-6, atol=1e-30)
    one = torch.randn(4, 3)
    assert mean_probability([one]) is one


@pytest.mark.parametrize(
    ("keep", "kept_mean", "batch_mean"),
    [([0, 2, 4], 0.3424731596, 0.2054838958), ([0, 2, 3, 4], 0.5323405818, None), ([], 0.0, 0.0)],
)
def test_worked_eq_7(adacm: Any, keep: list[int], kept_mean: float, batch_mean: float | None) -> None:
    mask = torch.zeros(5, dtype=torch.bool)
    mask[keep] = True
    passes = Passes(prediction(LABELLED), (prediction(WEAK), prediction(WEAK2)), (prediction(STRONG),))
    pseudo = PseudoLabels(torch.tensor([0, 1, 1, 1, 2]), mask, torch.ones(5))
    for denominator, expected in (("kept", kept_mean), ("batch", batch_mean)):
        if expected is not None:
            terms = adacm(denominator=denominator).losses(passes, torch.from_numpy(LABELS), pseudo)
            assert terms["unsupervised"].item() == pytest.approx(expected, rel=1e-6)


def test_worked_contrast_eq_9_and_total_eq_10(adacm: Any) -> None:
    """Subset II is rows 1, 3 and 5 of six; its features are the worked ones, the others' are poisoned."""
    rows = [1, 3, 5]
    features = [np.full((6, 2), 1e4) for _ in range(2)]
    for full, some in zip(features, (FEATURES_A, FEATURES_B), strict=True):
        full[rows] = some
    keep = torch.ones(6, dtype=torch.bool)
    keep[rows] = False
    weak = [prediction(np.zeros((6, 3)), part) for part in features]
    strong = prediction(np.repeat(STRONG[[0, 2, 4]], 2, axis=0))
    pseudo = PseudoLabels(torch.tensor([0, 0, 1, 1, 2, 2]), keep, torch.ones(6))
    passes = Passes(prediction(LABELLED), tuple(weak), (strong,))
    expected = {(0.07, False): 0.1101753064, (0.07, True): 0.07069591992, (0.5, False): 0.8388323274}
    for (temperature, symmetric), value in expected.items():
        method = adacm(temperature=temperature, symmetric=symmetric)
        assert method.contrast(passes, keep).item() == pytest.approx(value, rel=2e-5)
    terms = adacm().losses(passes, torch.from_numpy(LABELS), pseudo)
    assert list(terms) == ["supervised", "unsupervised", "contrast"]
    assert terms["supervised"].item() == pytest.approx(0.5 * 0.368444283, rel=1e-6)
    assert sum(terms.values()).item() == pytest.approx(0.5377128317, rel=1e-5)
    mean = adacm(variant="released").losses(passes, torch.from_numpy(LABELS), pseudo)
    assert mean["unsupervised"].item() == pytest.approx(0.3424731596 / 2, rel=1e-6)
    assert mean["contrast"].item() == pytest.approx(0.1 * 0.07069591992, rel=2e-5)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("left_out", [0, 1, 2, 5, 7])
def test_contrast_eq_9(adacm: Any, left_out: int, symmetric: bool) -> None:
    """Subset II of zero, one, two, some and all of seven images: value, and gradients to its rows alone."""
    rng = np.random.default_rng(left_out)
    a, b = rng.normal(size=(2, 7, 5))
    rows = rng.permutation(7)[:left_out]
    keep = torch.ones(7, dtype=torch.bool)
    keep[torch.from_numpy(rows)] = False
    weak = [prediction(np.zeros((7, 3)), part) for part in (a, b)]
    loss = adacm(symmetric=symmetric, temperature=0.2).contrast(Passes(weak[0], tuple(weak)), keep)
    if left_out < 2:
        assert loss.item() == 0
        return
    expected = contrast_by_loops(a[rows], b[rows], 0.2)
    if symmetric:
        expected = (expected + contrast_by_loops(b[rows], a[rows], 0.2)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for view in weak:
        assert view.features.grad is not None
        moved = view.features.grad.abs().sum(dim=1) > 0
        assert moved.tolist() == (~keep).tolist()


def test_gradients_of_eq_7_reach_the_strong_view_of_subset_one_alone(adacm: Any) -> None:
    rng = np.random.default_rng(3)
    labelled, weak, weak2, strong = (prediction(rng.normal(size=(5, 3)), rng.normal(size=(5, 4))) for _ in range(4))
    keep = torch.tensor([True, False, True, True, False])
    pseudo = PseudoLabels(torch.tensor([0, 1, 2, 1, 0]), keep, torch.ones(5))
    terms = adacm().losses(Passes(labelled, (weak, weak2), (strong,)), torch.tensor([0, 1, 2, 0, 1]), pseudo)
    terms["unsupervised"].backward()
    expected = softmax(strong.logits.detach().double().numpy()) - np.eye(3)[pseudo.label.numpy()]
    np.testing.assert_allclose(strong.logits.grad, expected * keep.numpy()[:, None] / 3, rtol=1e-5, atol=1e-7)
    assert all(view.logits.grad is None for view in (labelled, weak, weak2))


class Questions:
    """Answers like the loop, and remembers what was asked."""

    def __init__(self, scores: Tensor, labels: Tensor) -> None:
        self.scored = Scored(scores, torch.arange(len(labels)), labels)
        self.asked: list[tuple[object, ...]] = []

    def __call__(self, which: str, *, model: str = "student", view: str = "plain", rule: str | None = None) -> Scored:
        self.asked.append((which, model, view, rule))
        return self.scored


@pytest.mark.parametrize(("variant", "first"), [("paper", 2), ("released", 1)])
def test_margins_over_epochs(adacm: Any, variant: Variant, first: int) -> None:
    """T^0 in the first epoch; after epoch e the paper's Eq. 5 has t = e + 1, where it is used, the code's t = e."""
    method = adacm(variant=variant)
    assert method.thresholds().tolist() == pytest.approx([0.8] * 3)
    ask = Questions(torch.from_numpy(softmax(LABELLED)).float(), torch.from_numpy(LABELS))
    for epoch in range(3):
        method.end_epoch(Progress(torch.zeros(()), epoch), ask)
        expected = WORKED_MARGINS[first + epoch][variant == "released"] if first + epoch < 4 else None
        if expected:
            np.testing.assert_allclose(method.thresholds().numpy(), expected, rtol=1e-6)
    assert ask.asked == [("labelled", "average", "weak", None)] * 3
    assert method.not_averaged() == {"margins"}


def test_a_fixed_threshold_stays(adacm: Any) -> None:
    method = adacm(margin=False, threshold=0.5)
    method.end_epoch(Progress(torch.zeros(()), 0), Questions(torch.ones(2, 3) / 3, torch.tensor([0, 1])))
    assert method.thresholds().tolist() == [0.5] * 3


@pytest.mark.parametrize("contrast", [True, False])
def test_weak_views_have_a_graph_for_the_contrast_alone(network: Any, random_batch: Any, contrast: bool) -> None:
    method = build("adacm", network(), option_values("adacm", "paper", {"contrast": contrast}))
    assert isinstance(method, AdaCM)
    batch = random_batch(method)
    assert all(view.features.requires_grad is contrast for view in method.passes(*batch[:2]).weak)
    assert ("contrast" in method.step(*batch).losses) is contrast


def test_two_weak_views_are_two_images(network: Any, random_batch: Any) -> None:
    """Each view goes through the network by itself, in the order weak, weak2."""
    method: Any = build("adacm", network(norm=False, dropout=0.0), option_values("adacm", "paper", {}))
    batch = random_batch(method)
    passes = method.passes(*batch[:2])
    for view, images in zip(passes.weak, ("weak", "weak2"), strict=True):
        torch.testing.assert_close(view.logits, method.model(batch.unlabelled.views[images]).logits)
    swapped = {**batch.unlabelled.views, "weak": batch.unlabelled.views["weak2"]}
    other = method.step(batch.labelled, replace(batch.unlabelled, views=swapped), batch.progress)
    assert other.losses["contrast"].item() != method.step(*batch).losses["contrast"].item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": 1.2}, "adacm: option 'bound' must lie in (0, 1], not 1.2"),
        ({"gamma": 1.0}, "adacm: option 'gamma' must be above 1, not 1.0"),
        ({"temperature": 0.0}, "adacm: option 'temperature' must be above 0, not 0.0"),
        ({"denominator": "all"}, "adacm.denominator: 'all' is not known; valid: kept, batch"),
        ({"floor": 0.8}, "adacm.floor: expected true or false, got 0.8"),
    ],
)
def test_error_lines(options: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError) as error:
        option_values("adacm", "paper", options)
    assert str(error.value) == message


# --- ReMoP on Ada-CM


@pytest.fixture
def remop(table_method: Any) -> Callable[..., Any]:
    def make(centers: Array, **options: Any) -> Any:
        return table_method("remop", centers=centers, learner="adacm", **options)

    return make


@pytest.mark.parametrize("mix", ["paper", "released"])
def test_remop_averages_the_mixtures_of_both_weak_views_eqs_5_to_7(remop: Any, mix: str) -> None:
    """Label and gate by loops: each view's mixture, then their mean; the paper gates by the mean linear prediction."""
    rng = np.random.default_rng(1)
    rows, classes, beta = 40, 3, 0.4
    centers = rng.normal(size=(classes, 2))
    features, logits = rng.normal(size=(2, rows, 2)), 2 * rng.normal(size=(2, rows, classes))
    margins = np.array([0.5, 0.6, 0.7])
    method = remop(centers, beta=beta, mix=mix, gate="linear" if mix == "paper" else "mixture")
    method.learner.margins.copy_(torch.from_numpy(margins))
    views = tuple(prediction(*pair) for pair in zip(logits, features, strict=True))
    got = method.enhanced_labels(Passes(views[0], views, (views[0],)))
    differs = 0
    for i in range(rows):
        linear, mixture = np.zeros(classes), np.zeros(classes)
        for view in range(2):
            p = softmax(logits[view, i][None])[0]
            dots = centers @ features[view, i]
            cosines = dots / np.linalg.norm(centers, axis=1) / np.linalg.norm(features[view, i])
            both = softmax((beta * logits[view, i] + (1 - beta) * dots)[None])[0]
            linear += p / 2
            mixture += (both if mix == "released" else beta * p + (1 - beta) * cosines) / 2
        label = int(mixture.argmax())
        gate = (mixture if mix == "released" else linear).max()
        differs += label != linear.argmax()
        assert got.label[i] == label
        assert got.confidence[i].item() == pytest.approx(gate, rel=1e-5)
        assert got.keep[i] == (gate >= margins[label])
    assert differs > 3  # of the forty labels


@pytest.mark.parametrize(("mix", "rule"), [("paper", "linear"), ("released", "mixture")])
def test_remop_s_margin_is_learnt_from_the_scores_it_gates(remop: Any, mix: str, rule: str) -> None:
    method = remop(np.eye(3), mix=mix, gate="linear" if mix == "paper" else "mixture")
    ask = Questions(torch.from_numpy(softmax(LABELLED)).float(), torch.from_numpy(LABELS))
    method.end_epoch(Progress(torch.zeros(()), 1), ask)
    assert ask.asked == [("labelled", "average", "weak", rule)]
    np.testing.assert_allclose(method.learner.margins.numpy(), WORKED_MARGINS[3][0], rtol=1e-6)
    assert rule in method.predict_all(torch.zeros(1, 9))
    assert method.not_averaged() == {"learner.margins"}


def test_remop_leaves_subset_two_to_the_contrast(remop: Any) -> None:
    """One image kept of three: the strong view learns the mixture's label, the two others are contrasted."""
    rng = np.random.default_rng(0)
    method = remop(np.eye(2), beta=0.5)
    assert isinstance(method, ReMoP)
    images = {name: torch.from_numpy(rng.normal(size=(3, 6))).float() for name in ("weak", "weak2", "strong")}
    images["weak"][:, 4:] = images["weak2"][:, 4:] = torch.tensor([[9.0, 0], [0.1, 0], [0, 0.2]])
    labelled = Labelled(
        {"weak": torch.from_numpy(rng.normal(size=(2, 6))).float()}, torch.tensor([0, 1]), torch.arange(2)
    )
    result = method.step(labelled, Unlabelled(images, torch.arange(3)), Progress(torch.zeros(()), 0))
    assert result.pseudo is not None and result.pseudo.keep.tolist() == [True, False, False]
    features = [images[name][1:, 2:4].double().numpy() for name in ("weak", "weak2")]
    assert result.losses["contrast"].item() == pytest.approx(0.1 * contrast_by_loops(*features, 0.07), rel=1e-4)
    expected = entropy(images["strong"][0, 4:].double().numpy(), int(result.pseudo.label[0]))
    assert result.losses["unsupervised"].item() == pytest.approx(expected, rel=1e-5)
