"""LEAF against slow float64 loops written from the paper's equations, and against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ferbench.kernels.ambiguous.reference import concave_weight
from ferbench.methods import (
    LEARNERS,
    MethodError,
    Passes,
    Prediction,
    PseudoLabels,
    Variant,
    build,
    option_values,
)
from ferbench.methods.blocks.experts import Experts
from ferbench.methods.general.fixmatch import FixMatch
from ferbench.methods.papers.adacm import AdaCM
from ferbench.methods.papers.leaf import LEAF

Array = NDArray[np.float64]

# Four unlabelled images, seven classes: strong view, two weak views.
STRONG = np.array([
    [4.0, 0.5, 0.2, 0.1, 0.0, -0.2, -0.5],
    [2.0, 1.8, -0.5, -0.6, -0.8, -1.0, -1.2],
    [1.2, 1.0, 0.9, -1.0, -1.2, -1.5, -1.6],
    [0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
])  # fmt: skip
WEAK = np.array([
    [3.5, 0.8, 0.0, 0.3, -0.1, 0.0, -0.4],
    [2.2, 1.5, -0.2, -0.7, -0.9, -1.0, -1.0],
    [0.9, 1.4, -0.9, -0.8, -0.3, -1.6, -1.4],
    [0.5, 0.7, 0.3, 0.2, 0.3, 0.0, 0.1],
])  # fmt: skip
WEAK2 = np.array([
    [4.5, 0.4, 0.4, 0.1, 0.1, -0.2, -0.6],
    [1.8, 1.9, -0.4, -0.5, -0.7, -1.2, -1.4],
    [1.1, 1.2, 1.0, -1.2, -1.0, -1.4, -1.8],
    [0.7, 0.5, 0.5, 0.2, 0.1, 0.2, -0.1],
])  # fmt: skip


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast(Array, powers / powers.sum(axis=-1, keepdims=True))


def positives_by_loops(logits: Array, threshold: float, released: bool) -> list[int]:
    """Eqs. 6-8: the classes by descending probability up to the one that reaches the threshold.

    Released: without that one, at least one and at most three.
    """
    p = softmax(logits)
    order = sorted(range(len(p)), key=lambda c: (-p[c], c))
    mass, m = 0.0, 0
    while mass < threshold and m < len(p):
        mass += p[order[m]]
        m += 1
    return order[: min(max(m - 1, 1), 3)] if released else order[:m]


def eq_14(y: Array, positive: list[int]) -> float:
    negative = [c for c in range(len(y)) if c not in positive]
    return math.log(1 + sum(math.exp(-y[c]) for c in positive) * sum(math.exp(y[c]) for c in negative))


def weight_by_loops(logits: Array, positives: int) -> float:
    p = np.sort(softmax(logits))[::-1]
    q = p[positives]
    c = p[: positives + 1].mean()
    return min(math.log(1 + 50 * (c - q)) / math.log(1 + 50 * c), 1.0)


def entropy(logits: Array, label: int) -> float:
    return float(-np.log(softmax(logits))[label])


def prediction(logits: Any) -> Prediction:
    rows = torch.as_tensor(np.asarray(logits, dtype=np.float32)).requires_grad_()
    return Prediction(rows, rows, rows)


def passes(strong: Array, *weak: Array) -> Passes:
    return Passes(prediction(strong), tuple(map(prediction, weak)), (prediction(strong),))


def hard(*weak: Array) -> NDArray[np.int64]:
    return cast(NDArray[np.int64], np.mean([softmax(view) for view in weak], axis=0).argmax(axis=1))


def pseudo(weak: list[Array], keep: list[bool]) -> PseudoLabels:
    return PseudoLabels(torch.from_numpy(hard(*weak)), torch.tensor(keep), torch.ones(len(keep)))


@pytest.fixture
def leaf(network: Any) -> Callable[..., LEAF]:
    def make(variant: Variant = "paper", *, classes: int = 7, **options: object) -> LEAF:
        method = build("leaf", network(num_classes=classes), option_values("leaf", variant, options))
        assert isinstance(method, LEAF)
        return method

    return make


def test_options_are_the_papers() -> None:
    values = option_values("leaf", "paper", {})
    expected = {
        "learner": "fixmatch", "semantic": True, "instance": True, "category": True, "expert": "residual", "experts": 4,
        "top_k": 2, "activation": "softplus", "fusion": "linear", "instance_input": "logits", "loss": "ambiguous",
        "direction": "strong_to_weak", "scores": "probabilities", "weak_mean": "probabilities",
        "partition_threshold": 0.9, "boundary": "inclusive", "max_positives": None, "sample_weight": "none",
        "rescale": False, "gate": "none", "unlabelled_weight": 1.0,
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected
    assert values.keys() - expected.keys() == option_values("fixmatch", "paper", {}).keys() - {"unlabelled_weight"}


def test_released_is_on_adacm_with_its_released_values() -> None:
    values = option_values("leaf", "released", {})
    assert values == {**option_values("adacm", "released", {}), **option_values("leaf", "paper", {"learner": "adacm"}),
                      "floor": True, "timing": "previous", "denominator": "batch", "symmetric": True,
                      **LEAF.released}  # fmt: skip
    assert option_values("leaf", "released", {"learner": "fixmatch"})["learner"] == "fixmatch"


WORKED_PAPER = {  # partition by the strong view, scores of the first weak one
    ("logits", "inclusive"): [1.212439381, 1.624734715, 1.99455273, 0.0],
    ("probabilities", "inclusive"): [2.091821517, 2.394544202, 2.424467754, 0.0],
}


@pytest.mark.parametrize("case", WORKED_PAPER, ids=str)
def test_worked_eq_14(leaf: Any, case: tuple[str, str]) -> None:
    scores, boundary = case
    got = leaf(scores=scores, boundary=boundary).ambiguous(passes(STRONG, WEAK))
    np.testing.assert_allclose(got.detach().numpy(), WORKED_PAPER[case], rtol=1e-6, atol=1e-7)


def test_worked_released_loss(leaf: Any) -> None:
    method = leaf("released")
    given = passes(STRONG, WEAK, WEAK2)
    expected = np.array([0.1108526573, 1.446917378, 0.7778842547, 2.255240485])
    weights = np.array([0.9798898037, 0.9392015127, 0.8903101029, 0.4796039831])
    np.testing.assert_allclose(method.ambiguous(given).detach().numpy(), expected * weights, rtol=1e-6)
    assert hard(WEAK, WEAK2).tolist() == [0, 0, 1, 1]
    loss = method.category_loss(given, pseudo([WEAK, WEAK2], [True, False, False, False]))
    assert loss.item() == pytest.approx(0.9730183705 / 4, rel=1e-6)
    loss.backward()
    gradient = given.strong[0].logits.grad
    assert gradient is not None
    norms = [0.008389302529, 0.05361416936, 0.02804002352, 0.02471692301]
    np.testing.assert_allclose(gradient.norm(dim=1).numpy(), norms, rtol=1e-5)
    assert all(view.logits.grad is None for view in given.weak)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize(("images", "classes", "threshold"), [(1, 4, 0.9), (9, 5, 0.5), (6, 8, 0.99), (5, 7, 0.9)])
def test_category_level_eqs_6_to_14(
    leaf: Any, images: int, classes: int, threshold: float, variant: Variant, views: int
) -> None:
    rng = np.random.default_rng(classes)
    strong, *weak = rng.normal(size=(1 + views, images, classes)) * 2
    released = variant == "released"
    method = leaf(variant, classes=classes, partition_threshold=threshold)
    got = method.ambiguous(passes(strong, *weak)).detach().numpy()
    averaged = np.mean(weak, axis=0) if released else np.log(np.mean([softmax(view) for view in weak], axis=0))
    scores, partition = (strong, averaged) if released else (averaged, strong)
    for i in range(images):
        positive = positives_by_loops(partition[i], threshold, released)
        expected = eq_14(scores[i] if released else softmax(scores[i]), positive)
        if released:
            expected *= weight_by_loops(partition[i], len(positive))
        assert got[i] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("direction", ["strong_to_weak", "weak_to_strong"])
def test_only_the_scored_view_is_moved(leaf: Any, direction: str) -> None:
    given = passes(STRONG, WEAK, WEAK2)
    leaf(direction=direction).ambiguous(given).sum().backward()
    moved = [view.logits.grad is not None for view in (*given.weak, *given.strong)]
    assert moved == ([True, True, False] if direction == "strong_to_weak" else [False, False, True])


@pytest.mark.parametrize(
    ("direction", "loss", "category", "graph"),
    [
        ("strong_to_weak", "ambiguous", True, True),
        ("strong_to_weak", "cross_entropy", True, False),
        ("strong_to_weak", "ambiguous", False, False),
        ("weak_to_strong", "ambiguous", True, False),
    ],
)
@pytest.mark.parametrize("learner", ["fixmatch", "flexmatch", "adacm"])
@pytest.mark.parametrize("joint", [False, True, "all"])
def test_weak_views_have_a_graph_where_they_are_moved(
    network: Any, random_batch: Any, learner: str, joint: object, direction: str, loss: str, category: bool, graph: bool
) -> None:
    options = {"learner": learner, "direction": direction, "loss": loss, "category": category, "joint": joint}
    options |= {"contrast": False} if learner == "adacm" else {}
    method: Any = build("leaf", network(), option_values("leaf", "paper", options))
    batch = random_batch(method)
    method.learner.observe = lambda passes: None  # needs what `begin` gives
    assert all(view.logits.requires_grad is graph for view in method.learner.passes(*batch[:2]).weak)


GATES: dict[tuple[str, str], Callable[[Array, Array, Array], float]] = {
    ("none", "ambiguous"): lambda ours, ce, keep: float(ours.mean()),
    ("sample", "ambiguous"): lambda ours, ce, keep: float((ours * keep).mean()),
    ("batch", "ambiguous"): lambda ours, ce, keep: float(ours.mean() * keep.mean()),
    ("none", "cross_entropy"): lambda ours, ce, keep: float(ce.mean()),
    ("sample", "cross_entropy"): lambda ours, ce, keep: float((ce * keep).mean()),
    ("batch", "cross_entropy"): lambda ours, ce, keep: float((ce * keep).mean()),
}


@pytest.mark.parametrize("keep", [[0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("case", GATES, ids=str)
def test_gate_scale_and_loss(leaf: Any, case: tuple[str, str], rescale: bool, keep: list[int]) -> None:
    """The ambiguous loss takes the value of the cross-entropy where it is rescaled."""
    gate, loss = case
    method = leaf(gate=gate, loss=loss, rescale=rescale)
    given = passes(STRONG, WEAK)
    ours = method.ambiguous(given).detach().double().numpy()
    ce = np.array([entropy(row, label) for row, label in zip(STRONG, hard(WEAK), strict=True)])
    if rescale:
        ours = ours * ce.mean() / ours.mean()
    expected = GATES[case](ours, ce, np.array(keep, dtype=np.float64))
    got = method.category_loss(given, pseudo([WEAK], [bool(k) for k in keep]))
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_nothing_to_rescale_is_zero_and_finite(leaf: Any) -> None:
    """Flat strong predictions make every class positive: no loss, where the released code would divide by zero."""
    flat = np.zeros((3, 7))
    method = leaf(rescale=True)
    given = passes(flat, np.ones((3, 7)))
    loss = method.category_loss(given, pseudo([flat], [True] * 3))
    loss.backward()
    assert loss.item() == 0
    assert given.weak[0].logits.grad is not None and given.weak[0].logits.grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 4, 8])
def test_concave_weight(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(6, classes)) * 3
    logits[0] = 0.0  # flat: no weight
    for count in range(1, classes):
        positive = np.zeros((6, classes), dtype=bool)
        for row, order in zip(positive, np.argsort(-logits, axis=1), strict=True):
            row[order[:count]] = True
        got = concave_weight(torch.from_numpy(softmax(logits)), torch.from_numpy(positive)).numpy()
        np.testing.assert_allclose(got, [weight_by_loops(row, count) for row in logits], rtol=1e-9, atol=1e-12)
    everything = concave_weight(torch.from_numpy(softmax(logits)), torch.ones(6, classes, dtype=torch.bool))
    assert everything.isfinite().all()


def test_terms_are_the_learner_s_with_the_category_loss_for_its_unsupervised_one(
    network: Any, random_batch: Any
) -> None:
    """Supervised and contrast as Ada-CM on the same network computes them, the category loss of weight lambda."""
    results = {}
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        options = {"unlabelled_weight": weight, "learner": "adacm"}
        method: Any = build("leaf", network(dropout=0.0), option_values("leaf", "paper", options)).eval()
        batch = random_batch(method)
        results[weight] = method.step(*batch)
        passes = method.learner.passes(*batch[:2])
        labels = method.learner.pseudo_labels(passes)
        alone = method.learner.losses(passes, batch.labelled.labels, labels)
        for name in ("supervised", "contrast"):
            torch.testing.assert_close(results[weight].losses[name], alone[name])
        torch.testing.assert_close(results[weight].losses["category"], weight * method.category_loss(passes, labels))
        assert list(results[weight].losses) == ["supervised", "contrast", "category"]
        torch.testing.assert_close(results[weight].pseudo.label, labels.label)
    torch.testing.assert_close(results[1.0].losses["category"] / 4, results[0.25].losses["category"])


@pytest.mark.parametrize("learner", sorted({"vanilla", "fixmatch", "flexmatch", "adacm"} & LEARNERS.keys()))
def test_without_the_category_level_there_is_no_unsupervised_term(
    network: Any, random_batch: Any, learner: str
) -> None:
    method: Any = build("leaf", network(), option_values("leaf", "paper", {"learner": learner, "category": False}))
    method.learner.observe = lambda passes: None
    losses = method.step(*random_batch(method)).losses
    assert losses.keys() == ({"supervised", "contrast"} if learner == "adacm" else {"supervised"})


# --- the levels inside the network


class Marked(nn.Module):
    """Encoder, dropout, optional normalisation, head: where each part stands can be read off its output."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_width, self.num_classes = 6, 4
        self.dropout: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> Prediction:
        features = nn.functional.normalize(self.dropout(images), dim=1)
        return Prediction(images, features, self.head(features))


def parts(model: nn.Module) -> dict[str, list[type]]:
    names = {"dropout": cast(Any, model).dropout, "head": cast(Any, model).head}
    return {name: [type(part) for part in part] if isinstance(part, nn.Sequential) else [type(part)]
            for name, part in names.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "dropout", "head"),
    [
        ({}, [nn.Identity, Experts], [nn.Linear, Experts]),
        ({"instance_input": "feature"}, [nn.Identity, Experts], [Experts, nn.Linear]),
        ({"semantic": False}, [nn.Identity], [nn.Linear, Experts]),
        ({"instance": False}, [nn.Identity, Experts], [nn.Linear]),
        ({"semantic": False, "instance": False, "category": False}, [nn.Identity], [nn.Linear]),
    ],
    ids=["paper", "released", "w/o S-EAF", "w/o I-EAF", "learner alone"],
)
def test_levels_of_table_3(options: dict[str, object], dropout: list[type], head: list[type]) -> None:
    model = Marked()
    build("leaf", model, option_values("leaf", "paper", options))
    assert parts(model) == {"dropout": dropout, "head": head}


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_forward_pass(variant: Variant) -> None:
    """Paper: experts, classifier, experts on the logits. Released: experts, unit length, experts, classifier."""
    torch.manual_seed(0)
    model = Marked()
    linear = model.head
    build("leaf", model, option_values("leaf", variant, {}))
    dropout, head = cast(Any, model.dropout), cast(Any, model.head)
    x = torch.randn(5, 6)
    got = model(x)
    feature = nn.functional.normalize(dropout[1](x), dim=1)
    torch.testing.assert_close(got.features, feature)
    expected = head[1](linear(feature)) if variant == "paper" else linear(head[0](feature))
    torch.testing.assert_close(got.logits, expected)
    sizes = {"paper": (4, 4), "released": (6, 1)}[variant]  # width, number of experts
    instance = head[1] if variant == "paper" else head[0]
    assert (instance.weight1.shape[1], instance.weight1.shape[0]) == sizes
    assert dropout[1].weight1.shape[1] == 6


@pytest.mark.parametrize("expert", ["linear", "bottleneck", "residual"])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_kind_and_number_of_tables_2_and_figure_6(leaf: Any, random_batch: Any, expert: str, count: int) -> None:
    method = leaf(expert=expert, experts=count, classes=4)
    experts = [module for module in method.modules() if isinstance(module, Experts)]
    assert [(each.kind, len(each.weight1), each.top_k) for each in experts] == [(expert, count, min(2, count))] * 2
    sum(method.step(*random_batch(method)).losses.values()).backward()
    for each in experts:
        for name, parameter in each.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_learner_s_state_is_handed_through(leaf: Any) -> None:
    method = leaf("released")
    assert isinstance(method.learner, AdaCM) and isinstance(leaf().learner, FixMatch)
    assert method.not_averaged() == {"learner.margins"}
    groups = method.parameter_groups(0.1)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in method.parameters()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 0}, "leaf: option 'experts' must lie in 1..256, not 0"),
        ({"top_k": 9}, "leaf: option 'top_k' must lie in 1..8, not 9"),
        ({"partition_threshold": 1.5}, "leaf: option 'partition_threshold' must lie in (0, 1], not 1.5"),
        ({"max_positives": 0}, "leaf: option 'max_positives' must be at least 1, not 0"),
        ({"expert": "conv"}, "leaf.expert: 'conv' is not known; valid: linear, bottleneck, residual"),
    ],
)
def test_error_lines(options: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError) as error:
        option_values("leaf", "paper", options)
    assert str(error.value) == message
