"""RC, LW, CRPLL and PiCO: worked numbers in float64, slow loops on other inputs, and what their tables hold."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.methods import Facts, Labelled, Method, Progress, build, option_values
from ferbench.methods.partial import restrict, uniform, write_rows
from ferbench.methods.partial_label.lw import two_sided
from ferbench.methods.partial_label.pico import PiCO, best_candidate

# the worked example: two images, four classes
SETS = [[1, 1, 0, 0], [1, 0, 1, 1]]
LOGITS = [[1.0, 0.5, 0.2, -0.3], [0.1, 0.4, 0.9, 0.3]]
STRONG = [[0.8, 0.7, 0.1, -0.2], [0.3, 0.2, 0.6, 0.5]]
STRONG2 = [[1.2, 0.2, 0.4, -0.1], [0.0, 0.5, 1.1, 0.2]]
START = [[0.5, 0.5, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3]]
AFTER_RC = [[0.62245933, 0.37754067, 0, 0], [0.22487355, 0, 0.50046528, 0.27466117]]
AFTER_LW = [[0.62245933, 0.37754067, 0.62245933, 0.37754067], [0.22487355, 1, 0.50046528, 0.27466117]]
AFTER_CRPLL = [[0.63026022, 0.36973978, 0, 0], [0.23237376, 0, 0.48380428, 0.28382195]]


def near(value: Any) -> Any:
    return pytest.approx(value, rel=2e-6, abs=1e-7)


def facts(sets: Any, epochs: int = 100) -> Facts:
    candidates = torch.as_tensor(np.asarray(sets)).bool()
    index = torch.arange(len(candidates))
    labels = candidates.int().argmax(1)
    return Facts(len(candidates), index, labels, index[:0], steps=10, epochs=epochs, candidates=candidates)


def batch(index: Any = (0, 1), **views: Tensor) -> Labelled:
    rows = torch.as_tensor(index)
    return Labelled(views, torch.zeros(len(rows), dtype=torch.int64), rows)


def at(epoch: int) -> Progress:
    return Progress(torch.zeros(()), epoch)


@pytest.fixture
def on_table(table_method: Any) -> Any:
    """A method on a model whose images are their own features and logits."""

    def make(name: str, sets: Any = SETS, features: int = 1, epochs: int = 100, **options: object) -> Method:
        method: Method = table_method(name, shape=(features, len(sets[0])), **options)
        method.begin(facts(sets, epochs))
        return method

    return make


def rows_of(method: Method) -> Any:
    table = method.confidence
    assert isinstance(table, Tensor)
    return [near(row) for row in table.tolist()]


def test_rc_worked_example(on_table: Any, encode: Any) -> None:
    method = on_table("rc")
    images = batch(weak=encode([[0.0]] * 2, LOGITS))
    assert rows_of(method) == START
    assert method.step(images, None, at(0)).losses["rc"].item() == near(1.2595754)
    method.after_step(images, None)
    assert rows_of(method) == AFTER_RC
    assert method.step(images, None, at(0)).losses["rc"].item() == near(1.167975)


def test_lw_worked_example(on_table: Any, encode: Any) -> None:
    method = on_table("lw")
    images = batch(weak=encode([[0.0]] * 2, LOGITS))
    assert rows_of(method) == [[0.25] * 4] * 2
    assert method.step(images, None, at(0)).losses["lw"].item() == near(0.42627375)
    method.after_step(images, None)
    assert rows_of(method) == AFTER_LW
    assert method.step(images, None, at(0)).losses["lw"].item() == near(0.88995387)


def test_crpll_worked_example(on_table: Any, encode: Any) -> None:
    """Epoch 30 of 200: lambda is 0.3."""
    method = on_table("crpll", epochs=200)
    views = zip(("weak", "strong", "strong2"), (LOGITS, STRONG, STRONG2), strict=True)
    losses = method.step(batch(**{v: encode([[0.0]] * 2, z) for v, z in views}), None, at(30)).losses
    assert losses["complementary"].item() == near(0.30198866)
    assert losses["consistency"].item() == near(0.3 * (0.36369566 + 0.30446057 + 0.46986766))
    assert sum(loss.item() for loss in losses.values()) == near(0.64339583)
    assert rows_of(method) == AFTER_CRPLL


def test_crpll_ramp(on_table: Any) -> None:
    method = on_table("crpll", epochs=20, consistency_weight=2.0)
    assert [method.weight(epoch) for epoch in (0, 5, 10, 19)] == [0.0, 1.0, 2.0, 2.0]
    assert on_table("crpll", ramp=0.0).weight(0) == 1.0


def loops_lw(logits: Any, sets: Any, weights: Any, beta: float, kind: str) -> float:
    total = 0.0
    for z, s, w in zip(logits, sets, weights, strict=True):
        partition = sum(math.exp(v) for v in z)
        for k, v in enumerate(z):
            p = math.exp(v) / partition
            inside = 1 / (1 + math.exp(v)) if kind == "sigmoid" else -math.log(p)
            outside = 1 / (1 + math.exp(-v)) if kind == "sigmoid" else -math.log(1 - p)
            total += w[k] * (inside if s[k] else beta * outside)
    return total / len(logits)


@pytest.mark.parametrize("kind", ["sigmoid", "cross_entropy"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_lw_against_loops(kind: str, beta: float, on_table: Any, encode: Any) -> None:
    rng = np.random.default_rng(5)
    sets = rng.random((9, 6)) < 0.5
    sets[np.arange(9), rng.integers(0, 6, 9)] = True
    sets[0] = True
    logits = rng.normal(0, 2, (9, 6))
    method = on_table("lw", sets=sets, loss=kind, beta=beta)
    images = batch(range(9), weak=encode([[0.0]] * 9, logits))
    for _ in range(2):
        loss = method.step(images, None, at(0)).losses["lw"].item()
        assert loss == near(loops_lw(logits, sets, method.confidence.tolist(), beta, kind))
        method.after_step(images, None)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rest = np.where(~sets, p, 0.0)
    rest /= np.maximum(rest.sum(axis=1, keepdims=True), 1e-300)
    wanted = np.where(sets, p, 0) / np.where(sets, p, 0).sum(axis=1, keepdims=True) + rest
    np.testing.assert_allclose(method.confidence.numpy(), wanted, rtol=1e-5)


def test_certain_logits_give_finite_losses_and_weights(on_table: Any, encode: Any) -> None:
    """Float32 underflows outside one class: the weights stay on the set, uniform where nothing of it is left."""
    logits = [[0.0, 0.0, 300.0, 0.0], [300.0, 0.0, 0.0, 0.0]]
    for name in ("rc", "lw", "crpll", "pll_fer"):
        options = {"decoder": False, "warmup_epochs": 0} if name == "pll_fer" else {}
        method = on_table(name, **options)
        images = batch(**{view: encode([[0.0]] * 2, logits) for view in method.views.labelled})
        losses = method.step(images, None, at(60)).losses
        method.after_step(images, None)
        assert all(math.isfinite(loss.item()) for loss in losses.values()), name
        inside = torch.where(torch.tensor(SETS).bool(), method.confidence, 0.0)
        torch.testing.assert_close(inside.sum(dim=1), torch.ones(2), msg=name)
    assert restrict(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[True, True, False]])).tolist() == [[0.5, 0.5, 0]]


def test_uniform_and_two_sided_on_empty_and_full_sets() -> None:
    sets = torch.tensor([[True] * 4, [False] * 4, [True, False, False, False]])
    assert uniform(sets).tolist() == [[0.25] * 4, [0.0] * 4, [1.0, 0, 0, 0]]
    weights = two_sided(torch.randn(3, 4), sets)
    torch.testing.assert_close(weights.sum(dim=1), torch.tensor([1.0, 1.0, 2.0]))


def test_write_rows_first_of_one_image_counts() -> None:
    table = torch.zeros(5, 2)
    write_rows(table, torch.tensor([3, 1, 3]), torch.tensor([[1.0, 2], [3, 4], [5, 6]]))
    assert table.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2], [0, 0]]


@pytest.mark.parametrize("name", ["rc", "lw"])
@pytest.mark.parametrize("frozen", [True, False])
def test_second_forward_and_batch_statistics(name: str, frozen: bool, network: Any) -> None:
    """It normalises by the batch either way, and moves the running statistics only where asked to."""
    torch.manual_seed(0)
    model = network(dropout=0.0)
    method = build(name, model, option_values(name, "paper", {"frozen_statistics": frozen}))
    method.begin(facts([[1, 1, 1, 1]] * 6))
    images = batch(range(6), weak=torch.randn(6, 3, 7, 7))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    method.train().after_step(images, None)
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert bool(moved) != frozen
    model.load_state_dict(before)
    p = model(images.views["weak"]).logits.detach().softmax(dim=1)  # training mode
    table = method.confidence
    assert isinstance(table, Tensor)
    torch.testing.assert_close(table, p)  # every class is a candidate
    assert model.norm.track_running_stats


@pytest.fixture
def pico(on_table: Any) -> Any:
    """PiCO in a plane: features are their own projections."""

    def make(sets: Any = SETS, epochs: int = 100, **options: object) -> PiCO:
        method = on_table("pico", sets=sets, features=2, epochs=epochs, **{"width": 2, "queue": 6, **options})
        assert isinstance(method, PiCO)
        method.projection = nn.Sequential(nn.Identity())
        method.key_projection.model = nn.Sequential(nn.Identity())
        return method

    return make


def test_pico_worked_example(pico: Any, encode: Any) -> None:
    """Epoch 20 of 100: phi is 0.92; the best prototypes of the candidates are 1 and 2."""
    method = pico()
    method.prototypes.copy_(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]))
    query = torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    scores = query @ method.prototypes.T
    assert scores.softmax(dim=1).tolist() == [
        near([0.3130735, 0.36739515, 0.2563229, 0.063208449]), near([0.14401289, 0.32050659, 0.39146763, 0.14401289])
    ]  # fmt: skip
    assert best_candidate(scores, torch.tensor(SETS).bool()).tolist() == [1, 2]
    images = encode(query, LOGITS)
    losses = method.step(batch(weak=images, strong=images), None, at(20)).losses
    wanted = [[0.46, 0.54, 0, 0], [0.30666667, 0, 0.38666667, 0.30666667]]
    assert rows_of(method) == wanted
    log_p = torch.tensor(LOGITS, dtype=torch.float64).log_softmax(dim=1)
    expected = -(torch.tensor(wanted, dtype=torch.float64) * log_p).sum(dim=1).mean()
    assert losses["classes"].item() == near(expected.item())


def test_pico_weights_wait_for_the_prototype_epoch(pico: Any, encode: Any) -> None:
    method = pico(prototype_epoch=3)
    images = encode([[0.8, 0.6], [0.0, 1.0]], LOGITS)
    method.step(batch(weak=images, strong=images), None, at(2))
    assert rows_of(method) == START
    method.step(batch(weak=images, strong=images), None, at(3))
    assert rows_of(method) != START


def test_pico_phi(pico: Any) -> None:
    paper, released = pico(epochs=10), pico(epochs=10, phi_lags=True)
    assert [round(paper.phi(e), 6) for e in (0, 5, 10)] == [0.95, 0.875, 0.8]
    assert [round(released.phi(e), 6) for e in (0, 1, 6)] == [0.99, 0.95, 0.875]


def test_pico_prototypes_move_row_by_row(pico: Any) -> None:
    rng = np.random.default_rng(2)
    method = pico(prototype_momentum=0.7)
    start = rng.normal(size=(4, 2))
    method.prototypes.copy_(torch.tensor(start))
    query, label = rng.normal(size=(9, 2)), rng.integers(0, 3, 9)  # class 3 has no row
    method.move_prototypes(torch.tensor(query).float(), torch.tensor(label))
    for q, y in zip(query, label, strict=True):
        start[y] = 0.7 * start[y] + 0.3 * q
    np.testing.assert_allclose(method.prototypes.numpy(), start / np.linalg.norm(start, axis=1, keepdims=True), 1e-5)


def loops_contrast(query: Any, key: Any, queue: Any, label: Any, old: Any, temperature: float) -> list[float]:
    rows, labels = [*query, *key, *queue], [*label, *label, *old]
    losses = []
    for i, (q, y) in enumerate(zip(query, label, strict=True)):
        others = [j for j in range(len(rows)) if j != i and labels[j] >= 0]
        total = sum(math.exp(q @ rows[j] / temperature) for j in others)
        own = [math.log(math.exp(q @ rows[j] / temperature) / total) for j in others if labels[j] == y]
        losses.append(-sum(own) / len(own))
    return losses


def test_pico_contrast_against_loops(pico: Any) -> None:
    """Labels shared in the batch and the queue, two of whose rows are empty."""
    rng = np.random.default_rng(4)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.normal(size=(n, 2)) for n in (5, 5, 6))]
    label, old = np.array([0, 1, 0, 2, 3]), np.array([0, 2, 2, 1, -1, -1])
    method = pico(temperature=0.3)
    method.queue.copy_(torch.tensor(unit[2]))
    method.queue_labels.copy_(torch.tensor(old))
    query, key = (torch.tensor(x).float() for x in unit[:2])
    ours = method.supervised_contrast(query, key, torch.tensor(label))
    assert ours.tolist() == near(loops_contrast(*unit, label, old, 0.3))
    own = [math.exp(q @ k / 0.3) for q, k in zip(*unit[:2], strict=True)]
    rest = [sum(math.exp(q @ other / 0.3) for other in unit[2][:4]) for q in unit[0]]
    expected = [-math.log(a / (a + b)) for a, b in zip(own, rest, strict=True)]
    assert method.own_key_contrast(query, key).tolist() == near(expected)


def test_pico_contrast_is_float32_under_autocast(pico: Any) -> None:
    method = pico(temperature=0.07)
    query, key = (torch.nn.functional.normalize(torch.randn(5, 2), dim=1) for _ in range(2))
    method.enqueue(key, torch.arange(5) % 4)
    label = torch.arange(5) % 3
    wanted = method.supervised_contrast(query, key, label), method.own_key_contrast(query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = method.supervised_contrast(query, key, label), method.own_key_contrast(query, key)
    for first, second in zip(wanted, ours, strict=True):
        assert torch.equal(first, second)


def test_pico_queue_is_a_ring(pico: Any) -> None:
    method = pico(queue=5)
    for start in (0, 3, 6):
        rows = torch.arange(start, start + 3).float().unsqueeze(1).expand(3, 2)
        method.enqueue(rows, torch.arange(start, start + 3))
    assert method.queue_labels.tolist() == [5, 6, 7, 8, 4]
    assert method.queue[:, 0].tolist() == [5, 6, 7, 8, 4]
    method.enqueue(torch.arange(9).float().unsqueeze(1).expand(9, 2), torch.arange(9))
    assert sorted(method.queue_labels.tolist()) == [4, 5, 6, 7, 8]


def test_pico_keys_follow_the_query_network(any_network_pico: PiCO) -> None:
    method = any_network_pico
    images = batch(range(4), weak=torch.randn(4, 3, 7, 7), strong=torch.randn(4, 3, 7, 7))
    before = copy.deepcopy(method.keys.model.state_dict())
    with torch.no_grad():
        method.model.get_parameter("conv.weight").add_(1.0)
    method.step(images, None, at(0))
    moved = method.keys.model.state_dict()["conv.weight"] - before["conv.weight"]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.001), rtol=1e-3, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in method.keys.parameters())


@pytest.fixture
def any_network_pico(network: Any) -> PiCO:
    torch.manual_seed(0)
    method = build("pico", network(), option_values("pico", "paper", {"queue": 8}))
    method.begin(facts([[1, 1, 0, 0]] * 4))
    assert isinstance(method, PiCO)
    return method.train()


def test_one_candidate_is_cross_entropy(on_table: Any, encode: Any) -> None:
    """RC, before and after its refresh; PiCO's class term at any epoch."""
    sets = [[0, 1, 0, 0], [0, 0, 0, 1]]
    images = encode([[0.0]] * 2, LOGITS)
    expected = torch.nn.functional.cross_entropy(torch.tensor(LOGITS), torch.tensor([1, 3])).item()
    method = on_table("rc", sets=sets)
    for _ in range(2):
        assert method.step(batch(weak=images), None, at(0)).losses["rc"].item() == near(expected)
        method.after_step(batch(weak=images), None)


def test_model_is_called_as_often_as_said(on_table: Any, encode: Any) -> None:
    """One pass with gradient and one without for RC and LW, three with for CRPLL."""
    for name, step, after in (("rc", [True], [False]), ("lw", [True], [False]), ("crpll", [True] * 3, [])):
        method = on_table(name)
        images = batch(**{view: encode([[0.0]] * 2, LOGITS) for view in method.views.labelled})
        method.step(images, None, at(0))
        assert [call.grad for call in method.model.calls] == step, name
        method.after_step(images, None)
        assert [call.grad for call in method.model.calls][len(step) :] == after, name
