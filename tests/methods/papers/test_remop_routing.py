"""Which loss term moves what: gradients of each term of Eq. 9 with respect to everything it could reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ferbench.methods import Labelled, Progress, Unlabelled, build, option_values

WIDTH, CLASSES = 3, 4
ENCODED, FEATURES, LOGITS = slice(0, WIDTH), slice(WIDTH, 2 * WIDTH), slice(2 * WIDTH, None)

VARIANTS = pytest.mark.parametrize("variant", ["paper", "released"])


def reached(term: Tensor, sources: dict[str, Tensor]) -> set[str]:
    """Names of the sources that get a gradient other than zero."""
    if not term.requires_grad:
        return set()
    gradients = torch.autograd.grad(term, list(sources.values()), retain_graph=True, allow_unused=True)
    return {name for name, grad in zip(sources, gradients, strict=True) if grad is not None and grad.abs().sum() > 0}


@pytest.mark.parametrize(
    ("term", "routes"),
    [
        ("supervised", {"labelled logits"}),
        ("unsupervised", {"strong logits"}),
        ("center", {"labelled feature", "strong feature", "centers"}),
        ("etf", {"centers"}),
    ],
)
@VARIANTS
def test_eq9_routes(
    variant: str, term: str, routes: set[str], encode: Any, batch: Any, table_method: Any, random_rows: Any
) -> None:
    """Features are the encoder's in the paper, those after dropout in the released code; weak views get nothing."""
    method = table_method("remop", centers=random_rows(CLASSES, WIDTH), variant=variant, threshold=0.0)
    images = {
        name: encode(random_rows(5, WIDTH), random_rows(5, CLASSES), random_rows(5, WIDTH))
        for name in ("labelled", "weak", "strong")
    }
    parts = {name: [image[:, s] for s in (ENCODED, FEATURES, LOGITS)] for name, image in images.items()}
    sources = {f"{name} {part}": rows for name in parts for part, rows in zip("efl", parts[name], strict=True)}
    joined = {name: torch.cat(rows, dim=1) for name, rows in parts.items()}
    result = method.step(*batch(joined["labelled"], [0, 1, 2, 3, 0], joined["weak"], joined["strong"]))

    used, unused = ("e", "f") if variant == "paper" else ("f", "e")
    names = {used: "feature", "l": "logits", unused: "the other feature"}
    got = reached(result.losses[term], {**sources, "centers": method.centers})
    assert {name if name == "centers" else f"{name[:-1]}{names[name[-1]]}" for name in got} == routes


@pytest.fixture
def random_rows() -> Callable[[int, int], Tensor]:
    """(rows, columns) -> a new standard normal matrix at each call."""
    generator = torch.Generator().manual_seed(0)
    return lambda rows, columns: torch.randn(rows, columns, generator=generator)


@VARIANTS
def test_encoder_learns_from_every_term_but_eq8(variant: Any, network: Any) -> None:
    torch.manual_seed(0)
    model = network(dropout=0.0)
    method = build("remop", model, option_values("remop", variant, {"threshold": 0.0}))
    images = {name: torch.randn(6, 3, 7, 7) for name in ("labelled", "weak", "strong")}
    result = method.step(
        Labelled({"weak": images["labelled"]}, torch.tensor([0, 1, 2, 3, 0, 1]), torch.arange(6)),
        Unlabelled({"weak": images["weak"], "strong": images["strong"]}, torch.arange(6)),
        Progress(torch.zeros(()), 0),
    )
    sources = {"encoder": model.conv.weight, "head": model.head.weight, "centers": method.get_parameter("centers")}
    routes = {name: reached(term, sources) for name, term in result.losses.items()}
    assert routes == {
        "supervised": {"encoder", "head"},
        "unsupervised": {"encoder", "head"},
        "center": {"encoder", "centers"},
        "etf": {"centers"},
    }


@VARIANTS
def test_eqs_5_to_7_carry_no_gradient(variant: str, encode: Any, batch: Any, table_method: Any) -> None:
    method = table_method("remop", centers=torch.eye(4, 3), variant=variant)
    images = encode(torch.eye(4, 3), torch.eye(4))
    prediction = method.learner.model(images)
    assert not method.similarity(prediction).requires_grad
    pseudo = method.step(*batch(images, [0, 1, 2, 3], images, images)).pseudo
    assert not any(tensor.requires_grad for tensor in pseudo)
    method.step(*batch(images, [0, 1, 2, 3], images, images)).losses["unsupervised"].backward()
    assert method.centers.grad is None


def test_released_rescaling_moves_centers_only(network: Any, random_batch: Any) -> None:
    """Every gradient of the network is as without the rescaling, that of the centres is 1e4 times it."""
    gradients: dict[float, dict[str, Tensor]] = {}
    for scale in (1.0, 1e4):
        torch.manual_seed(0)
        values = option_values("remop", "released", {"center_grad_scale": scale, "threshold": 0.0})
        method = build("remop", network(), values)
        total: Any = torch.stack(list(method.step(*random_batch(method)).losses.values())).sum()
        total.backward()
        method.after_backward()
        gradients[scale] = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    assert gradients[1.0].keys() == gradients[1e4].keys()
    for name, gradient in gradients[1.0].items():
        assert torch.equal(gradients[1e4][name], gradient * (1e4 if name == "centers" else 1.0)), name


def test_after_backward_reaches_the_learner(network: Any) -> None:
    method = build("remop", network(), option_values("remop", "paper", {}))
    seen: list[str] = []
    learner: Any = method.get_submodule("learner")
    learner.after_backward = lambda: seen.append("after_backward")
    learner.end_epoch = lambda progress, predict: seen.append("end_epoch")
    method.after_backward()
    method.end_epoch(Progress(torch.ones(()), 3), lambda which: torch.zeros(2, 4))
    assert seen == ["after_backward", "end_epoch"]


def test_every_parameter_is_a_leaf_of_the_method(network: Any) -> None:
    model: nn.Module = network()
    method = build("remop", model, option_values("remop", "paper", {}))  # type: ignore[arg-type]
    ours = {id(p) for p in method.parameters()}
    assert ours == {id(p) for p in model.parameters()} | {id(method.get_parameter("centers"))}


@pytest.mark.parametrize("name", ["fixmatch", "remop"])
@VARIANTS
def test_weak_unlabelled_images_get_no_gradient(name: str, variant: Any, network: Any, random_batch: Any) -> None:
    method = build(name, network(), option_values(name, variant, {"threshold": 0.0}))
    batch = random_batch(method)
    weak = batch.unlabelled.views["weak"].requires_grad_()
    strong = batch.unlabelled.views["strong"].requires_grad_()
    total: Any = torch.stack(list(method.step(*batch).losses.values())).sum()
    total.backward()
    assert weak.grad is None
    assert strong.grad is not None and strong.grad.any()
