"""The building blocks of the baselines: statistics, targets, schedules, memories, heads, teacher, modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.utils import ModelEma
from torch import nn

from ferbench.methods import Facts
from ferbench.methods.blocks.heads import Projection
from ferbench.methods.blocks.memory import IndexedBank, RingQueue, latest
from ferbench.methods.blocks.mixer import chunked, mixup
from ferbench.methods.blocks.modes import kept_statistics, no_dropout
from ferbench.methods.blocks.prototypes import Prototypes
from ferbench.methods.blocks.schedules import exponential, half_cosine, linear, logarithmic
from ferbench.methods.blocks.statistics import Running, Window, class_counts
from ferbench.methods.blocks.targets import align, gated, hardened, sharpen, uniform
from ferbench.methods.blocks.teacher import EmaTeacher


def near(values: Any, rel: float = 1e-5) -> Any:
    return pytest.approx(values, rel=rel, abs=1e-7)


FIRST = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.2, 0.3]])
SECOND = torch.tensor([[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])


def test_alignment_by_a_running_mean() -> None:
    """The first batch is taken whole, the second enters with 1 - momentum, each before it is aligned."""
    marginal = Running(uniform(3), 0.9, first=True)
    marginal.update(FIRST.mean(0))
    assert marginal.value.tolist() == near([0.55, 0.25, 0.2])
    aligned = align(FIRST, marginal.value, uniform(3))
    assert aligned.flatten().tolist() == near([0.39088007, 0.42996714, 0.17915279, 0.28328669, 0.24929175, 0.46742156])
    marginal.update(SECOND.mean(0))
    assert marginal.value.tolist() == near([0.51, 0.265, 0.225])
    aligned = align(SECOND, marginal.value, uniform(3))
    assert aligned.flatten().tolist() == near(
        [0.11275016, 0.75946665, 0.12778319, 0.047488312, 0.091392435, 0.86111925]
    )


def test_alignment_by_a_window() -> None:
    """Rows never written do not count."""
    marginal = Window(3, 3)
    for batch in (FIRST, SECOND):
        marginal.update(batch.mean(0))
    aligned = align(SECOND, marginal.value, uniform(3))
    assert aligned.flatten().tolist() == near([0.1884058, 0.71014493, 0.10144928, 0.09352518, 0.10071942, 0.8057554])


def test_alignment_to_labelled_proportions_then_sharpening() -> None:
    aligned = align(FIRST, FIRST.mean(0), torch.tensor([0.5, 0.4, 0.1]))
    assert aligned[0].tolist() == near([0.50718539, 0.44632239, 0.046492218])
    assert sharpen(aligned, 0.5)[1].tolist() == near([0.62324114, 0.30888724, 0.067871614])


@pytest.mark.parametrize("start", [None, 0.25])
def test_window_is_the_mean_of_the_last_batches(start: float | None) -> None:
    window, seen = Window(4, 2, start=start), [] if start is None else [np.full(2, start)] * 4
    assert window.value.tolist() == near(np.zeros(2) if start is None else np.full(2, start))
    for row in np.random.default_rng(0).random((11, 2)):
        window.update(torch.tensor(row, dtype=torch.float32))
        seen = [*seen, row][-4:]
        assert window.value.tolist() == near(np.mean(seen, axis=0))


@pytest.mark.parametrize("first", [True, False])
def test_running_mean(first: bool) -> None:
    running, value = Running(torch.tensor(0.2), 0.75, first=first), 0.2
    for i, new in enumerate((0.9, 0.5, 0.1)):
        running.update(torch.tensor(new))
        value = new if first and i == 0 else 0.75 * value + 0.25 * new
        assert running.value.item() == near(value)


def test_gate_takes_one_threshold_or_one_per_class() -> None:
    p = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.5, 0.5]])
    assert gated(p, 0.6).keep.tolist() == [True, True, False]
    assert gated(p, torch.tensor(0.5)).keep.tolist() == [True, True, True]
    assert gated(p, torch.tensor([0.5, 0.7])).keep.tolist() == [True, False, True]
    assert gated(p, 0.0).label.tolist() == [0, 1, 0]
    assert hardened(p).tolist() == [[1, 0], [0, 1], [1, 0]]


def test_schedules() -> None:
    at = torch.tensor([0.0, 0.1, 0.25, 0.4, 0.5, 0.75, 1.0])
    assert linear(at, 0.4).tolist() == near([0, 0.25, 0.625, 1, 1, 1, 1])
    assert linear(at, 0.5, 0.1).tolist() == near([0, 0, 0.375, 0.75, 1, 1, 1])
    assert linear(at, 0.0).tolist() == half_cosine(at, 0.0).tolist() == [1] * 7
    assert half_cosine(at, 0.5).tolist() == near([0, 0.095491503, 0.5, 0.9045085, 1, 1, 1])
    assert exponential(at).tolist() == near(np.exp(5 * (at.numpy() - 1)))
    assert logarithmic(at).tolist() == near(1 - np.exp(-5 * at.numpy()))


def test_ring_queue_keeps_the_last_rows() -> None:
    queue, rows = RingQueue(5, 2, 3), []
    generator = torch.Generator().manual_seed(0)
    for count in (2, 2, 3, 4, 7, 1):
        features, p = torch.rand(count, 2, generator=generator), torch.rand(count, 3, generator=generator)
        full = len(rows) >= 5
        assert queue.full.item() == full
        queue.write(features, p)
        rows += [row.tolist() for row in torch.cat([features, p], dim=1)]
        kept = torch.cat([queue.features, queue.probabilities], dim=1).tolist()
        blank = [[0.0] * 5] * max(0, 5 - len(rows))
        assert sorted(kept) == sorted(rows[-5:] + blank)


def test_indexed_bank_writes_the_row_of_each_image() -> None:
    index = torch.tensor([7, 2, 9])
    bank = IndexedBank(Facts(12, index, torch.tensor([1, 0, 1]), torch.arange(12), 1, 1), 2)
    before = bank.features.clone()
    assert torch.allclose(before.norm(dim=1), torch.ones(3))
    bank.write(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([9, 7, 9]))
    assert bank.features.tolist() == [[0, 1], before[1].tolist(), [-1, 0]]
    assert bank.labels.tolist() == [1, 0, 1]


def test_latest_of_equal_indices() -> None:
    assert latest(torch.tensor([4, 1, 4, 2, 1, 4])).tolist() == [5, 4, 5, 3, 4, 5]


def test_class_counts() -> None:
    assert class_counts(torch.tensor([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("several", [1, 3])
def test_projection(several: int) -> None:
    torch.manual_seed(0)
    head, features = Projection(4, 3, slope=0.1, several=several), torch.randn(5, 4)
    expected = 0.0
    for part in head.heads:
        first, _, second = part  # type: ignore[misc]
        hidden = first(features)
        expected = expected + second(torch.where(hidden > 0, hidden, 0.1 * hidden)) / several
    expected = expected / expected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize("mean", [True, False])
def test_prototypes_follow_image_by_image(mean: bool) -> None:
    rng, momentum = np.random.default_rng(1), 0.8
    prototypes, means, counts = Prototypes(3, 2, momentum), np.zeros((3, 2)), np.zeros(3)
    for _ in range(3):
        features, labels, used = rng.normal(size=(7, 2)), rng.integers(0, 2, 7), rng.random(7) < 0.7
        prototypes.update(
            torch.tensor(features, dtype=torch.float32), torch.tensor(labels), torch.tensor(used), mean=mean
        )
        for f, c in zip(features[used], labels[used], strict=True):
            counts[c] += 1
            share = 1 / counts[c] if mean else 1 - momentum
            means[c] = (1 - share) * means[c] + share * f
        np.testing.assert_allclose(prototypes.means, means, rtol=1e-4, atol=1e-6)


class Noisy(nn.Module):
    """Batch norm and dropout around a number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(self.dropout(self.norm(x)))


def test_kept_statistics_normalise_by_the_batch_and_leave_no_trace() -> None:
    torch.manual_seed(0)
    model, images = Noisy().train(), torch.randn(6, 2) * 3 + 1
    model.dropout.p = 0.0
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with kept_statistics(model):
        inside = model(images)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(inside, model(images))
    assert not torch.equal(model.norm.running_mean, state["norm.running_mean"])
    model.eval()
    outside = model(images)
    with kept_statistics(model):
        assert torch.equal(model(images), outside)


def test_no_dropout() -> None:
    model, images = Noisy().train(), torch.randn(50, 2)
    with no_dropout(model):
        assert torch.equal(model(images), model(images))
    assert model.dropout.training
    assert not torch.equal(model(images), model(images))


@pytest.mark.parametrize("warm_up", [False, True])
def test_teacher_is_the_average_of_its_students(warm_up: bool) -> None:
    torch.manual_seed(0)
    student = Noisy()
    teacher, average = EmaTeacher(student, 0.9, training=True, warm_up=warm_up), student.linear.weight.detach().clone()
    for t in range(3):
        with torch.no_grad():
            student.linear.weight.add_(torch.randn(2, 2))
            student.norm.running_mean.add_(1.0)  # type: ignore[union-attr]
        teacher.update(student)
        decay = min(0.9, (1 + t) / (10 + t)) if warm_up else 0.9
        average = decay * average + (1 - decay) * student.linear.weight.detach()
        torch.testing.assert_close(teacher.model.linear.weight, average)  # type: ignore[union-attr]
        assert torch.equal(teacher.model.norm.running_mean, student.norm.running_mean)  # type: ignore[union-attr,arg-type]
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(torch.randn(4, 2)).requires_grad


def test_averaged_statistics_are_timm_s(network: Any) -> None:
    """SSFER's released code averages with timm.utils.ModelEma, which averages running means and variances too."""
    torch.manual_seed(0)
    student = network().train()
    teacher, theirs = EmaTeacher(student, 0.9, statistics="averaged"), ModelEma(student, decay=0.9)
    for _ in range(20):
        with torch.no_grad():
            student(3 + 2 * torch.randn(6, 3, 7, 7))  # moves the running statistics
            for parameter in student.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        teacher.update(student)
        theirs.update(student)
    expected, images = theirs.ema.eval(), torch.randn(4, 3, 7, 7)
    for name in ("norm.running_mean", "norm.running_var", "conv.weight"):
        torch.testing.assert_close(teacher.model.state_dict()[name], expected.state_dict()[name])
    assert not torch.allclose(teacher.model.norm.running_mean, student.norm.running_mean, rtol=0.05)  # type: ignore[union-attr]
    torch.testing.assert_close(teacher(images).logits, expected(images).logits)
    assert torch.equal(teacher.model.norm.num_batches_tracked, student.norm.num_batches_tracked)  # type: ignore[union-attr]


def test_a_teacher_in_evaluation_mode_needs_statistics_of_its_own_weights(network: Any) -> None:
    with pytest.raises(ValueError, match="needs statistics='averaged'"):
        EmaTeacher(network(), 0.9)
    EmaTeacher(network(norm=False), 0.9)  # nothing to go wrong
    EmaTeacher(network(), 0.9, training=True)


@pytest.mark.parametrize("as_in_training", [False, True])
def test_teacher_keeps_its_mode(as_in_training: bool) -> None:
    outer = nn.Sequential(EmaTeacher(Noisy(), 0.9, training=as_in_training, statistics="averaged"))
    teacher: Any = outer[0]
    assert teacher.model.training is as_in_training
    outer.train()
    assert teacher.model.dropout.training is as_in_training
    outer.eval()
    assert not teacher.model.dropout.training


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_keeps_the_larger_share_and_mixes_targets_alike(per_sample: bool) -> None:
    """Image i is the number i everywhere and its target one-hot i, so a mixture shows its shares and partners."""
    count = 9
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    torch.manual_seed(0)
    mixed, targets = mixup(images, torch.eye(count), 0.75, per_sample=per_sample)
    assert torch.allclose(targets.sum(1), torch.ones(count))
    own = targets.diagonal()
    assert (own >= 0.5).all()
    shares = own[own < 1]  # those that met another image
    assert (len({round(float(share), 5) for share in shares}) > 1) == per_sample
    torch.testing.assert_close(mixed[:, 0, 0, 0], targets @ torch.arange(count).float())
    partners = [(row - torch.diag(own)[i]).argmax().item() for i, row in enumerate(targets) if own[i] < 1]
    assert len(set(partners)) == len(partners)  # a permutation


@pytest.mark.parametrize("interleave", [False, True])
@pytest.mark.parametrize("statistics", ["first", "last"])
@pytest.mark.parametrize("count", [12, 13])
def test_chunks_have_batch_statistics_of_their_own(interleave: bool, statistics: Any, count: int, network: Any) -> None:
    torch.manual_seed(0)
    model, images = network(dropout=0.0).train(), torch.randn(count, 3, 7, 7)
    pieces = -(-count // 4)
    rows = [list(range(i, count, pieces)) for i in range(pieces)]
    rows = rows if interleave else [list(range(i, min(i + 4, count))) for i in range(0, count, 4)]
    expected = torch.zeros(count, 4)
    for chosen in rows:
        with kept_statistics(model):
            expected[chosen] = model(images[chosen]).logits.detach()
    logits = chunked(model, images, 4, interleave=interleave, statistics=statistics)
    torch.testing.assert_close(logits, expected)
    assert model.norm.num_batches_tracked == 1
    moved, moving = model.norm.running_mean.clone(), rows[0 if statistics == "first" else -1]
    model.norm.running_mean.zero_()
    model(images[moving])
    torch.testing.assert_close(model.norm.running_mean, moved)
