"""MixMatch, ReMixMatch and Margin-Mix: targets, mixtures and losses with their random numbers drawn again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbench.methods import Facts, build, option_values
from ferbench.methods.blocks.mixer import mixup
from ferbench.methods.general.remixmatch import rotated


def made(name: str, network: Any, variant: Any = "paper", **options: Any) -> Any:
    """Without batch norm and dropout every pass is a function of its images alone."""
    torch.manual_seed(0)
    method = build(name, network(norm=False, dropout=0.0), option_values(name, variant, options)).train()
    labels = torch.tensor([0, 0, 0, 1, 2, 3, 3, 0])
    method.begin(Facts(24, torch.arange(8), labels, torch.arange(24), 8, 4))
    return method


def probabilities(method: Any, images: Any) -> Any:
    with torch.no_grad():
        return method.model(images).logits.softmax(1).double().numpy()


@pytest.mark.parametrize("variant", ["paper", "usb"])
@pytest.mark.parametrize("fraction", [0.005, 0.2, 1.0])
def test_mixmatch(variant: Any, fraction: float, network: Any, random_batch: Any, slow: Any) -> None:
    """Algorithm 1; batches of 5 and 7 leave chunks of unequal size."""
    method = made("mixmatch", network, variant)
    labelled, unlabelled, progress = random_batch(method)
    torch.manual_seed(5)
    result = method.step(labelled, unlabelled, progress._replace(fraction=torch.tensor(fraction)))
    views = [unlabelled.views[name] for name in ("weak", "weak2")]
    q = np.mean([probabilities(method, view) for view in views], axis=0) ** 2
    q = q / q.sum(1, keepdims=True)
    known = np.eye(4)[labelled.labels]
    torch.manual_seed(5)
    union = torch.cat([labelled.views["weak"], *views])
    targets = torch.tensor(np.concatenate([known, q, q]), dtype=torch.float32)
    paper = variant == "paper"
    mixed, mixed_targets = mixup(union, targets, 0.75 if paper else 0.5, per_sample=paper)
    with torch.no_grad():
        logits = method.model(mixed).logits.double().numpy()
    goal = mixed_targets.double().numpy()
    weight = 75 * min(64 * fraction, 1) if variant == "paper" else 100 * min(fraction / 0.4, 1)
    squared = ((slow.softmax(logits[5:]) - goal[5:]) ** 2).sum() / (14 * 4)
    assert result.losses["supervised"].item() == pytest.approx(
        slow.cross_entropy(logits[:5], goal[:5]).mean(), rel=1e-4
    )
    assert result.losses["unsupervised"].item() == pytest.approx(weight * squared, rel=1e-3)
    assert result.pseudo.label.tolist() == q.argmax(1).tolist()


@pytest.mark.parametrize("name", ["mixmatch", "remixmatch", "marginmix"])
def test_the_paper_mixes_every_image_by_a_share_of_its_own(name: str) -> None:
    assert option_values(name, "paper", {})["per_sample"] is True
    assert option_values(name, "usb", {})["per_sample"] is (name == "marginmix")


@pytest.mark.parametrize("variant", ["paper", "usb"])
def test_remixmatch(variant: Any, network: Any, random_batch: Any, slow: Any) -> None:
    """Two steps, so that the running mean counts: before its batch enters (paper), after it did (USB)."""
    method = made("remixmatch", network, variant)
    prior = np.array([4, 1, 1, 2]) / 8
    np.testing.assert_allclose(method.prior, prior)
    seen: list[Any] = [np.full(4, 0.25)] * 128
    for seed in (0, 1):
        labelled, unlabelled, progress = random_batch(method, seed=seed)
        torch.manual_seed(5)
        result = method.step(labelled, unlabelled, progress)
        p = probabilities(method, unlabelled.views["weak"])
        if variant == "usb":
            seen = [p.mean(0)] if seed == 0 else [0.999 * seen[0] + 0.001 * p.mean(0)]
        q = p * (prior + 1e-6) / (np.mean(seen, axis=0) + 1e-6)
        q = (q / q.sum(1, keepdims=True)) ** 2
        q = q / q.sum(1, keepdims=True)
        if variant == "paper":
            seen = [*seen, p.mean(0)][-128:]
        torch.manual_seed(5)
        first = labelled.views["strong" if variant == "paper" else "weak"]
        others = [unlabelled.views[name] for name in ("strong", "strong2", "weak")]
        targets = torch.tensor(np.concatenate([np.eye(4)[labelled.labels], q, q, q]), dtype=torch.float32)
        mixed, mixed_targets = mixup(torch.cat([first, *others]), targets, 0.75, per_sample=variant == "paper")
        turns = torch.randint(4, (7,))
        with torch.no_grad():
            logits = method.model(mixed).logits.double().numpy()
            anchor = method.model(others[0]).logits.double().numpy()
            turned = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(others[0], turns, strict=True)])
            spin = method.rotation(method.model(turned).encoded).double().numpy()
        goal = mixed_targets.double().numpy()
        expected = {
            "supervised": slow.cross_entropy(logits[:5], goal[:5]).mean(),
            "unsupervised": 1.5 * slow.cross_entropy(logits[5:], goal[5:]).mean(),
            "anchor": 0.5 * slow.cross_entropy(anchor, q).mean(),
            "rotation": 0.5 * slow.cross_entropy(spin, turns.numpy()).mean(),
        }
        assert {name: value.item() for name, value in result.losses.items()} == pytest.approx(expected, rel=1e-3)


def test_remixmatch_without_the_rotation_task(network: Any, random_batch: Any) -> None:
    method = made("remixmatch", network, rotation_weight=0.0)
    assert "rotation" not in method.step(*random_batch(method)).losses
    assert not any("rotation" in name for name, _ in method.named_parameters())


def test_rotation_is_counter_clockwise_and_per_image() -> None:
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(4, 3, 2, 2)
    turned = rotated(image, torch.arange(4))[:, 0].flatten(1).tolist()
    assert turned == [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]]


def test_marginmix_centres_guesses_and_margin(network: Any, random_batch: Any, slow: Any) -> None:
    method = made("marginmix", network)
    centers: dict[int, Any] = {}
    for seed in range(3):
        labelled, unlabelled, progress = random_batch(method, seed=seed)
        result = method.step(labelled, unlabelled, progress)
        with torch.no_grad():
            features = method.model(labelled.views["weak"]).encoded.double().numpy()
        labels = labelled.labels.numpy()
        for c in set(labels.tolist()):
            mean = features[labels == c].mean(0)
            centers[c] = 0.9 * centers[c] + 0.1 * mean if c in centers else mean
        for c, center in centers.items():
            np.testing.assert_allclose(method.centers[c], center, rtol=1e-4)
        assert method.known.tolist() == [c in centers for c in range(4)]
        every = method.centers.double().numpy()
        margins = []
        for f, y in zip(features, labels, strict=True):
            distance = ((f - every) ** 2).sum(1)
            margins.append(distance[y] / (distance.sum() - distance[y] + 1))
        assert result.losses["margin"].item() == pytest.approx(0.5 * np.mean(margins), rel=1e-3)
        guesses = []
        for view in ("weak", "weak2"):
            with torch.no_grad():
                rows = method.model(unlabelled.views[view]).encoded.double().numpy()
            distance = ((rows[:, None] - every) ** 2).sum(2)
            near = np.exp(-distance / distance.mean()) * [c in centers for c in range(4)]
            guesses.append(near / near.sum(1, keepdims=True))
        q = np.mean(guesses, axis=0) ** 2
        np.testing.assert_allclose(result.pseudo.confidence, (q / q.sum(1, keepdims=True)).max(1), rtol=1e-3)
    assert set(result.losses) == {"supervised", "unsupervised", "margin"}
