"""PLL and PLL-FER against the paper's equations: worked numbers in float64, slow loops on other inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ferbench.methods import Facts, Labelled, Method, MethodError, Progress, build, option_values
from ferbench.methods.blocks.decoder import QueryDecoder, uniform_positions, uniformity
from ferbench.methods.papers.pll_fer import revise

# four images, five classes, the two best of each of three predictions as candidates; image 2 has its label alone
CANDIDATES = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
LOGITS = [[2, -1, 0.5, -2, -1.5], [0.3, 3.5, 0.4, 0.2, -0.7], [-0.5, 1.5, 0.1, 0, -1], [1.2, 0.9, -0.3, 0, 0.4]]
LOSS = [1.778714673, 3.329000023, 0.5230391773, 1.148597296]
GAPS = [0.3059278283, 0.0244268314, 0.8175744762, 0.02878764044]  # Delta v of Eq. 4
START = [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]]
GENERIC = [[1.0, 0.2], [-0.3, 0.9], [-0.6, -0.8]]
SIMPLEX = [[1.0, 0.0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]]


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-6, abs=2e-8)


def facts(candidates: Any) -> Facts:
    sets = torch.tensor(candidates).bool()
    index = torch.arange(len(sets))
    return Facts(len(sets), index, sets.int().argmax(1), index[:0], steps=10, epochs=10, candidates=sets)


def make(name: str, model: torch.nn.Module, candidates: Any, **options: object) -> Method:
    method = build(name, model, option_values(name, "paper", options))  # type: ignore[arg-type]
    method.begin(facts(candidates))
    return method


@pytest.fixture
def on_table(table_method: Any) -> Any:
    """A method on the worked example: images that are their own logits."""

    def make_method(name: str, **options: object) -> Method:
        method: Method = table_method(name, shape=(1, 5), **options)
        method.begin(facts(CANDIDATES))
        return method

    return make_method


def labelled(images: Tensor, index: Any = None) -> Labelled:
    rows = torch.arange(len(images)) if index is None else torch.as_tensor(index)
    return Labelled({"weak": images}, torch.zeros(len(images), dtype=torch.int64), rows)


def at(epoch: int) -> Progress:
    return Progress(torch.zeros(()), epoch)


def loops_revise(confidence: Any, logits: Any, threshold: float, phi: str) -> list[list[float]]:
    """Eqs. 3-4 one number at a time."""
    result = []
    for row, scores in zip(np.asarray(confidence, np.float64), np.asarray(logits, np.float64), strict=True):
        mean = sum(scores) / len(scores) if phi == "centred" else 0.0
        weighed = []
        for c, z in zip(row, scores, strict=True):
            if phi == "softmax":
                weighed.append(c * math.exp(z) / sum(math.exp(other) for other in scores))
            else:
                weighed.append(c / (1 + math.exp(mean - z)))
        order = sorted(range(len(row)), key=lambda k: (-weighed[k], k))
        sure = weighed[order[0]] - weighed[order[1]] > threshold
        result.append([float(k == order[0]) for k in range(len(row))] if sure else list(row))
    return result


@pytest.mark.parametrize("name", ["pll", "pll_fer"])
def test_eq1_worked_example(name: str, on_table: Any, encode: Any) -> None:
    off = {"decoder": False, "revision": False, "uniform_weight": 0.0} if name == "pll_fer" else {}
    method = on_table(name, **off)
    assert method.confidence.tolist() == START
    images = encode([[0.0]] * 4, LOGITS)
    for row in range(4):
        losses = method.step(labelled(images[row : row + 1], [row]), None, at(0)).losses
        assert losses["pll"].item() == near(LOSS[row])
    losses = method.step(labelled(images), None, at(0)).losses
    assert list(losses) == ["pll"] and losses["pll"].item() == near(1.694837792)


@pytest.mark.parametrize(
    ("threshold", "revised", "loss"),
    [(0.1, [0, 2], 1.319837792), (0.2, [0, 2], 1.319837792), (0.3, [0, 2], 1.319837792), (0.5, [2], 1.694837792)],
)
def test_eq3_eq4_worked_example(threshold: float, revised: list[int], loss: float, on_table: Any, encode: Any) -> None:
    """The literal sigmoid, from the first step; image 1 shows that a strong class outside the set is ignored."""
    method = on_table("pll_fer", decoder=False, threshold=threshold, warmup_epochs=0, phi="sigmoid")
    result = method.step(labelled(encode([[0.0]] * 4, LOGITS)), None, at(0))
    assert result.losses["pll"].item() == near(loss)
    wanted = [np.eye(5)[[0, 2, 1, 0][row]].tolist() if row in revised else START[row] for row in range(4)]
    assert method.confidence.tolist() == wanted
    assert result.figures is not None and result.figures["one-hot share"].item() == len(revised) / 4


def test_eq4_gaps_decide() -> None:
    confidence, logits = torch.tensor(START), torch.tensor(LOGITS)
    for row, gap in enumerate(GAPS):
        below = revise(confidence, logits, gap - 1e-6, "sigmoid")[row]
        above = revise(confidence, logits, gap + 1e-6, "sigmoid")[row]
        assert below.max() == 1 and above.tolist() == START[row]


@pytest.mark.parametrize("phi", ["centred", "sigmoid", "softmax"])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.2, 0.4, 0.9])
def test_eq3_eq4_against_loops(phi: Any, threshold: float) -> None:
    rng = np.random.default_rng(3)
    sets = rng.random((60, 7)) < 0.4
    sets[np.arange(60), rng.integers(0, 7, 60)] = True
    sets[:5] = True  # full sets
    confidence = sets / sets.sum(axis=1, keepdims=True)
    logits = rng.normal(0, 2, (60, 7))
    ours = revise(torch.tensor(confidence), torch.tensor(logits), threshold, phi)
    np.testing.assert_allclose(ours.numpy(), loops_revise(confidence, logits, threshold, phi), atol=1e-12)
    assert np.all((ours.numpy() > 0) <= sets)


def test_eq4_ties_and_equal_gap() -> None:
    """Equal scores are no gap, and a gap of exactly the threshold is not above it."""
    tied = torch.tensor([[0.0, 0.0, 1.0]])
    confidence = torch.tensor([[0.5, 0.5, 0.0]])
    assert revise(confidence, tied, 0.0, "sigmoid").tolist() == [[0.5, 0.5, 0.0]]
    exact = torch.tensor([[1.0, 0.0]])
    assert revise(exact, torch.zeros(1, 2), 0.5, "sigmoid").tolist() == [[1.0, 0.0]]
    quarter = torch.tensor([[0.75, 0.25]])
    assert revise(quarter, torch.zeros(1, 2), 0.25, "sigmoid").tolist() == [[0.75, 0.25]]
    assert revise(quarter, torch.zeros(1, 2), 0.249, "sigmoid").tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("phi", ["centred", "sigmoid", "softmax"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9])
def test_one_hot_rows_stay(phi: Any, threshold: float) -> None:
    """Eqs. 3-4 are one-way, whatever the logits say later; also where phi underflows to 0."""
    confidence = torch.eye(5)
    for logits in (torch.randn(5, 5), -100 * torch.eye(5), 1e4 * torch.randn(5, 5)):
        assert torch.equal(revise(confidence, logits, threshold, phi), confidence)


def test_empty_set_stays_empty() -> None:
    assert revise(torch.zeros(1, 4), torch.randn(1, 4), 0.0, "centred").tolist() == [[0.0] * 4]


@pytest.mark.parametrize(("phi", "moves"), [("centred", False), ("softmax", False), ("sigmoid", True)])
def test_a_constant_on_all_logits(phi: Any, moves: bool) -> None:
    """Eq. 1 does not see it, the printed Eq. 3 does: image 0 is revised without and not with it."""
    confidence, logits = torch.tensor(START[:1]), torch.tensor(LOGITS[:1])
    threshold = 0.1
    assert revise(confidence, logits, threshold, phi).max() == 1
    assert (revise(confidence, logits + 5, threshold, phi).max() < 1) == moves


def test_warm_up_epochs(on_table: Any, encode: Any) -> None:
    method = on_table("pll_fer", decoder=False, threshold=0.1, warmup_epochs=2)
    images = encode([[0.0]] * 4, LOGITS)
    for epoch in (0, 1):
        method.step(labelled(images), None, at(epoch))
        assert method.confidence.tolist() == START
    method.step(labelled(images), None, at(2))
    assert method.confidence.tolist() != START


def test_only_rows_of_the_batch_change_and_the_first_of_two_counts(on_table: Any, encode: Any) -> None:
    method = on_table("pll_fer", decoder=False, threshold=0.1, warmup_epochs=0)
    sure, other_way = [5.0, -5.0, 0, 0, 0], [-5.0, 5.0, 0, 0, 0]
    images = encode([[0.0]] * 3, [sure, other_way, sure])
    method.step(labelled(images, [3, 0, 0]), None, at(0))
    assert method.confidence[3].tolist() == [1, 0, 0, 0, 0]
    assert method.confidence[0].tolist() == [0, 1, 0, 0, 0]
    assert method.confidence[1:3].tolist() == START[1:3]


def test_no_gradient_through_phi(on_table: Any, encode: Any) -> None:
    """The gradient is the cross-entropy's with the revised target held fixed: (softmax - C) / B."""
    method = on_table("pll_fer", decoder=False, threshold=0.1, warmup_epochs=0, phi="sigmoid")
    images = encode([[0.0]] * 4, LOGITS)
    loss: Any = method.step(labelled(images), None, at(0)).losses["pll"]
    loss.backward()
    target = torch.tensor(loops_revise(START, LOGITS, 0.1, "sigmoid"))
    expected = (torch.tensor(LOGITS).softmax(dim=1) - target) / 4
    assert images.grad is not None
    torch.testing.assert_close(images.grad[:, 2:], expected.float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("tau", "printed", "others"),
    [(0.1, (10.00000888, 10.00000061), (-2.666832243, -4.306852819)),
     (0.01, (100, 100), (-27.24264826, -49.30685282)), (0.001, (1000, 1000), (-272.4264827, -499.3068528))],
)  # fmt: skip
def test_eq2_worked_numbers(tau: float, printed: tuple[float, float], others: tuple[float, float]) -> None:
    for queries, whole, apart in zip((GENERIC, SIMPLEX), printed, others, strict=True):
        t = torch.tensor(queries)
        assert uniformity(t, tau, with_self=True).item() == near(whole)
        assert uniformity(t, tau, with_self=False).item() == near(apart)


def test_eq2_at_tau_1_and_in_closed_form() -> None:
    assert uniformity(torch.tensor(GENERIC), 1.0, with_self=True).item() == near(1.38554607)
    for k, tau in ((3, 1.0), (8, 0.3), (5, 0.7)):
        spread = uniform_positions(k, 16)
        closed = 1 / tau + math.log1p((k - 1) * math.exp(-k / ((k - 1) * tau)))
        assert uniformity(spread, tau, with_self=True).item() == near(closed)


@pytest.mark.parametrize("with_self", [True, False])
def test_eq2_against_loops(with_self: bool) -> None:
    t = np.random.default_rng(1).normal(size=(6, 9))
    unit = [row / math.sqrt(sum(x * x for x in row)) for row in t]
    total = 0.0
    for i in range(6):
        terms = [math.exp(float(unit[i] @ unit[j]) / 0.4) for j in range(6) if with_self or j != i]
        total += math.log(sum(terms)) / 6
    assert uniformity(torch.tensor(t), 0.4, with_self=with_self).item() == near(total)


def test_eq2_as_printed_does_nothing_at_the_papers_temperature() -> None:
    """At tau = 0.001 its gradient is zero up to rounding, without the own term it is not."""
    for with_self, moves in ((True, False), (False, True)):
        t = torch.tensor(GENERIC, requires_grad=True)
        loss: Any = uniformity(t, 0.001, with_self=with_self)
        loss.backward()
        assert t.grad is not None
        assert t.grad.abs().max() > 1 if moves else t.grad.abs().max() < 1e-4, with_self


@pytest.mark.parametrize(("k", "width"), [(2, 2), (3, 7), (7, 128), (8, 8)])
def test_uniform_positions_are_a_simplex(k: int, width: int) -> None:
    torch.manual_seed(k)
    t = uniform_positions(k, width)
    wanted = torch.full((k, k), -1 / (k - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(t @ t.T, wanted, rtol=1e-5, atol=1e-5)


def test_uniform_positions_minimise_eq2() -> None:
    """No random start, followed downhill, gets below them."""
    torch.manual_seed(0)
    best = uniformity(uniform_positions(4, 6), 0.5, with_self=False)
    for _ in range(3):
        t = torch.randn(4, 6, requires_grad=True)
        optimizer = torch.optim.Adam([t], lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss: Any = uniformity(t, 0.5, with_self=False)
            loss.backward()
            optimizer.step()
        assert loss.item() >= best.item() - 1e-5
    assert loss.item() == pytest.approx(best.item(), abs=1e-3)


@pytest.mark.parametrize("tau", [0.001, 0.005, 0.01])
def test_table_9_the_start_is_a_minimum_for_every_tau(tau: float) -> None:
    """Without the own term there is no push at the simplex, and a strong one between random queries."""
    torch.manual_seed(0)
    pushes = []
    for start in (uniform_positions(8, 768), F.normalize(torch.randn(8, 768), dim=1)):
        queries = start.requires_grad_()
        loss: Any = uniformity(queries, tau, with_self=False)
        loss.backward()
        assert queries.grad is not None
        pushes.append(queries.grad.norm().item())
    assert pushes[0] < 0.01 < 1 < pushes[1]


def test_decoder_gives_a_logit_per_query() -> None:
    """Each query's logit comes from its own position: permuting queries and weights together permutes the logits."""
    torch.manual_seed(0)
    decoder = QueryDecoder(5, 8, blocks=2, dropout=0.1, spread=True).eval()
    tokens = torch.randn(3, 9, 8)
    logits = decoder(tokens)
    assert logits.shape == (3, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        for part in (decoder.queries, decoder.weight, decoder.bias):
            part.copy_(part[order])
    torch.testing.assert_close(decoder(tokens), logits[:, order])


def test_decoder_reads_tokens_as_a_set() -> None:
    torch.manual_seed(0)
    decoder = QueryDecoder(4, 8, blocks=1, dropout=0.0, spread=False).eval()
    tokens = torch.randn(2, 6, 8)
    torch.testing.assert_close(decoder(tokens.flip(1)), decoder(tokens), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(decoder(tokens + 1.0 * (torch.arange(6) == 2).view(1, 6, 1)), decoder(tokens))


@pytest.mark.parametrize("switches", [{"decoder": True}, {"decoder": True, "revision": True}, {"uniform_weight": 0.0}])
def test_queries_and_encoder_get_gradient(switches: dict[str, object], network: Any) -> None:
    torch.manual_seed(0)
    sets = torch.ones(6, 4).tolist()
    method = make("pll_fer", network(), sets, warmup_epochs=0, **switches)
    result = method.step(labelled(torch.randn(6, 3, 7, 7)), None, at(0))
    assert set(result.losses) == ({"pll"} if switches.get("uniform_weight") == 0.0 else {"pll", "uniform"})
    total: Any = torch.stack(list(result.losses.values())).sum()
    total.backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("model.head"), name


def test_switched_off_it_is_pll(network: Any) -> None:
    losses = []
    for name, options in (("pll", {}), ("pll_fer", {"decoder": False, "revision": False, "uniform_weight": 0.0})):
        torch.manual_seed(0)
        method = make(name, network(), [[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]], **options)
        generator = torch.Generator().manual_seed(1)
        losses.append(method.step(labelled(torch.randn(3, 3, 7, 7, generator=generator)), None, at(9)).losses)
    assert losses[0] == losses[1]


def test_one_candidate_is_cross_entropy(network: Any) -> None:
    torch.manual_seed(0)
    model = network(dropout=0.0)
    labels = torch.tensor([2, 0, 3, 3, 1])
    method = make("pll", model, torch.eye(4)[labels].tolist())
    images = torch.randn(5, 3, 7, 7)
    ours = method.step(labelled(images), None, at(0)).losses["pll"]
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(model(images).logits, labels))


@pytest.mark.parametrize(
    ("option", "words"), [({"threshold": 1.0}, "threshold"), ({"tau": 0.0}, "tau"), ({"phi": "tanh"}, "phi")]
)
def test_impossible_options(option: dict[str, object], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        option_values("pll_fer", "paper", option)
