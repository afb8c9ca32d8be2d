"""Plug-ins for unequal classes (ABC, Adsh, InPL) and CPE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Facts, Progress, Scored, build, option_values
from ferbench.methods.imbalanced.adsh import adaptive_scores


def f32(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def long_tail(counts: Any) -> Facts:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Facts(len(labels), torch.arange(len(labels)), labels, torch.arange(len(labels)), 8, 4)


def test_abc_rates_are_those_of_the_rarest_class(begun: Any) -> None:
    method = begun("abc", 4, given=long_tail([8, 4, 2, 0]))
    assert method.rate.tolist() == [0.25, 0.5, 1, 1]


@pytest.mark.parametrize("variant", ["paper", "usb"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_abc(variant: Any, fraction: float, begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    rng = slow.random
    torch.manual_seed(0)
    given = long_tail([8, 4, 2])
    method = begun("abc", 3, given=given, variant=variant, auxiliary_threshold=0.5, threshold=0.5)
    names = ("weak", "strong", "strong2")[: 3 if variant == "paper" else 2]
    view = {name: (rng.normal(size=(9, 2)), rng.normal(0, 2, (9, 3))) for name in names}
    known, labels = (rng.normal(size=(12, 2)), rng.normal(size=(12, 3))), rng.integers(0, 3, 12)
    torch.manual_seed(7)
    result, leaves = stepped(method, labels, {"weak": known}, view, fraction=fraction)
    torch.manual_seed(7)
    drawn, drawn_u = torch.rand(12).numpy(), torch.rand(9).numpy()

    def head(features: Any) -> Any:
        return method.auxiliary(f32(features)).detach().double().numpy()

    r = np.array([0.25, 0.5, 1.0])
    supervised = slow.cross_entropy(head(known[0]), labels) * (drawn < r[labels])
    q = slow.softmax(head(view["weak"][0]))
    chance = 1 - fraction * (1 - r[q.argmax(1)])
    keep = (q.max(1) >= 0.5) & (drawn_u < chance)
    target = q if variant == "paper" else q.argmax(1)
    taught = sum(slow.cross_entropy(head(view[name][0]), target) for name in names[1:]) * keep
    p = slow.softmax(view["weak"][1])
    base = [slow.cross_entropy(view[name][1], p.argmax(1)) * (p.max(1) >= 0.5) for name in names[1:]]
    expected = {
        "supervised": slow.cross_entropy(known[1], labels).mean(),
        "unsupervised": np.mean(base),
        "auxiliary": supervised.mean(),
        "auxiliary unsupervised": taught.mean(),
    }
    assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-4)
    strong = {f"unlabelled {name}" for name in names[1:]}
    assert reached(result.losses["auxiliary unsupervised"], leaves) == strong
    assert reached(result.losses["unsupervised"], leaves) == strong


def test_abc_is_tested_by_its_own_head(network: Any) -> None:
    method: Any = build("abc", network(), option_values("abc", "paper", {})).eval()
    images = torch.randn(3, 3, 7, 7)
    prediction = method.learner.model(images)
    assert torch.equal(method.predict(images), method.auxiliary(prediction.features).softmax(1))
    assert list(method.predict_all(images)) == ["auxiliary", "linear"]


def test_adsh_worked_example(begun: Any, passes_of: Any) -> None:
    lists = [[0.99, 0.98, 0.96, 0.9, 0.8], [0.97, 0.85, 0.6, 0.55], [0.6, 0.45, 0.4]]
    rows = [np.insert(np.full(2, (1 - x) / 2), c, x) for c, values in enumerate(lists) for x in values[::-1]]
    scores = adaptive_scores(f32(rows), torch.full((3,), 0.95), 0, 0.95)
    np.testing.assert_allclose(scores, [0.95, 0.85, 0.45], rtol=1e-6)
    method = begun("adsh", 3)
    method.scores.copy_(scores)
    weak = [[0.6, 0.35, 0.05], [0.51, 0.03, 0.46], [0.97, 0.02, 0.01], [0.1, 0.86, 0.04], [0.15, 0.7, 0.15]]
    pseudo = method.rectified(passes_of([[0.0] * 3], weak, np.zeros((5, 3)), range(5)))
    assert pseudo.label.tolist() == [0, 2, 0, 1, 1]
    assert pseudo.keep.tolist() == [False, True, True, True, False]
    np.testing.assert_allclose(pseudo.confidence, [0.6, 0.46, 0.97, 0.86, 0.7], rtol=1e-6)


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [
        ([[0.9, 0.8], [0.7, 0.6]], [0.95, 0.6]),  # no head image reaches tau: rho = 1, the last of each class
        ([[0.99, 0.9], [0.7, 0.65, 0.6, 0.58, 0.55]], [0.95, 0.6]),  # 5 * .5 - 1 = 1.5 rounds to the even 2
        ([[0.99, 0.9], [0.7]], [0.95, 0.7]),  # max(0, round(-.5))
        ([[0.99], [0.98, 0.97]], [0.95, 0.95]),  # at most tau
        ([[0.99], []], [0.95, 0.3]),  # a class never predicted keeps its score
        ([[], [0.8, 0.7]], [0.95, 0.7]),
    ],
)
def test_adsh_positions(confidences: Any, expected: Any) -> None:
    rows = [[x, 1 - x] if c == 0 else [1 - x, x] for c, values in enumerate(confidences) for x in values]
    np.testing.assert_allclose(adaptive_scores(f32(rows), f32([0.95, 0.3]), 0, 0.95), expected, rtol=1e-6)


def test_adsh_asks_the_student_from_the_second_epoch(begun: Any) -> None:
    method = begun("adsh", 3, given=long_tail([2, 6, 1]))
    asked: list[Any] = []

    def ask(which: str, **how: Any) -> Scored:
        asked.append((which, how))
        return Scored(f32([[0.2, 0.7, 0.1], [0.6, 0.2, 0.2]]), torch.arange(2), None)

    assert method.head.item() == 1
    method.end_epoch(Progress(torch.tensor(0.1), 0), ask)
    assert asked == [] and method.scores.tolist() == pytest.approx([0.95] * 3)
    method.end_epoch(Progress(torch.tensor(0.2), 1), ask)
    assert asked == [("unlabelled", {"model": "student", "view": "weak"})]
    assert method.scores.tolist() == pytest.approx([0.6, 0.95, 0.95])


@pytest.mark.parametrize(("margin", "loss"), [(0.0, 0.41924547), (0.5, 0.29772219)], ids=["released", "paper"])
def test_inpl_worked_example(margin: float, loss: float, begun: Any, stepped: Any) -> None:
    weak, strong = [[8.0, 1, 0], [4, 3.5, 3], [9, 8.9, 0]], [[2, 0.5, 0], [0.3, 0.2, 0.1], [1, 1.2, 0]]
    method = begun("inpl", 3, energy=-8.0, margin=margin)
    method.prior.value.copy_(f32([0.6, 0.3, 0.1]))
    result, _ = stepped(method, [0], {"weak": [[0.0] * 3]}, {"weak": weak, "strong": strong})
    assert result.pseudo.keep.tolist() == [True, False, True] and result.pseudo.label.tolist() == [0, 0, 0]
    assert result.losses["unsupervised"].item() == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(method.prior.value, [0.60007673, 0.29996103, 0.099962241], rtol=1e-6)


def test_inpl_cut_from_labelled_energies(begun: Any, stepped: Any, slow: Any) -> None:
    rng, cut = slow.random, None
    method = begun("inpl", 3, quantile=0.3, momentum=0.5)
    for _ in range(3):
        known, weak = rng.normal(0, 3, (7, 3)), rng.normal(0, 3, (9, 3))
        result, _ = stepped(method, [0] * 7, {"weak": known}, {"weak": weak, "strong": weak})
        new = np.quantile(-np.log(np.exp(known).sum(1)), 0.3)
        cut = new if cut is None else 0.5 * cut + 0.5 * new
        assert method.cut.value.item() == pytest.approx(cut, rel=1e-5)
        assert result.pseudo.keep.tolist() == (-np.log(np.exp(weak).sum(1)) <= cut).tolist()


@pytest.mark.parametrize("counts", [[50, 20, 10, 5], [5, 50, 10, 20]])
def test_cpe(counts: Any, network: Any, slow: Any, random_batch: Any) -> None:
    """Branches, experts and groups by loops; classes in any order of frequency."""
    torch.manual_seed(0)
    method: Any = build("cpe", network(dropout=0.0), option_values("cpe", "paper", {"threshold": 0.4})).train()
    method.begin(long_tail(counts))
    order = np.argsort(counts)[::-1]
    labelled, unlabelled, progress = random_batch(method, b=6, u=9)
    result = method.step(labelled, unlabelled, progress)
    images = torch.cat([labelled.views["weak"], unlabelled.views["weak"], unlabelled.views["strong"]])
    with torch.no_grad():
        cells = method.model.tokens(images)
        z = np.zeros((3, 3, len(images), 4))
        for b in range(3):
            flat = cells.flatten(0, 1)
            normal = (flat - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt()
            pooled = normal.view_as(cells).mean(1)
            for j in range(3):
                z[j, b] = method.experts[j](pooled).double().numpy()
    prior = np.array(counts) / sum(counts)
    groups = [set(range(4)), set(order[1:].tolist()), set(order[2:].tolist())]
    labels = labelled.labels.numpy()
    supervised = sum(
        slow.cross_entropy(z[j].mean(0)[:6] + tau * np.log(prior), labels).mean() for j, tau in enumerate((0, 2, 4))
    )
    unsupervised = 0.0
    for j in range(3):
        p, total, used = slow.softmax(z[j].mean(0)[6:15]), 0.0, 0
        for i, row in enumerate(p):
            for b in range(3):
                if row.max() >= 0.4 and row.argmax() in groups[b]:
                    used += 1
                    total += slow.cross_entropy(z[j, b][15 + i][None], [row.argmax()])[0]
        unsupervised += total / max(used, 1)
    assert unsupervised > 0
    assert result.losses["supervised"].item() == pytest.approx(supervised, rel=1e-4)
    assert result.losses["unsupervised"].item() == pytest.approx(unsupervised, rel=1e-4)


@pytest.mark.parametrize(("classes", "cuts"), [(10, (2, 4)), (7, (1, 3)), (8, (2, 3)), (3, (1, 2))])
def test_cpe_cuts(classes: int, cuts: tuple[int, int], network: Any) -> None:
    method: Any = build("cpe", network(num_classes=classes), option_values("cpe", "paper", {}))
    assert method.cuts(classes) == cuts
    given: Any = build("cpe", network(), option_values("cpe", "paper", {"medium_cut": 1, "tail_cut": 3}))
    assert given.cuts(classes) == (1, 3)


def test_adsh_says_which_labels_are_not_the_linear_prediction_s(begun: Any, stepped: Any, slow: Any) -> None:
    method = begun("adsh", 3)
    method.scores.copy_(torch.tensor([0.95, 0.2, 0.95]))
    logits = [[3.0, 2.5, 0.0], [0.0, 0.0, 5.0], [0.0, 1.0, 0.0]]
    result, _ = stepped(method, [0], {"weak": [[0.0] * 3]}, {"weak": logits, "strong": logits})
    assert result.pseudo.label.tolist() == [1, 2, 1]
    assert result.pseudo.changed.tolist() == [True, False, False]
