"""SCN, RUL and EAC: losses by loops in float64, gradients by differences; what they relabel, mix, mirror and erase."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import RandomErasing

from ferbench.methods import Facts, Labelled, MethodError, Progress, build, option_values
from ferbench.methods.blocks.erasing import erase
from ferbench.methods.faces.eac import EAC, attention, consistency
from ferbench.methods.faces.rul import RUL, add_up, log_uncertainty, mix
from ferbench.methods.faces.scn import SCN, corrected, high_count, largest, rank_loss

Loop = Callable[[Any], float]


def near(value: Any) -> Any:
    return pytest.approx(value, rel=2e-5, abs=2e-6)


def slope(loop: Loop, at: Any) -> Any:
    """The gradient of a float64 loop by central differences."""
    at, found = np.asarray(at, float), np.zeros(np.shape(at))
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = 1e-5
        found[place] = (loop(at + moved) - loop(at - moved)) / 2e-5
    return found


def same(loss: Tensor, leaf: Tensor, loop: Loop) -> None:
    """Value and gradient of `loss` at `leaf` are the loop's."""
    at = leaf.detach().double().numpy()
    assert loss.item() == near(loop(at))
    (gradient,) = torch.autograd.grad(loss, leaf)
    np.testing.assert_allclose(gradient.numpy(), slope(loop, at), rtol=1e-3, atol=2e-5)


def tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def leaf(values: Any) -> Tensor:
    return tensor(values).requires_grad_()


def at(epoch: int) -> Progress:
    return Progress(torch.zeros(()), epoch)


def given(labels: Any, images: int = 30) -> Facts:
    index = torch.arange(len(labels))
    return Facts(images, index, torch.as_tensor(labels), torch.arange(images), steps=8, epochs=20)


# SCN


def scn(table_method: Any, labels: Any, classes: int = 4, **options: object) -> SCN:
    """Around a Table with features of two numbers; the importance is the sigmoid of the first one."""
    method = table_method("scn", shape=(2, classes), **options)
    assert isinstance(method, SCN)
    method.importance.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    method.importance.bias.data.zero_()
    method.begin(given(labels))
    return method


def rows(images: Tensor, labels: Any, index: Any = None) -> Labelled:
    places = torch.arange(len(images)) if index is None else torch.as_tensor(index)
    return Labelled({"weak": images}, torch.as_tensor(labels), places)


def loop_weighted(images: Any, labels: Any) -> float:
    """Eqs. 1 and 2; an image is its feature twice and its logits."""
    total = 0.0
    for row, label in zip(images, labels, strict=True):
        importance = 1 / (1 + math.exp(-row[2]))
        z = [importance * value for value in row[4:]]
        total -= z[label] - math.log(sum(math.exp(value) for value in z))
    return total / len(labels)


def loop_rank(importance: Any, beta: float, margin: float) -> float:
    """Eqs. 3 and 4."""
    ranked = sorted((float(value) for value in importance), reverse=True)
    m = int(beta * len(ranked) + 1e-9)
    if m in (0, len(ranked)):
        return 0.0
    return max(0.0, margin - (sum(ranked[:m]) / m - sum(ranked[m:]) / (len(ranked) - m)))


@pytest.mark.parametrize("b", [1, 3, 8])
def test_scn_eq_1_eq_2_logit_weighted_cross_entropy(b: int, table_method: Any, encode: Any) -> None:
    rng = np.random.default_rng(b)
    labels = rng.integers(0, 4, b)
    method = scn(table_method, labels, rank_weight=0.0, supervised_weight=0.5)
    images = encode(rng.normal(0, 2, (b, 2)), rng.normal(0, 3, (b, 4))).detach().requires_grad_()
    loss = method.step(rows(images, labels), None, at(0)).losses["supervised"]
    same(loss, images, lambda x: 0.5 * loop_weighted(x, labels))


@pytest.mark.parametrize("n", [2, 3, 5, 10, 64, 90])
@pytest.mark.parametrize("beta", [0.5, 0.7])
def test_scn_eq_3_eq_4_rank_regularisation(n: int, beta: float) -> None:
    importance = leaf(np.random.default_rng(n).uniform(0.3, 0.6, n))
    loss = rank_loss(importance, beta, 0.5)
    assert loss.item() > 0
    same(loss, importance, lambda a: loop_rank(a, beta, 0.5))


def test_scn_eq_4_shares_of_the_batch() -> None:
    assert [high_count(n, 0.7) for n in (1, 2, 3, 10, 64, 90)] == [0, 1, 2, 7, 44, 63]
    assert int(0.7 * 90) == 62  # why the count is not this


def test_scn_eq_3_ties_margin_and_empty_groups() -> None:
    tied = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.1])
    assert largest(tied, 0.7).tolist() == [True, True, True, False, False]  # of three equal ones the earlier two
    assert largest(torch.full((5,), 0.5), 0.4).tolist() == [True, True, False, False, False]
    assert rank_loss(torch.full((7,), 0.5), 0.7, 0.15).item() == near(0.15)
    apart = leaf([0.9, 0.9, 0.1])
    loss = rank_loss(apart, 0.7, 0.15)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, apart)[0].tolist() == [0, 0, 0]
    for values, beta in (([0.4], 0.7), ([0.4, 0.6], 1.0), ([0.4, 0.6], 0.0)):
        alone = leaf(values)
        loss = rank_loss(alone, beta, 0.15)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, alone)[0].tolist() == [0] * len(values)


def test_scn_total_is_half_of_each_and_the_code_s_is_the_sum(table_method: Any, encode: Any) -> None:
    rng = np.random.default_rng(3)
    labels, features = rng.integers(0, 4, 9), rng.normal(0, 0.1, (9, 2))
    images = encode(features, rng.normal(0, 2, (9, 4))).detach()
    importance = 1 / (1 + np.exp(-features[:, 0]))
    for options, weight, margin in (({}, 0.5, 0.15), ({"variant": "released", "erasing": 0.0}, 1.0, 0.07)):
        losses = scn(table_method, labels, **options).step(rows(images, labels), None, at(0)).losses
        assert losses["supervised"].item() == near(weight * loop_weighted(images.numpy().astype(float), labels))
        assert losses["rank"].item() == near(weight * loop_rank(importance, 0.7, margin)) and losses["rank"] > 0


def loop_corrected(p: Any, labels: Any, margin: float) -> list[int]:
    """Eq. 5."""
    new = []
    for row, label in zip(p, labels, strict=True):
        best = max(range(len(row)), key=lambda k: row[k])
        new.append(best if row[best] - row[label] > margin else int(label))
    return new


@pytest.mark.parametrize("n", [1, 7, 40])
def test_scn_eq_5_relabelling(n: int) -> None:
    rng = np.random.default_rng(n)
    p = rng.dirichlet(np.ones(5), n).astype(np.float32)
    labels = rng.integers(0, 5, n)
    assert corrected(tensor(p), torch.as_tensor(labels), 0.2).tolist() == loop_corrected(p, labels, 0.2)


def test_scn_eq_5_at_the_margin_all_and_none() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    assert corrected(p, torch.tensor([1, 2]), 0.25).tolist() == [1, 2]  # it must be more than the margin
    assert corrected(p, torch.tensor([1, 2]), 0.249).tolist() == [0, 0]
    assert corrected(p, torch.tensor([0, 0]), 0.0).tolist() == [0, 0]


# every prediction is class 1, the labels are 0
FEATURES = [[value, 0.0] for value in (3, 2, -3, 4, 3, -2, 3, 3, -4, -1)]
UNIMPORTANT = [2, 5, 8]  # the low group at beta = 0.7: sigmoid keeps the order of the features' first number
EVERY = list(range(10))
SURE = [[0.0, 60.0, 0.0, 0.0]] * 10


@pytest.mark.parametrize(
    ("relabel", "epoch", "changed"),
    [("low", 8, []), ("low", 9, UNIMPORTANT), ("all", 8, []), ("all", 9, EVERY), ("all", 15, EVERY)],
)
def test_scn_relabels_its_group_from_the_tenth_epoch(
    relabel: str, epoch: int, changed: list[int], table_method: Any, encode: Any
) -> None:
    labels = [0] * 10
    method = scn(table_method, labels, relabel=relabel)
    images = encode(FEATURES, SURE)
    before = method.step(rows(images, labels), None, at(0)).losses["supervised"].item()
    result = method.step(rows(images, labels), None, at(epoch))
    assert result.losses["supervised"].item() == before  # of the labels as they were
    assert result.figures is not None and result.figures["relabelled"].item() == len(changed)
    assert method.labels[:10].tolist() == [int(i in changed) for i in range(10)]
    assert method.labels[10:].eq(-1).all()
    after = method.step(rows(images, labels), None, at(0)).losses["supervised"].item()
    assert after == near(0.5 * loop_weighted(images.detach().double().numpy(), method.labels[:10].tolist()))
    assert (after < before) == bool(changed)


def test_scn_relabels_nothing_where_it_agrees(table_method: Any, encode: Any) -> None:
    method = scn(table_method, [1] * 10, relabel="all", relabel_epoch=1, relabel_margin=0.0)
    result = method.step(rows(encode(FEATURES, SURE), [1] * 10), None, at(0))
    assert result.figures is not None and result.figures["relabelled"].item() == 0
    assert method.labels[:10].tolist() == [1] * 10


def test_scn_a_new_label_is_compared_from_then_on_and_can_go_back(table_method: Any, encode: Any) -> None:
    """Image 7 stands twice in the batch, last with a prediction of class 2."""
    method = scn(table_method, [0] * 10, relabel="all", relabel_epoch=1)
    index, features = [4, 7, 7], [[9.0, 0.0]] * 3
    for logits, wanted in (([[0.0, 9, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0]], {4: 1, 7: 2}), ([[9.0, 0, 0, 0]] * 3, {})):
        result = method.step(rows(encode(features, logits), [0, 0, 0], index), None, at(0))
        assert method.labels[:10].tolist() == [wanted.get(i, 0) for i in range(10)]
        assert result.figures is not None and result.figures["relabelled"].item() == len(wanted)


def test_scn_weighs_its_scores_and_moves_no_prediction(table_method: Any, encode: Any) -> None:
    method = scn(table_method, [0] * 10).eval()
    rng = np.random.default_rng(8)
    features, logits = rng.normal(0, 2, (9, 2)), rng.normal(0, 3, (9, 4))
    scores = method.predict(encode(features, logits)).detach().numpy()
    weighted = logits / (1 + np.exp(-features[:, :1]))
    expected = np.exp(weighted) / np.exp(weighted).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert (scores.argmax(1) == logits.argmax(1)).all()
    plain = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(scores - plain).max() > 0.1


# RUL


def loop_rul(features: Any, log_variance: Any, weight: Any, labels: Any, other: Any) -> float:
    total = 0.0
    s = [sum(math.exp(v) for v in row) / len(row) for row in log_variance]
    for i, j in enumerate(other):
        mixed = [(s[i] * a + s[j] * b) / (s[i] + s[j]) for a, b in zip(features[i], features[j], strict=True)]
        z = [sum(w * x for w, x in zip(row, mixed, strict=True)) for row in weight]
        log_sum = math.log(sum(math.exp(value) for value in z))
        total += (log_sum - z[labels[i]]) / 2 + (log_sum - z[labels[j]]) / 2
    return total / len(labels)


@pytest.mark.parametrize("b", [1, 3, 8])
def test_rul_mixture_and_add_up_loss(b: int) -> None:
    rng = np.random.default_rng(b)
    m, v, w = rng.normal(0, 1, (b, 5)), rng.normal(0, 1, (b, 5)), rng.normal(0, 1, (4, 5))
    labels, other = rng.integers(0, 4, b), rng.permutation(b)
    features, log_variance, weight = leaf(m), leaf(v), leaf(w)

    def loss() -> Tensor:
        mixed = mix(features, log_uncertainty(log_variance), torch.as_tensor(other))
        return add_up(mixed @ weight.T, torch.as_tensor(labels), torch.as_tensor(other))

    m, v, w = (part.detach().double().numpy() for part in (features, log_variance, weight))
    same(loss(), features, lambda x: loop_rul(x, v, w, labels, other))
    same(loss(), log_variance, lambda x: loop_rul(m, x, w, labels, other))
    same(loss(), weight, lambda x: loop_rul(m, v, x, labels, other))


def test_rul_the_more_uncertain_image_has_the_larger_share() -> None:
    features, other = torch.tensor([[0.0], [1.0]]), torch.tensor([1, 0])
    share = mix(features, log_uncertainty(torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]])), other)
    assert share.flatten().tolist() == near([0.75, 0.75])
    even = mix(features, log_uncertainty(torch.zeros(2, 2)), other)
    assert even.flatten().tolist() == [0.5, 0.5]


def test_rul_sizes_that_overflow_a_float() -> None:
    log_variance, other = leaf([[300.0, 280.0], [301.0, 10.0], [-300.0, -310.0]]), torch.tensor([1, 0, 2])
    mixed = mix(torch.eye(3), log_uncertainty(log_variance), other)
    share = 1 / (1 + math.e)
    np.testing.assert_allclose(
        mixed.detach(), [[share, 1 - share, 0], [share, 1 - share, 0], [0, 0, 1]], rtol=1e-5, atol=1e-6
    )
    (gradient,) = torch.autograd.grad(mixed[0, 0], log_variance)
    assert gradient.isfinite().all() and gradient.any()


@pytest.fixture
def rul(network: Any) -> Any:
    def make(seed: int = 0, **options: object) -> RUL:
        torch.manual_seed(seed)
        method = build("rul", network(dropout=0.0), option_values("rul", "paper", options))
        assert isinstance(method, RUL)
        return method.train()

    return make


def test_rul_step_pairs_the_batch_in_a_random_order(rul: Any, random_batch: Any) -> None:
    method = rul(dropout=0.0)
    batch = random_batch(method, b=7)
    torch.manual_seed(5)
    loss = method.step(*batch).losses["add_up"]
    torch.manual_seed(5)
    other = torch.randperm(7)
    assert other.tolist() != list(range(7))
    encoded = method.model(batch.labelled.views["weak"]).encoded
    parts = (method.features(encoded), method.log_variance(encoded), method.classifier.weight)
    m, v, w = (part.detach().double().numpy() for part in parts)
    m = np.hstack([m, np.ones((7, 1))])
    w = np.hstack([w, method.classifier.bias.detach().double().numpy()[:, None]])
    assert loss.item() == near(loop_rul(m, v, w, batch.labelled.labels.tolist(), other.tolist()))
    torch.manual_seed(6)
    assert method.step(*batch).losses["add_up"].item() != loss.item()


def test_rul_tests_the_unmixed_feature(rul: Any, random_batch: Any) -> None:
    """The uncertainties move the training loss and no score; scores are per image and draw nothing."""
    losses, scores, images = [], [], torch.randn(6, 3, 7, 7)
    for factor in (1, -3):
        method = rul()
        method.log_variance[2].weight.data.mul_(factor)
        torch.manual_seed(1)
        losses.append(method.step(*random_batch(method, b=6)).losses["add_up"].item())
        before = torch.get_rng_state()
        scores.append(method.eval().predict(images).detach())
        assert torch.equal(before, torch.get_rng_state())
    assert losses[0] != losses[1] and torch.equal(*scores)
    encoded = method.model(images).encoded
    features = method.features(encoded)
    torch.testing.assert_close(scores[1], method.classifier(features).softmax(dim=1))
    mixed = mix(features, log_uncertainty(method.log_variance(encoded)), torch.arange(5, -1, -1))
    assert not torch.allclose(scores[1], method.classifier(mixed).softmax(dim=1), atol=1e-3)


def test_rul_rates_and_gradients(rul: Any, random_batch: Any) -> None:
    method = rul(head_rate=7.0)
    slow, fast = method.parameter_groups(0.01)
    assert (slow["lr"], fast["lr"]) == (0.01, pytest.approx(0.07))
    assert {id(p) for p in fast["params"]} == {id(p) for p in method.classifier.parameters()}
    names = {name for name, p in method.named_parameters() if any(p is other for other in slow["params"])}
    assert {"log_variance.2.weight", "features.2.weight", "model.conv.weight"} <= names
    assert not any(name.startswith("model.head") for name in names)
    method.step(*random_batch(method)).losses["add_up"].backward()
    for part in (method.log_variance[2], method.features[2], method.model.conv):
        assert part.weight.grad.any()


# EAC


def loop_maps(cells: Any, weight: Any, side: int) -> Any:
    maps = np.zeros((len(cells), len(weight), side, side))
    for i, k, h, w in np.ndindex(maps.shape):
        maps[i, k, h, w] = sum(a * b for a, b in zip(weight[k], cells[i][h * side + w], strict=True))
    return maps


def loop_consistency(first: Any, second: Any) -> float:
    total, width = 0.0, first.shape[3]
    for i, k, h, w in np.ndindex(first.shape):
        total += (first[i, k, h, w] - second[i, k, h, width - 1 - w]) ** 2
    return total / first.size


@pytest.mark.parametrize(("b", "side"), [(1, 1), (3, 2), (2, 3)])
def test_eac_attention_and_consistency(b: int, side: int) -> None:
    rng = np.random.default_rng(side)
    cells, others = leaf(rng.normal(0, 1, (b, side * side, 5))), leaf(rng.normal(0, 1, (b, side * side, 5)))
    weight = leaf(rng.normal(0, 1, (4, 5)))

    def loss() -> Tensor:
        return consistency(attention(cells, weight), attention(others, weight))

    x, y, w = (part.detach().double().numpy() for part in (cells, others, weight))
    np.testing.assert_allclose(attention(cells, weight).detach(), loop_maps(x, w, side), rtol=1e-5, atol=1e-5)
    same(loss(), cells, lambda part: loop_consistency(loop_maps(part, w, side), loop_maps(y, w, side)))
    same(loss(), others, lambda part: loop_consistency(loop_maps(x, w, side), loop_maps(part, w, side)))


def test_eac_maps_average_to_the_logits_without_bias(network: Any) -> None:
    """Pooling and head are linear: what the map says is what the prediction rests on."""
    method = eac(network)
    cells = method.model.tokens(torch.randn(3, 3, 7, 7))
    maps = attention(cells, method.model.head.weight)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + method.model.head.bias, method.logits(cells))


def eac(network: Any, seed: int = 0, symmetric: bool = False, **options: object) -> Any:
    torch.manual_seed(seed)
    model = network(dropout=0.0, norm=False)
    if symmetric:
        model.conv.weight.data.copy_((model.conv.weight + model.conv.weight.flip(-1)) / 2)
    method = build("eac", model, option_values("eac", "paper", options))
    assert isinstance(method, EAC)
    return method.train()


def test_eac_step_by_loops(network: Any, random_batch: Any) -> None:
    method = eac(network)
    batch = random_batch(method, b=5)
    torch.manual_seed(2)
    losses = method.step(*batch).losses
    torch.manual_seed(2)
    images = erase(batch.labelled.views["weak"], 0.5)
    assert not torch.equal(images, batch.labelled.views["weak"])
    w = method.model.head.weight.detach().double().numpy()
    first, second = (
        loop_maps(method.model.tokens(x).detach().double().numpy(), w, 5) for x in (images, images.flip(3))
    )
    assert losses["consistency"].item() == near(5 * loop_consistency(first, second))
    logits = first.mean((2, 3)) + method.model.head.bias.detach().double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([row[label] for row, label in zip(log_p, batch.labelled.labels.tolist(), strict=True)])
    assert losses["supervised"].item() == near(expected)


def test_eac_symmetric_features_are_consistent(network: Any, random_batch: Any) -> None:
    """With kernels that are their own mirror images every image agrees with its mirror, erased or not."""
    batch = random_batch(eac(network))
    for options, zero in (({"symmetric": True}, True), ({"symmetric": False}, False)):
        loss = eac(network, **options).step(*batch).losses["consistency"].item()
        assert (loss < 1e-10) == zero
    each = eac(network, symmetric=True, mirror="each", erasing=1.0).step(*batch).losses["consistency"].item()
    assert each > 1e-4  # two rectangles, not one
    assert eac(network, symmetric=True, mirror="each", erasing=0.0).step(*batch).losses["consistency"].item() < 1e-10


def test_eac_symmetric_image_whose_maps_are_symmetric() -> None:
    half = torch.randn(3, 4, 5, 3)
    maps = torch.cat([half, half.flip(3)[..., 1:]], dim=3)
    assert consistency(maps, maps).item() == 0
    assert consistency(maps, maps.roll(1, dims=3)).item() > 0


def test_eac_the_head_learns_from_the_labels_alone(network: Any, random_batch: Any) -> None:
    gradients = []
    for weight in (0.0, 500.0):
        method = eac(network, consistency_weight=weight, erasing=0.0)
        losses = method.step(*random_batch(method)).losses
        torch.stack(list(losses.values())).sum().backward()
        gradients.append((method.model.head.weight.grad, method.model.conv.weight.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1], rtol=0.1)


def test_eac_both_images_learn_from_the_consistency(network: Any) -> None:
    method = eac(network)
    weight = method.model.head.weight.detach()
    maps = [attention(leaf(torch.randn(2, 9, 6)), weight) for _ in range(2)]
    gradients = torch.autograd.grad(consistency(*maps), maps)
    torch.testing.assert_close(gradients[0], -gradients[1].flip(3))


@pytest.mark.parametrize("name", ["vanilla", "eac"])
def test_eac_predicts_as_the_plain_model(name: str, network: Any) -> None:
    """In eval mode nothing is erased or drawn; on a ConvNet the mean of the map is the pooled feature."""
    torch.manual_seed(0)
    model = network(dropout=0.5).eval()
    method = build(name, model, option_values(name, "paper", {"erasing": 1.0} if name == "eac" else {})).eval()
    images = torch.randn(5, 3, 7, 7)
    torch.testing.assert_close(method.predict(images), model(images).logits.softmax(dim=1))


# random erasing


def boxes(images: Tensor) -> list[tuple[int, int, int, int] | None]:
    """Top, left, height, width of the zeros of each image; they must fill a rectangle over all channels."""
    found: list[tuple[int, int, int, int] | None] = []
    for image in images:
        zero = (image == 0).all(dim=0)
        assert torch.equal(zero, (image == 0).any(dim=0))
        if not zero.any():
            found.append(None)
            continue
        y, x = zero.nonzero().T
        top, left, height, width = y.min(), x.min(), y.max() - y.min() + 1, x.max() - x.min() + 1
        assert zero.sum() == height * width
        found.append((int(top), int(left), int(height), int(width)))
    return found


def test_erasing_is_torchvisions_in_distribution() -> None:
    """Mean of place, area, shape and frequency over 4,000 images of 24 x 32 within five standard errors."""
    torch.manual_seed(0)
    images, theirs = torch.ones(4000, 3, 24, 32), RandomErasing(p=0.5, scale=(0.02, 0.25))
    samples = []
    for made in (boxes(erase(images, 0.5)), boxes(torch.stack([theirs(image) for image in images]))):
        kept = np.array([box for box in made if box], float)
        area, shape = kept[:, 2] * kept[:, 3] / (24 * 32), np.log(kept[:, 2] / kept[:, 3])
        assert 0.01 < area.min() and area.max() < 0.28
        assert (kept[:, 0] + kept[:, 2]).max() == 24 and (kept[:, 1] + kept[:, 3]).max() == 32  # up to the edges
        columns = [kept[:, 0], kept[:, 1], area, shape, area**2, shape**2, np.zeros(len(kept))]
        samples.append((columns, len(kept) / len(made)))
    for ours, other in zip(samples[0][0], samples[1][0], strict=True):
        error = math.sqrt(ours.var() / len(ours) + other.var() / len(other))
        assert abs(ours.mean() - other.mean()) <= 5 * error
    assert abs(samples[0][1] - samples[1][1]) < 5 * math.sqrt(2 * 0.25 / 4000)


def test_erasing_none_all_and_the_rest_untouched() -> None:
    images = torch.randn(50, 3, 9, 9)
    assert erase(images, 0.0) is images
    torch.manual_seed(3)
    erased = erase(images, 1.0)
    assert all(boxes(erased))
    assert torch.equal(erased, torch.where(erased == 0, erased, images))
    torch.manual_seed(3)
    assert torch.equal(erase(images, 1.0), erased)
    assert len(set(boxes(erased))) > 10  # a rectangle of its own for each


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (2, 2), (3, 2)])
def test_erasing_small_and_narrow_images(height: int, width: int) -> None:
    """A rectangle is smaller than the image in both directions, or nothing is erased."""
    images = torch.randn(200, 3, height, width)
    found = [box for box in boxes(erase(images, 1.0)) if box]
    assert bool(found) == (min(height, width) > 1)
    assert all(rows < height and columns < width for _, _, rows, columns in found)


def test_erasing_passes_the_gradient_of_the_rest() -> None:
    images = torch.randn(4, 3, 9, 9, requires_grad=True)
    erased = erase(images, 1.0)
    erased.sum().backward()
    assert images.grad is not None and torch.equal(images.grad, (erased != 0).float())


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("scn", {"beta": 1.5}, "scn: option 'beta' must lie in [0, 1], not 1.5"),
        ("scn", {"relabel_epoch": 0}, "scn: option 'relabel_epoch' must be above 0, not 0"),
        ("scn", {"relabel": "high"}, "scn.relabel: 'high' is not known; valid: low, all"),
        ("rul", {"head_rate": 0.0}, "rul: option 'head_rate' must be above 0, not 0.0"),
        ("eac", {"consistency_weight": -1.0}, "eac: option 'consistency_weight' must be at least 0, not -1.0"),
        ("eac", {"erasing": 2.0}, "eac: option 'erasing' must lie in [0, 1], not 2.0"),
    ],
)
def test_options_that_cannot_be_meant(name: str, option: Any, message: str) -> None:
    with pytest.raises(MethodError) as caught:
        option_values(name, "paper", option)
    assert str(caught.value) == message
