"""Learning rates by step, and by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from ferbench.bench.training import schedule
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.bench.training.networks.layer_decay import split_by_layer
from ferbench.bench.training.recording.records import RunError
from ferbench.bench.training.state import make_optimizer
from ferbench.methods import Method, build, option_values
from ferbench.protocols import Recipe

BASE = Recipe(backbone="vit_tiny", batch_size=4, epochs=100, steps_per_epoch=15, lr=1.5e-4)
RELEASED = replace(
    BASE, schedule="cosine_per_epoch", cosine_epochs=50, warmup_epochs=5, warmup_lr=5e-5, min_lr=1e-5
)  # fmt: skip
# SSFER's stage (b) as released: worked numbers, epoch -> rate
WORKED = {
    0: 5e-5, 1: 7e-5, 4: 0.00013, 5: 0.0001465739561, 10: 0.0001366311896, 25: 8e-5, 49: 1.013812901e-5, 50: 1e-5,
    99: 1e-5,
}  # fmt: skip


def rate(recipe: Recipe, step: int) -> float:
    return recipe.lr * schedule.factor(recipe, step)


@pytest.mark.parametrize(("epoch", "expected"), WORKED.items())
def test_ssfer_s_released_schedule(epoch: int, expected: float) -> None:
    for step in (0, 7, 14):
        assert rate(RELEASED, epoch * 15 + step) == pytest.approx(expected, rel=1e-9)


def test_per_epoch_is_timm_s_scheduler() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.5e-4)
    theirs = CosineLRScheduler(
        optimizer, t_initial=50, lr_min=1e-5, warmup_t=5, warmup_lr_init=5e-5, cycle_limit=1, cycle_decay=1.0
    )
    for epoch in range(100):
        theirs.step(epoch)
        assert rate(RELEASED, epoch * 15) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch


def test_cosine_after_a_warm_up_by_hand() -> None:
    length = {"epochs": 10, "steps_per_epoch": 5, "warmup_epochs": 2}
    recipe = replace(BASE, schedule="cosine", warmup_lr=3e-5, min_lr=1e-6, **length)
    for step in range(50):
        if step < 10:
            expected = 3e-5 + (1.5e-4 - 3e-5) * step / 10
        else:
            expected = 1e-6 + (1.5e-4 - 1e-6) * (1 + math.cos(math.pi * (step - 10) / 40)) / 2
        assert rate(recipe, step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("total", [3, 7, 1500])
def test_without_new_keys_the_cosine_is_what_it_was(total: int) -> None:
    """Bit for bit, so that old runs can be repeated."""
    recipe = replace(BASE, schedule="cosine", epochs=1, steps_per_epoch=total)
    for step in range(total):
        assert schedule.factor(recipe, step) == 0.5 * (1 + math.cos(math.pi * (step / total)))
        assert schedule.factor(replace(recipe, schedule="constant"), step) == 1.0


@pytest.mark.parametrize("warmup", [0, 2])
def test_exponential_is_torch_s_scheduler_after_the_warm_up(warmup: int) -> None:
    recipe = replace(BASE, schedule="exponential", steps_per_epoch=4, warmup_epochs=warmup, epochs=70)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.5e-4)
    theirs = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    assert rate(recipe, 4 * warmup // 2) == pytest.approx(0.75e-4 if warmup else 1.5e-4)
    for epoch in range(warmup, 70):
        for step in range(4):
            assert rate(recipe, 4 * epoch + step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_constant_with_a_warm_up() -> None:
    recipe = replace(BASE, warmup_epochs=2, steps_per_epoch=4)
    assert [schedule.factor(recipe, step) for step in (0, 2, 4, 8, 100)] == [0, 0.25, 0.5, 1, 1]


def method_on(backbone: str, size: int) -> Method:
    return build("vanilla", make_classifier(backbone, 3, size=size, dropout=0.0), option_values("vanilla", "paper", {}))


def test_layer_decay_by_hand() -> None:
    """vit_tiny has four blocks: embeddings are layer 0, what follows the blocks is layer 5."""
    method = method_on("vit_tiny", 16)
    optimizer = make_optimizer(method, replace(BASE, layer_decay=0.5, optimizer="adamw"))
    rates = {id(p): group["base_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == sum(1 for _ in method.parameters())
    layers = {
        "model.encoder.cls_token": 0, "model.encoder.pos_embed": 0, "model.encoder.patch_embed.proj.weight": 0,
        "model.encoder.blocks.0.attn.qkv.weight": 1, "model.encoder.blocks.3.mlp.fc2.bias": 4,
        "model.encoder.norm.weight": 5, "model.head.weight": 5,
    }  # fmt: skip
    parameters = dict(method.named_parameters())
    for name, layer in layers.items():
        assert rates[id(parameters[name])] == pytest.approx(1.5e-4 * 0.5 ** (5 - layer)), name


def test_layer_decay_of_one_changes_nothing_and_needs_no_transformer() -> None:
    method = method_on("resnet_small", 16)
    groups = method.parameter_groups(0.1)
    assert split_by_layer(groups, method, 1.0) == groups
    with pytest.raises(RunError, match="layer_decay=0.9 needs a backbone of transformer blocks"):
        split_by_layer(groups, method, 0.9)


def test_betas_reach_the_optimiser() -> None:
    recipe = replace(BASE, optimizer="adamw", beta1=0.8, beta2=0.95)
    assert make_optimizer(method_on("vit_tiny", 16), recipe).param_groups[0]["betas"] == (0.8, 0.95)


def test_the_loop_follows_the_schedule(make_tiny_run: Callable[..., Any], tmp_path: Any) -> None:
    from ferbench.bench.training.train import train

    run = make_tiny_run("vanilla", warmup_epochs=1, warmup_lr=1e-4, min_lr=1e-5, ema=0.0, evaluate="student")
    train(run, tmp_path / "run")
    lines = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["history"]
    assert [line["lr"] for line in lines] == [pytest.approx(rate(run.recipe, step), rel=1e-12) for step in (4, 9, 14)]
