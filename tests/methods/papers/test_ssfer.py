"""SSFER's equations: FaceMix (6-14), the EMA teacher (1-5), against the worked numbers and slow loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.methods import Facts, Labelled, Prediction, Progress, StepResult, Unlabelled, build, option_values
from ferbench.methods.blocks import facemix
from ferbench.methods.papers.ssfer import SSFER

# Worked numbers: batch 4, K = 3, lambda = 0.3, pairs (0, 3) and (1, 2); made from the equations in float64 elsewhere.
LABELS = [0, 1, 2, 1]
MIXED = [[1.5, 0.8, -0.2], [0.1, 1.0, 0.9], [0.0, 1.2, 0.7], [0.6, 1.1, -0.4]]
UNMIXED = [[2.0, 0.1, -0.5], [0.2, 1.6, 0.4], [-0.1, 0.6, 1.4], [0.3, 1.9, 0.0]]
BOXES = [[20, 30, 200, 210], [40, 40, 190, 220], [25, 25, 220, 220], [60, 50, 215, 205]]
LOSSES = {  # (rule, smoothing) -> loss
    ("L4", 0.0): 1.150012043, ("L4", 0.1): 1.182678709, ("L1", 0.0): 1.339374211, ("L1", 0.1): 1.361235473,
    ("L2", 0.0): 1.413451864, ("L2", 0.1): 1.446118531, ("L3", 0.0): 1.037860919, ("L3", 0.1): 1.048666323,
}  # fmt: skip
AS_RELEASED = 1.447335749


class Scripted(nn.Module):
    """Answers each forward pass with the next of the given logits, as leaves; remembers what it was shown."""

    feature_width, num_classes = 2, 3

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = [torch.tensor(rows, dtype=torch.float64, requires_grad=True) for rows in answers]
        self.seen: list[Tensor] = []
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Prediction:
        logits = self.answers[len(self.seen)]
        self.seen.append(images)
        return Prediction(images, images, logits)


def make(model: nn.Module, variant: str = "paper", **options: object) -> SSFER:
    method = build("ssfer", model, option_values("ssfer", variant, options))  # type: ignore[arg-type]
    assert isinstance(method, SSFER)
    return method


def labelled(images: Tensor, labels: Any = LABELS, boxes: Any = BOXES) -> Labelled:
    given = None if boxes is None else {"weak": torch.tensor(boxes, dtype=torch.float64)}
    return Labelled({"weak": images}, torch.tensor(labels), torch.arange(len(labels)), given)


def total(result: StepResult) -> Tensor:
    return torch.stack(list(result.losses.values())).sum()


def step(method: SSFER, batch: Labelled, unlabelled: Unlabelled | None = None) -> StepResult:
    return method.step(batch, unlabelled, Progress(torch.zeros(()), 0))


@pytest.fixture
def ratio(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(facemix, "draw_ratio", lambda beta, device: torch.tensor(0.3, dtype=torch.float64))
    return 0.3


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-entropies in float64, so that nine digits can be compared."""
    from ferbench.methods.papers import ssfer

    monkeypatch.setattr(
        ssfer, "cross_entropy", lambda logits, target: nn.functional.cross_entropy(logits, target, reduction="none")
    )
    smoothed = facemix.smoothed
    monkeypatch.setattr(
        facemix, "smoothed", lambda labels, classes, eps: (
            smoothed(labels, classes, 0.0).double() * (1 - eps) + eps / classes
        ),
    )  # fmt: skip


def softmax(logits: Any) -> Any:
    e = np.exp(np.asarray(logits) - np.max(logits, axis=1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def iou_by_loops(a: Any, b: Any) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 1.0


def facemix_by_loops(mixed: Any, own: Any, labels: Any, boxes: Any, lam: float, rule: str, smoothing: float) -> float:
    """Eqs. 6-13, one sample at a time; `own` are the logits that L_i and L_j are taken on."""
    n, classes = np.shape(mixed)
    log_mixed, log_own = np.log(softmax(mixed)), np.log(softmax(own))
    loss = 0.0
    for i in range(n):
        j = n - 1 - i
        virtual = 0.0
        for k in range(classes):
            y_i, y_j = ((1 - smoothing) * (labels[m] == k) + smoothing / classes for m in (i, j))
            virtual -= (lam * y_i + (1 - lam) * y_j) * log_mixed[i, k]
        real = -log_own[i, labels[i]] - log_own[j, labels[j]]
        kappa = 1 - iou_by_loops(boxes[i], boxes[j])
        loss += {
            "L4": virtual + kappa * real,
            "L1": (1 - kappa) * virtual + real,
            "L2": virtual + (1 - kappa) * real,
            "L3": kappa * virtual + real,
        }[rule]
    return loss / n


@pytest.mark.parametrize(("rule", "smoothing"), LOSSES)
def test_equations_10_to_13_worked_numbers(ratio: float, rule: str, smoothing: float) -> None:
    model = Scripted(MIXED, UNMIXED)
    method = make(model, mix="facemix", teacher=False, mix_loss=rule, smoothing=smoothing)
    loss = total(step(method, labelled(torch.randn(4, 3, 8, 8))))
    assert loss.item() == pytest.approx(LOSSES[rule, smoothing], abs=2e-9)


def test_released_takes_the_real_losses_on_the_mixed_image(ratio: float) -> None:
    model = Scripted(MIXED)
    method = make(model, "released", mix="facemix", teacher=False)
    boxes = [BOXES[0], BOXES[1], [25, 25, 220, 220], BOXES[3]]
    assert total(step(method, labelled(torch.randn(4, 3, 8, 8), boxes=boxes))).item() == pytest.approx(
        AS_RELEASED, abs=2e-9
    )
    assert len(model.seen) == 1


def test_equation_8_worked_overlaps_and_edge_cases() -> None:
    boxes = torch.tensor(BOXES, dtype=torch.float64)
    expected = [0.6249100072, 0.7100591716, 0.7100591716, 0.6249100072]
    assert facemix.iou(boxes, boxes.flip(0)).tolist() == pytest.approx(expected, abs=1e-10)
    first = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [2, 2, 2, 2], [2, 2, 2, 2], [0, 0, 4, 4]])
    second = torch.tensor([[4.0, 0, 8, 4], [5, 5, 8, 8], [0, 0, 4, 4], [2, 2, 2, 2], [0, 0, 4, 4]])
    assert facemix.iou(first, second).tolist() == [0, 0, 0, 1, 1]  # touching, apart, empty in full, both empty, equal


@pytest.mark.parametrize("rule", ["L1", "L2", "L3", "L4"])
@pytest.mark.parametrize("size", [2, 5, 8])
@pytest.mark.parametrize("unmixed", ["clean", "mixed"])
def test_equations_6_to_13_by_loops(rule: str, size: int, unmixed: str, ratio: float) -> None:
    """Values and gradients; with an odd batch the middle image is its own partner (kappa 0)."""
    rng = np.random.default_rng(size)
    mixed, own = rng.normal(size=(2, size, 3))
    labels = rng.integers(0, 3, size).tolist()
    corner, extent = rng.uniform(0, 20, (size, 2)), rng.uniform(1, 25, (size, 2))
    boxes = np.concatenate([corner, corner + extent], axis=1).tolist()
    model = Scripted(mixed.tolist(), own.tolist())
    method = make(model, mix="facemix", teacher=False, mix_loss=rule, smoothing=0.1, unmixed=unmixed)
    loss = total(step(method, labelled(torch.randn(size, 3, 4, 4), labels, boxes)))

    def expected(values: Any, which: int) -> float:
        pair = [mixed, own]
        pair[which] = values
        return facemix_by_loops(pair[0], pair[1] if unmixed == "clean" else pair[0], labels, boxes, ratio, rule, 0.1)

    assert loss.item() == pytest.approx(expected(mixed, 0), abs=1e-12)
    loss.backward()  # type: ignore[no-untyped-call]
    for which, values in enumerate((mixed, own) if unmixed == "clean" else (mixed,)):
        gradient = model.answers[which].grad
        assert gradient is not None
        for i, k in ((0, 0), (size - 1, 2), (size // 2, 1)):
            moved = [values.copy(), values.copy()]
            moved[0][i, k] += 1e-6
            moved[1][i, k] -= 1e-6
            slope = (expected(moved[0], which) - expected(moved[1], which)) / 2e-6
            assert gradient[i, k].item() == pytest.approx(slope, abs=1e-6)


def test_equation_6_images_are_mixed_and_the_originals_stay(ratio: float) -> None:
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    before = images.clone()
    model = Scripted(MIXED, UNMIXED)
    step(make(model, mix="facemix", teacher=False), labelled(images))
    for i in range(4):
        torch.testing.assert_close(model.seen[0][i], 0.3 * before[i] + 0.7 * before[3 - i])
    assert torch.equal(model.seen[1], before) and torch.equal(images, before)


def test_without_boxes_facemix_is_mixup(ratio: float) -> None:
    images = torch.randn(4, 3, 5, 5)
    of_facemix = step(make(Scripted(MIXED, UNMIXED), mix="facemix", teacher=False), labelled(images, boxes=None))
    of_mixup = step(make(Scripted(MIXED), mix="mixup", teacher=False), labelled(images, boxes=None))
    assert total(of_facemix).item() == pytest.approx(total(of_mixup).item(), abs=1e-12)
    assert of_facemix.losses["unmixed"].item() == 0


def test_the_ratio_is_drawn_from_beta() -> None:
    torch.manual_seed(0)
    for beta in (1.0, 0.4, 3.0):
        drawn = torch.stack([facemix.draw_ratio(beta, torch.device("cpu")) for _ in range(4000)]).double()
        assert 0 <= drawn.min() and drawn.max() <= 1
        assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
        assert drawn.var().item() == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.08)


def test_kappa_from_psnr_by_loops(ratio: float) -> None:
    pixels = torch.rand(4, 3, 6, 6, dtype=torch.float64)
    pixels[2] = pixels[1]  # an infinite ratio
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    method = make(Scripted(MIXED, UNMIXED), mix="facemix", teacher=False, kappa="psnr").double()
    index = torch.arange(4)
    method.begin(Facts(4, index, index, index, 1, 1, mean=mean, std=std))
    errors = [((pixels[i] - pixels[3 - i]) ** 2).mean().item() for i in range(4)]
    kappa = [1 - min(1.0, -10 * np.log10(error) / 50) if error else 0.0 for error in errors]
    torch.testing.assert_close(method._kappa(labelled(normalised)), torch.tensor(kappa), atol=1e-5, rtol=0)


def test_piq_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from ferbench.methods import MethodError

    monkeypatch.setitem(sys.modules, "piq", None)
    assert option_values("ssfer", "paper", {"mix": "facemix", "kappa": "ssim"})["kappa"] == "ssim"
    with pytest.raises(MethodError, match=r"need piq: pip install 'ferbench\[quality\]'"):
        make(Scripted(MIXED), mix="facemix", teacher=False, kappa="ssim")


@pytest.mark.parametrize("measure", ["ssim", "fsim"])
def test_kappa_from_image_quality(measure: Any) -> None:
    piq = pytest.importorskip("piq")
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    kappa = facemix.distance(images, measure)
    for i in range(5):
        value = getattr(piq, measure)(images[i : i + 1], images[4 - i : 5 - i], data_range=1.0)
        assert kappa[i].item() == pytest.approx(1 - value.item(), abs=1e-5)


TEACHER = [[3.0, 0.2, 0.1], [0.9, 1.0, 0.4], [0.1, 2.4, 0.3], [0.5, 0.2, 1.3]]
STRONG = [[1.8, 0.4, 0.2], [0.6, 0.7, 0.5], [0.3, 1.1, 0.2], [0.4, 0.1, 0.8]]
SEEN = [[1.0, 0.2, -0.3], [0.0, 0.9, 0.3]]


def taught(**options: object) -> tuple[SSFER, Scripted, StepResult]:
    model = Scripted(SEEN, STRONG)
    method = make(model, **options)
    assert method.teacher is not None
    method.teacher.model = Scripted(TEACHER)
    images = torch.randn(4, 3, 4, 4)
    batch = Unlabelled({"weak": images, "strong": images}, torch.arange(4))
    return method, model, step(method, labelled(torch.randn(2, 3, 4, 4), [0, 1]), batch)


def test_equations_2_to_5_worked_numbers() -> None:
    _, model, result = taught()
    assert result.losses["supervised"].item() == pytest.approx(0.6069953761, abs=2e-10)
    assert result.losses["unsupervised"].item() == pytest.approx(5 * 0.2472232626, abs=2e-9)
    assert total(result).item() == pytest.approx(1.843111689, abs=2e-9)
    assert result.pseudo is not None
    assert result.pseudo.keep.tolist() == [True, False, True, False]
    expected = [0.8961912281, 0.407556247, 0.8178518932, 0.5611042381]
    assert result.pseudo.confidence.tolist() == pytest.approx(expected, abs=1e-6)
    total(result).backward()  # type: ignore[no-untyped-call]
    gradient = model.answers[1].grad
    assert gradient is not None and not gradient[1].any() and gradient[0].any()


def test_equation_4_the_gate_is_strict_in_the_paper_and_not_in_the_code() -> None:
    """At a threshold that one of the confidences equals."""
    _, _, result = taught()
    assert result.pseudo is not None
    exact = result.pseudo.confidence[2].item()
    for inclusive in (False, True):
        _, _, result = taught(threshold=exact, inclusive=inclusive)
        assert result.pseudo is not None
        assert result.pseudo.keep.tolist() == [True, False, inclusive, False]
    assert option_values("ssfer", "released", {})["inclusive"] is True


def test_equation_4_nothing_kept() -> None:
    _, model, result = taught(threshold=0.99)
    assert result.losses["unsupervised"].item() == 0
    total(result).backward()  # type: ignore[no-untyped-call]
    assert model.answers[1].grad is None or not model.answers[1].grad.any()


def test_equation_1_the_teacher_follows_the_student(network: Any) -> None:
    """theta_t = 0.5, theta_s = 1, m = 0.999: 0.5005 after one step; statistics move likewise, and no gradient."""
    method = make(network(), decay=0.999).train()
    assert method.teacher is not None and not method.teacher.model.training
    for parameter in method.teacher.parameters():
        parameter.data.fill_(0.5)
    for parameter in method.model.parameters():
        parameter.data.fill_(1.0)
    batch = labelled(torch.randn(4, 3, 7, 7), boxes=None)
    images = torch.randn(6, 3, 7, 7)
    unlabelled = Unlabelled({"weak": images, "strong": images}, torch.arange(6))
    total(step(method, batch, unlabelled)).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    method.after_step(batch, unlabelled)
    for parameter in method.teacher.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 0.5005), rtol=0, atol=1e-7)
    expected = 0.001 * method.model.norm.running_mean
    torch.testing.assert_close(method.teacher.model.norm.running_mean, expected)
    assert make(network(), statistics="batch").train().teacher.model.training


def test_the_teacher_is_tested_and_the_student_beside_it(network: Any) -> None:
    method = make(network(dropout=0.0)).eval()
    assert method.teacher is not None
    for parameter in method.model.parameters():
        parameter.data.mul_(-1)
    images = torch.randn(5, 3, 7, 7)
    scores = method.predict_all(images)
    assert list(scores) == ["teacher", "student"]
    torch.testing.assert_close(scores["teacher"], method.teacher(images).logits.softmax(1))
    torch.testing.assert_close(scores["student"], method.model(images).logits.softmax(1))
    assert not torch.equal(scores["teacher"], scores["student"])
    assert list(make(network(), teacher=False).eval().predict_all(images)) == ["student"]


def test_views_are_those_of_the_stage() -> None:
    assert make(Scripted(), mix="facemix", teacher=False).views.unlabelled == ()
    assert make(Scripted()).views.unlabelled == ("weak", "strong")
    assert make(Scripted(), mix="facemix", teacher=False).takes_boxes
    assert not make(Scripted(), mix="facemix", kappa="psnr", teacher=False).takes_boxes
