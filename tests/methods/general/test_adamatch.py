"""AdaMatch: alignment to labelled predictions, the relative threshold, interpolated logits, the ramp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Prediction
from ferbench.methods.general.adamatch import interpolated

LABELLED = [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.95, 0.03, 0.02]]
WEAK = [[0.92, 0.05, 0.03], [0.3, 0.6, 0.1], [0.05, 0.2, 0.75], [0.05, 0.9, 0.05]]


@pytest.mark.parametrize(
    ("window", "model", "aligned"),
    [
        (128, [0.33330729, 0.33414714, 0.33254557], [0.92015157, 0.5990935, 0.7506493, 0.89964708]),
        (0, [0.33, 0.4375, 0.2325], [0.91983525, 0.50580437, 0.84114748, 0.84874392]),
    ],
    ids=["paper", "usb"],
)
def test_worked_example(window: int, model: Any, aligned: Any, begun: Any, passes_of: Any) -> None:
    method = begun("adamatch", 3, threshold=0.9, window=window, interpolate=False, labelled_strong=False)
    passes = passes_of(np.log(LABELLED), WEAK, np.zeros((4, 3)), range(4))
    method._observe(passes)
    np.testing.assert_allclose(method.labelled.value, [0.33365, 0.33327667, 0.33307333], rtol=1e-6)
    np.testing.assert_allclose(method.unlabelled.value, model, rtol=1e-6)
    assert method.thresholds().item() == pytest.approx(0.735, rel=1e-6)
    pseudo = method.pseudo_labels(passes)
    np.testing.assert_allclose(pseudo.confidence, aligned, rtol=1e-5)
    assert pseudo.keep.tolist() == [True, False, True, True]
    assert pseudo.label.tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.75])
def test_losses_over_steps(fraction: float, begun: Any, stepped: Any, slow: Any, reached: Any) -> None:
    """Without interpolation: both labelled views, the cosine ramp, window of three batches starting uniform."""
    rng, tau, momentum = slow.random, 0.8, 0.7
    method = begun("adamatch", 3, threshold=tau, momentum=momentum, window=3, interpolate=False)
    wanted, window = np.full(3, 1 / 3), [np.full(3, 1 / 3)] * 3
    for _ in range(4):
        known, known2, weak, strong = (rng.normal(0, 2, (n, 3)) for n in (4, 4, 6, 6))
        labels = rng.integers(0, 3, 4)
        result, leaves = stepped(
            method, labels, {"weak": known, "strong": known2}, {"weak": weak, "strong": strong}, fraction=fraction
        )
        p, q = slow.softmax(known), slow.softmax(weak)
        wanted = momentum * wanted + (1 - momentum) * p.mean(0)
        window = [*window, q.mean(0)][-3:]
        aligned = q * (wanted + 1e-6) / (np.mean(window, axis=0) + 1e-6)
        aligned = aligned / aligned.sum(1, keepdims=True)
        keep = aligned.max(1) >= tau * p.max(1).mean()
        ramp = 0.5 - np.cos(min(np.pi, 2 * np.pi * fraction)) / 2
        expected = {
            "supervised": (slow.cross_entropy(known, labels) + slow.cross_entropy(known2, labels)).mean() / 2,
            "unsupervised": ramp * (slow.cross_entropy(strong, aligned.argmax(1)) * keep).mean(),
        }
        assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(
            expected, rel=1e-4, abs=1e-6
        )
        assert reached(result.losses["supervised"], leaves) == {"labelled weak", "labelled strong"}


def test_interpolation_moves_both_passes() -> None:
    joint, alone = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    torch.manual_seed(0)
    mixed = interpolated(Prediction(joint, joint, joint), Prediction(alone, alone, alone)).logits
    torch.manual_seed(0)
    share = torch.rand(5, 4)
    torch.testing.assert_close(mixed, (1 - share) * joint + share * alone)
    mixed.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(joint.grad, 1 - share)
    torch.testing.assert_close(alone.grad, share)


def test_the_labelled_pass_alone_leaves_no_trace(network: Any, random_batch: Any) -> None:
    """The running statistics move once, by the pass over everything."""
    from ferbench.methods import build, option_values

    model = network(dropout=0.0)
    method: Any = build("adamatch", model, option_values("adamatch", "paper", {})).train()
    labelled, unlabelled, progress = random_batch(method)
    method.step(labelled, unlabelled, progress)
    assert model.norm.num_batches_tracked == 1
    everything = torch.cat(
        [labelled.views[v] for v in ("weak", "strong")] + [unlabelled.views[v] for v in ("weak", "strong")]
    )
    with torch.no_grad():
        mean = model.conv(everything).mean(dim=(0, 2, 3))
    torch.testing.assert_close(model.norm.running_mean, 0.1 * mean)


def test_usb_has_one_labelled_view(begun: Any) -> None:
    assert begun("adamatch", 3, variant="usb").views.labelled == ("weak",)
    assert begun("adamatch", 3).views.labelled == ("weak", "strong")
