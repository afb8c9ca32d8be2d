"""CoMatch (Eqs. 3-10), SimMatch (Eqs. 3-12) and CCSSL: memories, graphs and contrasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Facts
from ferbench.methods.general.ccssl import class_contrast, pair_weights
from ferbench.methods.general.comatch import graph_contrast
from ferbench.methods.general.simmatch import mixed, unfolded


def f32(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


BANK = [[1, 0], [0.99388373, 0.11043153], [0, 1], [0.21693046, 0.97618706]]
BANK_P = [[1, 0, 0], [0.98, 0.01, 0.01], [0.02, 0.97, 0.01], [0, 1, 0]]
WEAK_F = [[0.99388373, 0.11043153], [0.76822128, 0.6401844], [0.11043153, 0.99388373]]
ALIGNED = [[0.97, 0.02, 0.01], [0.9, 0.06, 0.04], [0.02, 0.96, 0.02]]
SMOOTHED = [
    [0.9697544, 0.020743647, 0.0095019538], [0.86872397, 0.094801482, 0.036474543],
    [0.020579251, 0.96091895, 0.018501796],
]  # fmt: skip


def test_comatch_worked_smoothing(begun: Any) -> None:
    """Eq. 5, and nothing of it until the queue is full."""
    method = begun("comatch", 3, queue=4, width=2)
    method.queue.write(f32(BANK[:3]), f32(BANK_P[:3]))
    assert torch.equal(method.smoothed(f32(ALIGNED), f32(WEAK_F)), f32(ALIGNED))
    method.queue.write(f32(BANK[3:]), f32(BANK_P[3:]))
    np.testing.assert_allclose(method.smoothed(f32(ALIGNED), f32(WEAK_F)), SMOOTHED, rtol=1e-5)


FIRST = [[0.91914503, 0.3939193], [0.99388373, -0.11043153], [0.24253563, 0.9701425]]
SECOND = [[0.99227788, 0.12403473], [0.83205029, 0.5547002], [-0.11043153, 0.99388373]]


def test_comatch_worked_contrast() -> None:
    got = graph_contrast(f32(FIRST), f32(SECOND), f32(SMOOTHED), 0.2, 0.8).mean()
    assert got.item() == pytest.approx(0.6463588, rel=1e-5)


@pytest.mark.parametrize("edge", [0.0, 0.3, 2.0])
def test_comatch_eqs_8_to_10(edge: float, slow: Any) -> None:
    """Above every product only the diagonal stays: instance discrimination; both views get gradient."""
    rng, n = slow.random, 6
    first, second, p = rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), rng.dirichlet([0.3] * 4, n)
    expected = []
    for i in range(n):
        graph = [1.0 if i == j else p[i] @ p[j] for j in range(n)]
        graph = np.array([g if g >= edge or (i == j and edge <= 1) else 0.0 for j, g in enumerate(graph)])
        similar = slow.softmax(first[i] @ second.T / 0.5)
        expected.append(-(graph / graph.sum() @ np.log(similar + 1e-7)) if graph.sum() else np.nan)
    a, b = f32(first).requires_grad_(), f32(second).requires_grad_()
    got = graph_contrast(a, b, f32(p), 0.5, min(edge, 1.0))
    if edge > 1:
        expected = [-np.log(slow.softmax(first[i] @ second.T / 0.5)[i] + 1e-7) for i in range(n)]
    np.testing.assert_allclose(got.detach(), expected, rtol=1e-4)
    got.sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None and a.grad.any() and b.grad is not None and b.grad.any()


def test_comatch_over_steps(begun: Any, stepped: Any, slow: Any) -> None:
    """Queue of ten rows, five new ones a step: full after two; the window holds two batches."""
    rng, tau = slow.random, 0.5
    torch.manual_seed(0)
    method = begun("comatch", 3, queue=10, width=2, window=2, threshold=tau, edge=0.6)
    queue: list[tuple[Any, Any]] = []
    window: list[Any] = []

    def project(features: Any) -> Any:
        return method.project(f32(features)).detach().double().numpy()

    for t in range(4):
        feature = {view: rng.normal(size=(n, 2)) for view, n in (("x", 2), ("w", 3), ("s", 3), ("s2", 3))}
        logit = {view: rng.normal(0, 2, (n, 3)) for view, n in (("x", 2), ("w", 3), ("s", 3), ("s2", 3))}
        labels = rng.integers(0, 3, 2)
        views = {
            "weak": (feature["w"], logit["w"]),
            "strong": (feature["s"], logit["s"]),
            "strong2": (feature["s2"], logit["s2"]),
        }
        result, _ = stepped(method, labels, {"weak": (feature["x"], logit["x"])}, views)
        p = slow.softmax(logit["w"])
        window = [*window, p.mean(0)][-2:]
        p = p / np.mean(window, axis=0)
        p = p / p.sum(1, keepdims=True)
        weak, target = project(feature["w"]), p
        if t >= 2:
            share = slow.softmax(weak @ np.array([f for f, _ in queue]).T / 0.2)
            target = 0.9 * p + 0.1 * share @ np.array([q for _, q in queue])
        keep = target.max(1) >= tau
        contrast = graph_contrast(f32(project(feature["s"])), f32(project(feature["s2"])), f32(target), 0.2, 0.6)
        expected = {
            "supervised": slow.cross_entropy(logit["x"], labels).mean(),
            "unsupervised": (slow.cross_entropy(logit["s"], target) * keep).mean(),
            "contrast": contrast.mean().item(),
        }
        assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-3)
        rows = zip([*weak, *project(feature["x"])], [*p, *np.eye(3)[labels]], strict=True)
        queue = [*queue, *rows][-10:]


def test_comatch_usb_waits_for_the_second_epoch(begun: Any, stepped: Any) -> None:
    rows = {name: np.eye(3) for name in ("weak", "strong", "strong2")}
    for epoch, smoothed in ((0, False), (1, True)):
        torch.manual_seed(0)
        method = begun("comatch", 3, variant="usb", queue=4, width=2, threshold=0.0)
        method.queue.write(f32(BANK), f32([[1, 0, 0]] * 4))
        target = stepped(method, [0], {"weak": np.zeros((1, 3))}, rows, epoch=epoch)[0].pseudo
        plain = gate_of(np.eye(3))
        assert np.allclose(target.confidence, plain, rtol=1e-4) != smoothed


def gate_of(logits: Any) -> Any:
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = p / p.mean(0)
    return (p / p.sum(1, keepdims=True)).max(1)


ROWS = [[1, 0], [0.9486833, 0.31622777], [0, 1], [-0.98058068, 0.19611614]]
ROW_LABELS = torch.tensor([0, 0, 1, 2])
TEACHER_F, STUDENT_F = (
    [[0.97854978, 0.20601048], [0.21693046, 0.97618706]],
    [[0.89442719, 0.4472136], [0.10468478, 0.99450545]],
)
TEACHER_P = [[0.96, 0.03, 0.01], [0.3, 0.6, 0.1]]


def test_simmatch_worked_example() -> None:
    near = (f32(TEACHER_F) @ f32(ROWS).T / 0.1).softmax(1)
    np.testing.assert_allclose(near[0, :3], [0.46264895, 0.5371468, 0.00020424715], rtol=1e-4)
    goal = unfolded(near, f32(TEACHER_P), ROW_LABELS)
    np.testing.assert_allclose(goal[0, :3], [0.46274051, 0.5372531, 6.3839867e-06], rtol=1e-4)
    np.testing.assert_allclose(goal[1], [0.00025078835, 0.0049160583, 0.99482543, 7.7212377e-06], rtol=1e-4)
    p = mixed(f32(TEACHER_P), near, ROW_LABELS, 0.9)
    np.testing.assert_allclose(
        p, [[0.96397958, 0.027020425, 0.0090000003], [0.27102802, 0.63896737, 0.090004609]], rtol=1e-5
    )
    seen = f32(STUDENT_F) @ f32(ROWS).T / 0.1
    assert -(goal * seen.log_softmax(1)).sum(1).mean().item() == pytest.approx(0.40241682, rel=1e-4)


@pytest.mark.parametrize("variant", ["paper", "usb"])
def test_simmatch_over_steps(variant: Any, begun: Any, stepped: Any, slow: Any) -> None:
    """A Table's teacher is the Table, so both variants agree here; labelled images 3, 5 and 8 of ten."""
    rng, index = slow.random, torch.tensor([8, 3, 5])
    given = Facts(10, index, torch.tensor([2, 0, 1]), torch.arange(10), 8, 4)
    torch.manual_seed(0)
    method = begun("simmatch", 3, given=given, variant=variant, width=2, window=2, threshold=0.4)
    bank = method.bank.features.double().numpy().copy()
    label_of, row_of, window = np.array([2, 0, 1]), {8: 0, 3: 1, 5: 2}, []

    def project(features: Any) -> Any:
        return method.project(f32(features)).detach().double().numpy()

    for t in range(3):
        x, w, s = ((rng.normal(size=(n, 2)), rng.normal(0, 2, (n, 3))) for n in (2, 4, 4))
        places = [[8, 3], [5, 5], [3, 8]][t]
        labels = label_of[[row_of[place] for place in places]]
        result, _ = stepped(method, labels, {"weak": x}, {"weak": w, "strong": s}, epoch=t, labelled_index=places)
        p = slow.softmax(w[1])
        window = [*window, p.mean(0)][-2:]
        p = p / np.mean(window, axis=0)
        p = p / p.sum(1, keepdims=True)
        near = slow.softmax(project(w[0]) @ bank.T / 0.1)
        target = p.copy()
        if t > 0:
            target = 0.9 * p
            for j, c in enumerate(label_of):
                target[:, c] += 0.1 * near[:, j]
        goal = near * p[:, label_of]
        goal = goal / goal.sum(1, keepdims=True)
        seen = project(s[0]) @ bank.T / 0.1
        expected = {
            "supervised": slow.cross_entropy(x[1], labels).mean(),
            "unsupervised": (slow.cross_entropy(s[1], target) * (target.max(1) >= 0.4)).mean(),
            "similarity": slow.cross_entropy(seen, goal).mean() * (t > 0),
        }
        assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-3)
        np.testing.assert_allclose(method.bank.features, bank, rtol=1e-5)  # not before the step is over
        from ferbench.methods import Labelled

        method.after_step(Labelled({}, torch.tensor(labels), torch.tensor(places)), None)
        for place, feature in zip(places, project(x[0]), strict=True):
            bank[row_of[place]] = feature
        np.testing.assert_allclose(method.bank.features, bank, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("own_view", ["one", "confidence"])
def test_ccssl_contrast(own_view: Any, slow: Any) -> None:
    """The weighted supervised contrast over both views, pair by pair."""
    rng, n, t = slow.random, 5, 0.3
    f = rng.normal(size=(2 * n, 3))
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    label, m = np.array([0, 1, 0, 2, 1]), rng.random(n)
    expected = []
    for i in range(2 * n):
        weight = np.zeros(2 * n)
        for j in range(2 * n):
            a, b = i % n, j % n
            same = m[a] * m[b] if label[a] == label[b] else 0.0
            weight[j] = 0.0 if i == j else 1.0 if a == b and own_view == "one" else same
        others = sum(np.exp(f[i] @ f[k] / t) for k in range(2 * n) if k != i)
        log_p = [np.log(np.exp(f[i] @ f[j] / t) / others) for j in range(2 * n)]
        expected.append(-sum(w / weight.sum() * lp for w, lp in zip(weight, log_p, strict=True)))
    pairs = pair_weights(torch.tensor(label), f32(m), own_view)
    leaf = f32(f).requires_grad_()
    got = class_contrast(leaf, pairs, t)
    np.testing.assert_allclose(got.detach(), expected, rtol=1e-4)
    got.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None and leaf.grad.isfinite().all()


def test_ccssl_terms(begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    """FixMatch on the first strong view; anchors below `push` count as zero in the mean."""
    rng = slow.random
    torch.manual_seed(0)
    method = begun("ccssl", 3, threshold=0.6, push=0.7, width=2)
    view = {name: (rng.normal(size=(6, 2)), rng.normal(0, 2, (6, 3))) for name in ("weak", "strong", "strong2")}
    known = rng.normal(size=(3, 3))
    result, leaves = stepped(method, [0, 1, 2], {"weak": known}, view)
    p = slow.softmax(view["weak"][1])
    keep = p.max(1) >= 0.6
    taught = slow.cross_entropy(view["strong"][1], p.argmax(1)) * keep
    assert result.losses["unsupervised"].item() == pytest.approx(taught.mean(), rel=1e-5)
    features = torch.cat([method.project(f32(view[name][0])) for name in ("strong", "strong2")]).detach()
    pairs = pair_weights(torch.tensor(p.argmax(1)), f32(p.max(1)), "one")
    contrast = class_contrast(features, pairs, 0.07) * torch.tensor(p.max(1) >= 0.7).repeat(2)
    assert result.losses["contrast"].item() == pytest.approx(contrast.mean().item(), rel=1e-5)
    assert reached(result.losses["unsupervised"], leaves) == {"unlabelled strong"}
