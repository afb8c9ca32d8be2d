"""Methods that ask for the same prediction twice: Pi-model, Mean Teacher, VAT; Pseudo-Label and Progressive Teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.methods import Labelled, Prediction, Progress, Unlabelled, build, option_values
from ferbench.methods.faces.progressive_teacher import mean_of_smallest
from ferbench.methods.general.vat import divergence, entropy, unit


@pytest.mark.parametrize("name", ["pi_model", "mean_teacher", "progressive_teacher"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.9])
def test_squared_error_of_the_second_view(
    name: str, fraction: float, begun: Any, stepped: Any, slow: Any, reached: Any
) -> None:
    """A Table's teacher is the Table, so all three compare the first view's probabilities with the second's."""
    rng = slow.random
    known, first, second, labels = (
        rng.normal(size=(4, 5)),
        rng.normal(0, 2, (6, 5)),
        rng.normal(0, 2, (6, 5)),
        [0, 4, 2, 1],
    )
    method = begun(name, 5)
    result, leaves = stepped(
        method, labels, {"weak": known}, {"weak": first, "weak2": second}, fraction=fraction, epoch=0
    )
    weight = (10 if name == "pi_model" else 50) * min(fraction / 0.4, 1)
    error = sum((slow.softmax(second) - slow.softmax(first)).flatten() ** 2) / (6 * 5)
    assert result.losses["unsupervised"].item() == pytest.approx(weight * error, rel=1e-5)
    assert result.losses["supervised"].item() == pytest.approx(slow.cross_entropy(known, labels).mean(), rel=1e-5)
    assert reached(result.losses["unsupervised"], leaves) == ({"unlabelled weak2"} if fraction else set())
    assert result.pseudo.label.tolist() == first.argmax(1).tolist()


def test_usb_mean_teacher_is_supervised(begun: Any, stepped: Any, slow: Any) -> None:
    views = {"weak": slow.random.normal(size=(3, 4)), "weak2": slow.random.normal(size=(3, 4))}
    result, _ = stepped(begun("mean_teacher", 4, variant="usb"), [1], {"weak": [[0.0] * 4]}, views)
    assert result.losses["unsupervised"] == 0


def test_mean_teacher_follows_after_the_step(network: Any, random_batch: Any) -> None:
    torch.manual_seed(0)
    method: Any = build("mean_teacher", network(), option_values("mean_teacher", "paper", {"decay": 0.9})).train()
    labelled, unlabelled, _ = batch = random_batch(method)
    before = method.teacher.model.conv.weight.clone()
    torch.stack(list(method.step(*batch).losses.values())).sum().backward()
    with torch.no_grad():
        method.model.conv.weight.sub_(method.model.conv.weight.grad)
    assert torch.equal(method.teacher.model.conv.weight, before)
    method.after_step(labelled, unlabelled)
    torch.testing.assert_close(method.teacher.model.conv.weight, 0.9 * before + 0.1 * method.model.conv.weight)


@pytest.mark.parametrize("name", ["pi_model", "mean_teacher", "pseudo_label", "vat", "progressive_teacher"])
def test_only_the_labelled_pass_moves_batch_statistics(name: str, network: Any, random_batch: Any) -> None:
    torch.manual_seed(0)
    model = network(dropout=0.0)
    method: Any = build(name, model, option_values(name, "paper", {})).train()
    labelled, unlabelled, progress = random_batch(method)
    method.step(labelled, unlabelled, progress)
    with torch.no_grad():
        mean = model.conv(labelled.views["weak"]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(model.norm.running_mean, 0.1 * mean)


@pytest.mark.parametrize(
    ("variant", "threshold", "weight"), [("paper", 0.0, 3 * 0.3), ("usb", 0.95, 0.25 / 0.4)], ids=["paper", "usb"]
)
def test_pseudo_label(
    variant: Any, threshold: float, weight: float, begun: Any, stepped: Any, slow: Any, reached: Any
) -> None:
    """At a quarter of training, half way from 0.1 to 0.6 less a bit, or past half of 0.4; gradient to the weak view."""
    known, weak = slow.random.normal(size=(3, 4)), slow.random.normal(0, 4, (9, 4))
    result, leaves = stepped(begun("pseudo_label", 4, variant=variant), [0, 1, 3], {"weak": known}, {"weak": weak})
    keep = slow.softmax(weak).max(1) >= threshold
    assert keep.sum() > 0 and result.pseudo.keep.tolist() == keep.tolist()
    expected = weight * (slow.cross_entropy(weak, weak.argmax(1)) * keep).mean()
    assert result.losses["unsupervised"].item() == pytest.approx(expected, rel=1e-4)
    assert reached(result.losses["unsupervised"], leaves) == {"unlabelled weak"}


class Linear(nn.Module):
    """Logits are W times the pixels."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.feature_width, self.num_classes = 2, len(weight)
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Prediction:
        logits = images.flatten(1) @ self.weight.T
        return Prediction(logits[:, :2], logits[:, :2], logits)


@pytest.mark.parametrize("epsilon_at", [0, 4, 32])
def test_vat_perturbation_of_a_linear_model(epsilon_at: int) -> None:
    """The gradient at xi d is xi W' (diag p - p p') W d to first order; r has its direction, length epsilon S / at."""
    torch.manual_seed(0)
    weight, images = 0.1 * torch.randn(3, 48), torch.randn(5, 3, 4, 4)
    options = {"epsilon": 0.5, "xi": 1e-3, "epsilon_at": epsilon_at}
    method: Any = build("vat", Linear(weight), option_values("vat", "paper", options))  # type: ignore[arg-type]
    p = (images.flatten(1) @ weight.T).softmax(1)
    torch.manual_seed(1)
    r = method.perturbation(images, p).flatten(1)
    torch.manual_seed(1)
    d = unit(torch.randn_like(images)).flatten(1).double()
    for row, q, direction in zip(r, p.double(), d, strict=True):
        expected = weight.double().T @ (torch.diag(q) - torch.outer(q, q)) @ weight.double() @ direction
        assert torch.cosine_similarity(row.double(), expected, dim=0) > 0.999
    length = 0.5 * (4 / epsilon_at if epsilon_at else 1)
    torch.testing.assert_close(r.norm(dim=1), torch.full((5,), length), rtol=1e-4, atol=0)
    assert not r.requires_grad and method.model.weight.grad is None


def test_vat_losses() -> None:
    """KL against the moved images, the entropy of the clean ones; no gradient through p or r."""
    torch.manual_seed(0)
    weight, known, images = torch.randn(3, 48), torch.randn(2, 3, 4, 4), torch.randn(5, 3, 4, 4)
    values = option_values("vat", "paper", {"xi": 1e-3, "epsilon_at": 0, "epsilon": 2.0})
    method: Any = build("vat", Linear(weight), values)  # type: ignore[arg-type]
    torch.manual_seed(1)
    result = method.step(
        Labelled({"weak": known}, torch.tensor([0, 2]), torch.arange(2)),
        Unlabelled({"weak": images}, torch.arange(5)), Progress(torch.tensor(0.1), 0),
    )  # fmt: skip
    p = (images.flatten(1) @ weight.T).softmax(1)
    torch.manual_seed(1)
    moved = ((images + method.perturbation(images, p)).flatten(1) @ weight.T).softmax(1)
    kl = (p * (p / moved).log()).sum(1).mean()
    assert result.losses["unsupervised"].item() == pytest.approx(0.3 * 0.25 * kl.item(), rel=1e-3)
    assert result.losses["entropy"].item() == pytest.approx(-0.06 * (p * p.log()).sum(1).mean().item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(result.losses["unsupervised"], method.model.weight)
    expected = 0.075 * ((moved - p).T @ (images + _r(method, images, p)).flatten(1)) / 5
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


def _r(method: Any, images: Tensor, p: Tensor) -> Any:
    torch.manual_seed(1)
    return method.perturbation(images, p)


def test_unit_of_tiny_and_zero_rows() -> None:
    rows = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3e20, -4e20]])
    torch.testing.assert_close(unit(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]]))


def test_divergence_and_entropy(slow: Any) -> None:
    logits, p = slow.random.normal(size=(4, 3)), slow.random.dirichlet([1] * 3, 4)
    p[0] = [1, 0, 0]
    q, leaf = slow.softmax(logits), torch.tensor(logits, dtype=torch.float32)
    kl = [sum(a * np.log(a / b) for a, b in zip(*rows, strict=True) if a > 0) for rows in zip(p, q, strict=True)]
    np.testing.assert_allclose(divergence(torch.tensor(p, dtype=torch.float32), leaf), kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(entropy(leaf), -(q * np.log(q)).sum(1), rtol=1e-5)


@pytest.mark.parametrize(("epoch", "kept"), [(0, 10), (5, 9), (10, 8), (40, 8)])
def test_progressive_teacher_leaves_out_the_largest_teacher_losses(
    epoch: int, kept: int, begun: Any, stepped: Any, slow: Any
) -> None:
    """R falls from 1 to 0.8 over ten epochs; a Table's teacher has the student's losses."""
    known, labels, other = slow.random.normal(0, 2, (10, 4)), slow.random.integers(0, 4, 10), np.zeros((2, 4))
    method = begun("progressive_teacher", 4, forget=0.2)
    result, _ = stepped(method, labels, {"weak": known}, {"weak": other, "weak2": other}, epoch=epoch)
    losses = np.sort(slow.cross_entropy(known, labels))[:kept]
    assert result.losses["supervised"].item() == pytest.approx(losses.mean(), rel=1e-5)


def test_mean_of_smallest_goes_by_the_judge_and_takes_one_at_least() -> None:
    loss, judged = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 1.0, 1.0])
    assert mean_of_smallest(loss, judged, 2 / 3).item() == 3
    assert mean_of_smallest(loss, judged, 0.0).item() == 2  # the first of ties
