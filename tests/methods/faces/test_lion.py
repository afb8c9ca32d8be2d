"""LION: complementary labels, prototypes and relabelling, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Facts, Prediction, Progress
from ferbench.methods.faces.lion import negative_losses


def f32(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def given(images: int = 12, labels: Any = (0, 1, 2, 3)) -> Facts:
    return Facts(images, torch.arange(len(labels)), torch.tensor(labels), torch.arange(images), 8, 4)


def test_worked_example(begun: Any, passes_of: Any) -> None:
    weak = [[0.5, 0.3, 0.15, 0.045, 0.005], [0.6, 0.38, 0.012, 0.005, 0.003], [0.25, 0.25, 0.25, 0.15, 0.1]]
    strong = [[1.0, 0.2, 0, -1, -2], [2, 1, -1, -1.5, -2], [0.1, 0.2, 0, 0.1, -0.1]]
    method = begun("lion", 5, given=given(9))
    method.excluded[5, 4] = True
    passes = passes_of([[0.0] * 5], weak, strong, [8, 5, 2])
    method.exclude(passes.weak[0], passes.index, torch.ones(3, dtype=torch.bool))
    table = method.excluded[[8, 5, 2]].int().tolist()
    assert table == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    assert method.excluded.sum() == 3
    got = negative_losses(
        passes.weak[0].logits, passes.strong[0].logits, f32(table).bool(), torch.ones(3, dtype=torch.bool)
    )
    assert [loss.item() for loss in got] == pytest.approx([0.0043431976, 0.23288067], rel=1e-5)


def test_certain_rows_collect_nothing_and_equal_images_together(begun: Any, passes_of: Any) -> None:
    weak = [[0.9, 0.095, 0.005], [0.55, 0.445, 0.005], [0.55, 0.005, 0.445], [0.3, 0.4, 0.3]]
    method = begun("lion", 3, given=given(6, (0, 1, 2)))
    passes = passes_of([[0.0] * 3], weak, weak, [0, 4, 4, 5])
    method.exclude(passes.weak[0], passes.index, torch.tensor([False, True, True, True]))
    assert method.excluded.int().tolist() == [[0, 0, 0]] * 4 + [[0, 1, 1], [0, 0, 0]]
    method.excluded.fill_(True)  # nothing is left to add, nothing breaks
    method.exclude(passes.weak[0], passes.index, torch.ones(4, dtype=torch.bool))
    assert method.excluded.all()


@pytest.mark.parametrize("epoch", [1, 4, 16, 20])
def test_losses(epoch: int, begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    rng = slow.random
    method = begun("lion", 4, given=given())
    known, weak, strong = rng.normal(size=(3, 4)), rng.normal(0, 4, (8, 4)), rng.normal(0, 2, (8, 4))
    labels = [0, 1, 3]
    method.weights[1] = f32([0.4, 0.6, 0, 0])  # not certain
    result, leaves = stepped(
        method, labels, {"weak": known}, {"weak": weak, "strong": strong}, epoch=epoch - 1, labelled_index=labels
    )
    p, theta = slow.softmax(weak), 0.8 + 0.01 * epoch
    keep = p.max(1) >= theta
    assert (epoch == 20 or keep.any()) and not keep.all() and result.pseudo.keep.tolist() == keep.tolist()
    certain = np.array([True, False, True])
    if epoch >= 10:
        q = slow.softmax(known)
        certain &= ~(q.max(1) - q[np.arange(3), labels] > 0.5)
    table = np.zeros((8, 4))
    for i, row in enumerate(p):
        if not keep[i] and row.min() <= 0.01:
            table[i, row.argmin()] = 1
    negative = [
        -sum(np.log(max(1 - x, 1e-5)) for x, d in zip(*rows, strict=True) if d) for rows in zip(p, table, strict=True)
    ]
    s = 1 / (1 + np.exp(-strong))
    gap = s.max(1, keepdims=True) - s
    bce = -(table * np.log(np.maximum(gap, 1e-12)) + (1 - table) * np.log(np.maximum(1 - gap, 1e-12)))
    weight = max(0.0, 0.24 - 0.015 * epoch)
    supervised = slow.cross_entropy(known, labels)
    expected = {
        "supervised": 1.6 * supervised[certain].mean() if certain.any() else 0.0,
        "unsupervised": 1.2 * (slow.cross_entropy(strong, p.argmax(1)) * keep).mean(),
        "negative": weight * np.mean(np.array(negative)[~keep]),
        "gap": weight / 6.5 * bce[~keep].mean(),
    }
    assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    if epoch < 16 and table.any():
        assert reached(result.losses["negative"], leaves) == {"unlabelled weak"}
        assert reached(result.losses["gap"], leaves) == {"unlabelled strong"}


def test_no_uncertain_image_gives_zero(begun: Any, stepped: Any) -> None:
    sure = 30 * np.eye(4)
    result, _ = stepped(
        begun("lion", 4, given=given()), [0], {"weak": sure[:1]}, {"weak": sure, "strong": sure}, epoch=0
    )
    assert result.losses["negative"] == 0 and result.losses["gap"] == 0


def known_prediction(p: Any, features: Any) -> Prediction:
    return Prediction(f32(features), f32(features), torch.log(f32(p)))


def test_relabelling_starts_with_the_two_probabilities(begun: Any) -> None:
    """Images 0 and 2 are ambiguous: max p - p_y is .7 and .55; image 1 (.46) is not."""
    method = begun("lion", 4, given=given())
    p = [[0.1, 0.8, 0.05, 0.05], [0.68, 0.22, 0.05, 0.05], [0.1, 0.65, 0.1, 0.15]]
    method.relabel(known_prediction(p, np.zeros((3, 2))), torch.arange(3), first=True)
    expected = [[1 / 9, 8 / 9, 0, 0], [0, 1, 0, 0], [0, 0.65 / 0.75, 0.1 / 0.75, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(method.weights, expected, rtol=1e-5)
    assert method.labels.tolist() == [0, 1, 2, 3]


def test_relabelling_goes_on_by_similarity(begun: Any, slow: Any) -> None:
    method = begun("lion", 4, given=given())
    method.prototypes.means.copy_(f32([[0.1, 0], [0, 0.2], [0.1, 0.1], [-0.1, 0]]))
    method.weights[0] = f32([0.4, 0.6, 0, 0])
    method.relabel(known_prediction([[0.1, 0.8, 0.05, 0.05]], [[0.3, 0.5]]), torch.tensor([0]), first=False)
    share = slow.softmax(np.array([0.03, 0.1]) / 0.1)
    np.testing.assert_allclose(method.weights[0], [*(0.99 * np.array([0.4, 0.6]) + 0.01 * share), 0, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("row", "weights", "label"),
    [
        ([0.001, 0.999, 0, 0], [0, 1, 0, 0], 1),  # settled on the other class, by .996
        ([0.01, 0.99, 0, 0], [0, 1, 0, 0], 0),  # settled on the other class, label kept
        ([0.99, 0.01, 0, 0], [1, 0, 0, 0], 0),  # settled on its own
        ([0.2, 0.8, 0, 0], None, 0),
    ],
)
def test_settling(row: Any, weights: Any, label: int, begun: Any) -> None:
    method = begun("lion", 4, given=given(), momentum=1.0)
    method.weights[0] = f32(row)
    method.relabel(known_prediction([[0.1, 0.8, 0.05, 0.05]], [[0.0, 0]]), torch.tensor([0]), first=False)
    np.testing.assert_allclose(method.weights[0], row if weights is None else weights, rtol=1e-5)
    assert method.labels[0] == label


def test_prototypes_take_what_fits(begun: Any, stepped: Any) -> None:
    """Before epoch 10 labelled images predicted right, then those not ambiguous; and confident unlabelled ones."""
    labelled = ([[1.0, 0], [3, 0], [5, 0]], [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.2, 0, 0, 0.5]])
    labels, confident = [0, 0, 0], ([[7.0, 7]], [[0, 0, 9.0, 0]])
    for epoch, fits in ((1, [0]), (12, [0, 1, 2])):
        method = begun("lion", 4, given=given(12, (0, 0, 0)), momentum=0.5)
        stepped(method, labels, {"weak": labelled}, {"weak": confident, "strong": confident}, epoch=epoch - 1)
        mean = np.zeros(2)
        for row in np.array(labelled[0])[fits]:
            mean = row if epoch == 1 else 0.5 * mean + 0.5 * row
        np.testing.assert_allclose(method.prototypes.means[0], mean)
        np.testing.assert_allclose(method.prototypes.means[2], [7, 7] if epoch == 1 else [3.5, 3.5])


def test_prototypes_start_anew_in_the_epoch_of_relabelling(begun: Any, stepped: Any) -> None:
    """As in the released code: the first labelled image replaces the prototype, a plain mean follows; then .99, .01."""
    method = begun("lion", 4, given=given(12, (0, 0, 0)), relabel_epoch=3)
    unsure = {name: ([[0.0, 0]], [[0.0] * 4]) for name in ("weak", "strong")}
    expected: Any = None
    for epoch in range(1, 5):
        means = []
        for value in (epoch, 10.0 * epoch):
            known = {"weak": ([[value, 0]], [[2.0, 0, 0, 0]])}
            stepped(method, [0], known, unsure, epoch=epoch - 1)
            means.append(value)
            if epoch in (1, 3):
                expected = np.mean(means)
            else:
                expected = 0.99 * expected + 0.01 * value
            np.testing.assert_allclose(method.prototypes.means[0], [expected, 0], rtol=1e-5)
        method.end_epoch(Progress(torch.zeros(()), epoch - 1), lambda *_, **__: pytest.fail("asks nothing"))


def test_the_released_form_takes_the_mask_for_an_index(begun: Any, stepped: Any) -> None:
    """Every image that is not confident writes the row of the batch's second image, and meets its strong view."""
    weak = [[9.0, 0, 0, 0], [0, -5.0, 0, 0], [0, 0, -5.0, 0]]
    strong = [[0.3, 0.1, 0.2, 0], [1.0, -2.0, 0, 0.5], [0, 0.7, -1.0, 2.0]]
    views = {name: ([[0.0, 0]] * 3, rows) for name, rows in (("weak", weak), ("strong", strong))}
    known = {"weak": ([[0.0, 0]], [[1.0, 0, 0, 0]])}
    tables = {}
    for variant in ("paper", "released"):
        method = begun("lion", 4, given=given(12, (0, 0, 0)), variant=variant)
        result, _ = stepped(method, [0], known, views, index=[4, 5, 6])
        tables[variant] = [set(np.flatnonzero(row)) for row in method.excluded[4:7]]
        assert result.pseudo.keep.tolist() == [True, False, False]
        if variant == "released":
            s = 1 / (1 + np.exp(-np.array(strong[1])))
            gap, table = s.max() - s, np.array([0, 1, 1, 0])
            terms = table * np.log(np.maximum(gap, 1e-12)) + (1 - table) * np.log(1 - gap)
            weight = (0.24 - 0.015 * 2) / 6.5
            assert result.losses["gap"].item() == pytest.approx(-weight * terms.mean(), rel=1e-4)
    assert tables == {"paper": [set(), {1}, {2}], "released": [set(), {1, 2}, set()]}
