"""The averaged model against timm's, against slow loops, and what it takes over unchanged."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from ferbench.bench.training.ema import Averaged
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.methods import Method, build, option_values

DECAY = 0.9


def make(name: str = "fixmatch", **options: object) -> Method:
    torch.manual_seed(0)
    return build(name, make_classifier("resnet_small", 3, size=16, dropout=0.5), option_values(name, "paper", options))


@torch.no_grad()
def change(method: nn.Module, seed: int) -> None:
    """Another state in every parameter and buffer, as a step would make it."""
    torch.manual_seed(seed)
    for value in method.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value))
        else:
            value.add_(1)


@pytest.mark.parametrize("buffers", ["ema", "copy"])
def test_equals_timm(buffers: str) -> None:
    method = make()
    ours = Averaged(method, DECAY, buffers=buffers, shrink=0.0)
    theirs = ModelEmaV3(method, decay=DECAY, exclude_buffers=buffers == "copy", foreach=False)
    for step in range(5):
        change(method, step)
        ours.update(1e-3)
        theirs.update(method)
    expected = theirs.module.state_dict()
    for name, value in ours.method.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("shrink", [0.0, 0.02])
def test_equals_loops_with_shrinking(shrink: float) -> None:
    """Released codes: the average first, then every averaged entry of the student times 1 - shrink * lr."""
    method, lr = make(), 0.5
    averaged = Averaged(method, DECAY, buffers="ema", shrink=shrink)
    average = {name: value.double().clone() for name, value in method.state_dict().items()}
    for step in range(4):
        change(method, step)
        student = {name: value.double().clone() for name, value in method.state_dict().items()}
        averaged.update(lr)
        for name, value in method.state_dict().items():
            if not value.is_floating_point():
                assert torch.equal(value.double(), student[name])
                average[name] = student[name]
                continue
            average[name] = DECAY * average[name] + (1 - DECAY) * student[name]
            torch.testing.assert_close(value.double(), student[name] * (1 - shrink * lr), rtol=1e-6, atol=1e-7)
    for name, value in averaged.method.state_dict().items():
        torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)


def test_copied_buffers_are_not_shrunk() -> None:
    method = make()
    averaged = Averaged(method, DECAY, buffers="copy", shrink=0.5)
    change(method, 1)
    before = {name: value.clone() for name, value in method.named_buffers()}
    averaged.update(1.0)
    for name, value in method.named_buffers():
        assert torch.equal(value, before[name]), name
        assert torch.equal(averaged.method.get_buffer(name), before[name]), name


@pytest.mark.parametrize("average_centers", [False, True])
def test_what_a_method_names_is_copied(average_centers: bool) -> None:
    method = make("remop", average_centers=average_centers)
    averaged = Averaged(method, DECAY, buffers="ema", shrink=0.1)
    start = method.get_parameter("centers").detach().clone()
    change(method, 1)
    changed = method.get_parameter("centers").detach().clone()
    averaged.update(1.0)
    expected = DECAY * start + (1 - DECAY) * changed if average_centers else changed
    torch.testing.assert_close(averaged.method.get_parameter("centers").detach(), expected)
    kept = changed * 0.9 if average_centers else changed
    torch.testing.assert_close(method.get_parameter("centers").detach(), kept)


def test_follows_the_optimiser_and_a_loaded_state() -> None:
    """The average reads the student's own memory, also after load_state_dict and an optimiser's step."""
    method = make()
    averaged = Averaged(method, DECAY, buffers="ema", shrink=0.0)
    other = copy.deepcopy(method)
    change(other, 3)
    method.load_state_dict(other.state_dict())
    averaged.method.load_state_dict(other.state_dict())
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    for value in method.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    averaged.update(1.0)
    for name, value in averaged.method.named_parameters():
        expected = other.get_parameter(name) - (1 - DECAY)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-5)


def test_the_average_needs_no_gradient_and_shares_no_memory() -> None:
    method = make("remop")
    averaged = Averaged(method, DECAY, buffers="ema", shrink=0.0)
    assert not any(value.requires_grad for value in averaged.method.parameters())
    assert all(value.requires_grad for value in method.parameters())
    ours = {value.data_ptr() for value in averaged.method.state_dict().values()}
    assert not ours & {value.data_ptr() for value in method.state_dict().values()}
