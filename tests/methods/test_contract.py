"""What holds for every registered method, every plug-in on every learner, in both variants."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from ferbench.methods import Method, Progress, Scored

MakeMethod = Callable[..., Method]


def backward(method: Method, batch: Any) -> dict[str, Tensor]:
    """One step as the loop does it, up to the optimiser; returns the loss terms."""
    losses: dict[str, Tensor] = method.step(*batch).losses
    total: Any = torch.stack(list(losses.values())).sum()
    total.backward()
    method.after_backward()
    return losses


class HostCopies(TorchFunctionMode):
    """Refuses the copies to the host that fake tensors on the CPU cannot tell from nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("cpu", "numpy", "__array__"):
            raise RuntimeError(f"Tensor.{func.__name__}: a copy to the host")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host() -> Iterator[None]:
    """Tensors without values: what needs a value, or has a shape that depends on one, raises."""
    with FakeTensorMode(), HostCopies():
        yield


def test_step_does_not_wait_for_the_device(any_method: MakeMethod, random_batch: Any) -> None:
    with no_host():
        method = any_method().train()
        losses = backward(method, random_batch(method))
    assert all(loss.shape == () for loss in losses.values())


def test_step_stays_on_one_device(
    any_method: MakeMethod, random_batch: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Everything lies on a GPU but what the step makes itself: an operation that mixes devices raises, GPU or not."""
    if "[vat" in request.node.name:
        pytest.skip("takes a gradient within its step, whose threads ask for the GPU itself")
    monkeypatch.setattr(torch, "_sample_dirichlet", lambda concentration, generator=None: concentration)  # has no fake
    with FakeTensorMode():
        with torch.device("cuda"):
            method = any_method().train()
            batch = random_batch(method)
        losses = method.step(*batch).losses
        method.after_step(*batch[:2])
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


def test_a_mixture_of_devices_is_noticed() -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device="cuda") + torch.ones(3)


@pytest.mark.parametrize(
    "offence",
    [
        pytest.param(lambda x: x.sum().item(), id="item"),
        pytest.param(lambda x: x.tolist(), id="tolist"),
        pytest.param(lambda x: x[x > 0], id="boolean index"),
        pytest.param(lambda x: x.nonzero(), id="nonzero"),
        pytest.param(lambda x: torch.where(x > 0), id="where"),
        pytest.param(lambda x: x.masked_select(x > 0), id="masked_select"),
        pytest.param(lambda x: x.unique(), id="unique"),
        pytest.param(lambda x: 1 if (x > 0).any() else 0, id="if"),
        pytest.param(lambda x: x.cpu(), id="cpu"),
        pytest.param(lambda x: x.numpy(), id="numpy"),
    ],
)
def test_waiting_is_noticed(offence: Callable[[Tensor], object]) -> None:
    with pytest.raises(Exception), no_host():  # noqa: B017 - each offence has an exception type of its own
        offence(torch.randn(4, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_step_does_not_wait_for_a_gpu(any_method: MakeMethod, random_batch: Any) -> None:
    method = any_method().cuda().train()
    cpu = random_batch(method)

    def move(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.cuda()
        if isinstance(part, dict):
            return {name: move(value) for name, value in part.items()}
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{field.name: move(getattr(part, field.name)) for field in fields(part)})
        return type(part)(*map(move, part)) if isinstance(part, tuple) else part

    batch = move(cpu)
    backward(method, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        backward(method, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_losses_are_finite_scalars_with_gradient(any_method: MakeMethod, random_batch: Any) -> None:
    method = any_method().train()
    losses = backward(method, random_batch(method))
    assert losses
    for name, loss in losses.items():
        assert loss.shape == () and loss.dtype == torch.float32, name
        assert math.isfinite(loss.item()), name
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_pseudo_labels_fit_the_unlabelled_batch(any_method: MakeMethod, random_batch: Any) -> None:
    method = any_method().train()
    pseudo = method.step(*random_batch(method, u=7)).pseudo
    if pseudo is None:
        return
    assert pseudo.label.shape == pseudo.keep.shape == pseudo.confidence.shape == (7,)
    assert (pseudo.label.dtype, pseudo.keep.dtype) == (torch.int64, torch.bool)
    assert all(0 <= label < 4 for label in pseudo.label.tolist())
    assert not any(tensor.requires_grad for tensor in pseudo if tensor is not None)


def test_views_are_what_the_step_reads(any_method: MakeMethod, random_batch: Any) -> None:
    """It runs with exactly the views it names, and misses each one that is taken away."""
    method = any_method().train()
    batch = random_batch(method)
    method.step(*batch)
    for part in ("labelled", "unlabelled"):
        for name in getattr(method.views, part):
            given = getattr(batch, part)
            rest = {view: images for view, images in given.views.items() if view != name}
            with pytest.raises(KeyError, match=name):
                method.step(*batch._replace(**{part: replace(given, views=rest)}))


def test_parameter_groups_cover_each_parameter_once(any_method: MakeMethod) -> None:
    method = any_method()
    groups = method.parameter_groups(0.1)
    ours = [id(p) for group in groups for p in group["params"]]
    assert sorted(ours) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    assert all(group["lr"] > 0 for group in groups)


def test_state_dict_is_the_whole_state(any_method: MakeMethod, random_batch: Any) -> None:
    """After two steps and an epoch's end the state goes into a fresh method: both then do the same step."""
    trained, fresh = any_method(seed=0).train(), any_method(seed=1).train()
    optimizer = torch.optim.SGD(trained.parameter_groups(0.1))
    for seed in (0, 1):
        optimizer.zero_grad()
        backward(trained, random_batch(trained, seed=seed))
        optimizer.step()
    trained.end_epoch(Progress(torch.tensor(0.5), 0), _answer)
    fresh.load_state_dict(trained.state_dict())
    results = []
    for method in (trained, fresh):
        method.zero_grad()
        torch.manual_seed(3)
        losses = backward(method, random_batch(method, seed=2))
        gradients = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
        results.append((losses, gradients, method.state_dict()))
    for first, second in zip(*results, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            assert torch.equal(first[name], second[name]), name


def _answer(which: str, *, model: str = "student", view: str = "plain", rule: str | None = None) -> Scored:
    """Scores of eleven images, most of them right."""
    generator = torch.Generator().manual_seed(len(which))
    labels = torch.arange(11) % 4
    scores = torch.randn(11, 4, generator=generator) + 2 * torch.eye(4)[labels]
    return Scored(scores.softmax(dim=1), torch.arange(11), labels if which == "labelled" else None)


def test_averaged_copy_has_names_of_its_own_state(any_method: MakeMethod) -> None:
    method = any_method()
    assert method.not_averaged() <= method.state_dict().keys()
    twin = copy.deepcopy(method)
    ours, theirs = method.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
    assert ours.keys() == theirs.keys()
    assert not {id(value) for value in ours.values()} & {id(value) for value in theirs.values()}


def test_scores_are_deterministic_and_per_image(any_method: MakeMethod) -> None:
    """In eval mode an image's scores depend on no other image of the batch; the headline rule is `predict`'s."""
    method = any_method().eval()
    images = torch.randn(5, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = method.predict_all(images)
        assert torch.equal(method.predict(images), next(iter(scores.values())))
        alone = method.predict_all(images[3:4])
    for rule, values in scores.items():
        assert values.shape == (5, 4), rule
        torch.testing.assert_close(alone[rule], values[3:4], rtol=1e-5, atol=1e-6)
