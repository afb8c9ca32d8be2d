"""Forward passes of the learners: how many, in which mode, over which images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ferbench.methods import Learner, Prediction, build, option_values

JOINT = pytest.mark.parametrize("joint", [False, True], ids=["separate", "joint"])


@JOINT
@pytest.mark.parametrize("name", ["fixmatch", "remop"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_calls(name: str, joint: bool, training: bool, encode: Any, batch: Any, table_method: Any) -> None:
    """Labelled, weak, strong: the weak pass in the mode of training, without a graph."""
    settings = {"centers": torch.eye(3, 2)} if name == "remop" else {"shape": (2, 3)}
    method = table_method(name, joint=joint, **settings).train(training)
    images, weak, strong = (encode(np.ones((n, 2)), np.ones((n, 3))) for n in (4, 5, 5))
    method.step(*batch(images, [0, 1, 2, 0], weak, strong))
    model = method.learner.model if name == "remop" else method.model
    expected = [(9, True), (5, False)] if joint else [(4, True), (5, False), (5, True)]
    assert model.calls == [(count, training, grad) for count, grad in expected]


@pytest.mark.parametrize("name", ["vanilla", "remop"])
def test_vanilla_calls(name: str, encode: Any, batch: Any, table_method: Any) -> None:
    settings = {"centers": torch.eye(3, 2), "learner": "vanilla"} if name == "remop" else {"shape": (2, 3)}
    method = table_method(name, **settings)
    images = encode(np.ones((4, 2)), np.ones((4, 3)))
    method.step(*batch(images, [0, 1, 2, 0], images, images))
    assert (method.learner.model if name == "remop" else method.model).calls == [(4, True, True)]


@JOINT
def test_views_go_where_they_belong(joint: bool, encode: Any, batch: Any, table_method: Any) -> None:
    method = table_method("fixmatch", shape=(1, 2), joint=joint)
    images, weak, strong = (encode(np.full((n, 1), value), np.zeros((n, 2))) for n, value in ((2, 1), (3, 2), (3, 3)))
    passes = method.passes(*batch(images, [0, 1], weak, strong)[:2])
    assert passes.labelled.encoded.flatten().tolist() == [1, 1]
    assert [prediction.encoded.flatten().tolist() for prediction in passes.weak] == [[2, 2, 2]]
    assert passes.strong[0].encoded.flatten().tolist() == [3, 3, 3]


@pytest.fixture
def both(network: Any, random_batch: Any) -> Callable[..., dict[bool, tuple[Learner, Any]]]:
    """A separate and a joint FixMatch with equal weights, each with the result of one step in training mode."""

    def run(**settings: Any) -> dict[bool, tuple[Learner, Any]]:
        result = {}
        for joint in (False, True):
            torch.manual_seed(0)
            method = build(
                "fixmatch", network(**settings), option_values("fixmatch", "paper", {"joint": joint, "threshold": 0.0})
            )
            assert isinstance(method, Learner)
            result[joint] = method, method.step(*random_batch(method))
        return result

    return run


def test_joint_equals_separate_without_batch_norm_and_dropout(both: Any) -> None:
    gradients = []
    losses = []
    for method, result in both(norm=False, dropout=0.0).values():
        losses.append({name: value.item() for name, value in result.losses.items()})
        (result.losses["supervised"] + result.losses["unsupervised"]).backward()
        gradients.append({name: p.grad for name, p in method.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


class Normalised(nn.Module):
    """Batch norm over rows [B, D] is all the encoder there is; the first K numbers are the logits."""

    def __init__(self, feature_width: int, num_classes: int) -> None:
        super().__init__()
        self.feature_width, self.num_classes = feature_width, num_classes
        self.norm = nn.BatchNorm1d(feature_width, affine=False)

    def forward(self, images: Tensor) -> Prediction:
        encoded = self.norm(images)
        return Prediction(encoded, encoded, encoded[:, : self.num_classes])


@JOINT
def test_batch_statistics_are_those_of_each_pass(joint: bool, batch: Any) -> None:
    """Separate: each part by its own mean, running statistics moved by labelled, weak, strong in this order."""
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(i, 1 + i, (n, 3)) for i, (name, n) in enumerate((("x", 4), ("w", 5), ("s", 5)))}
    model = Normalised(3, 2)
    method = build("fixmatch", model, option_values("fixmatch", "paper", {"joint": joint}))
    assert isinstance(method, Learner)
    images = {name: torch.tensor(rows, dtype=torch.float32) for name, rows in parts.items()}
    passes = method.passes(*batch(images["x"], [0, 1, 0, 1], images["w"], images["s"])[:2])

    def normalise(rows: Any, of: Any) -> Any:
        return (rows - of.mean(0)) / np.sqrt(of.var(0) + 1e-5)

    chunks = [np.concatenate([parts["x"], parts["s"]]), parts["w"]] if joint else [parts[name] for name in "xws"]
    first, last = (chunks[0], chunks[0]) if joint else (parts["x"], parts["s"])
    assert len(passes.strong) == 1
    for got, rows, of in (
        (passes.labelled, parts["x"], first),
        (passes.weak[0], parts["w"], parts["w"]),
        (passes.strong[0], parts["s"], last),
    ):
        np.testing.assert_allclose(got.encoded.numpy(), normalise(rows, of), rtol=1e-4, atol=1e-5)
    mean, variance = np.zeros(3), np.ones(3)
    for chunk in chunks:
        mean, variance = 0.9 * mean + 0.1 * chunk.mean(0), 0.9 * variance + 0.1 * chunk.var(0, ddof=1)
    np.testing.assert_allclose(model.norm.running_mean, mean, rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(model.norm.running_var, variance, rtol=1e-5)  # type: ignore[arg-type]


def test_joint_differs_with_batch_norm(both: Any) -> None:
    (_, separate), (_, joint) = both(norm=True, dropout=0.0).values()
    assert separate.losses["supervised"].item() != pytest.approx(joint.losses["supervised"].item(), rel=1e-3)


def test_weak_pass_has_dropout(network: Any, random_batch: Any) -> None:
    """The released code labels in training mode: the same weak images get different logits at two steps."""
    method: Any = build("fixmatch", network(norm=False, dropout=0.5), option_values("fixmatch", "paper", {}))
    labelled, unlabelled, _ = random_batch(method)
    method.train()
    one, two = (method.passes(labelled, unlabelled).weak[0] for _ in range(2))
    assert torch.equal(one.encoded, two.encoded) and not torch.equal(one.logits, two.logits)
    method.eval()
    one, two = (method.passes(labelled, unlabelled).weak[0] for _ in range(2))
    assert torch.equal(one.logits, two.logits)
