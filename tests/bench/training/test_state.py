"""What a recipe says reaches the network, the views and the answers between epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ferbench.bench.data.randomness import generator
from ferbench.bench.data.views.batches import Share, view_batches
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.state import Run, make_batches, make_optimizer, make_state, view_recipe
from ferbench.bench.training.train import _answers, train
from ferbench.methods import Method, build, option_values
from ferbench.methods.papers.adacm import AdaCM, adaptive_margin

MakeRun = Callable[..., Run]
CPU = torch.device("cpu")


@pytest.mark.parametrize("normalise", [False, True])
def test_features_are_normalised_where_the_recipe_says_so(make_tiny_run: MakeRun, normalise: bool) -> None:
    method = make_state(make_tiny_run("vanilla", normalise_features=normalise), CPU, Silent()).method
    lengths = method.get_submodule("model")(torch.randn(5, 3, 16, 16)).features.norm(dim=1)
    assert torch.allclose(lengths, torch.ones(5)) is normalise


def test_colours_are_turned_round_where_the_recipe_says_so(make_tiny_run: MakeRun) -> None:
    run = make_tiny_run("vanilla")
    assert view_recipe(run.recipe).channel_order == "rgb"
    turned = replace(run.recipe, channel_order="bgr")
    assert view_recipe(turned) == replace(view_recipe(run.recipe), channel_order="bgr")


@pytest.mark.parametrize("model", ["student", "average"])
def test_answers_by_rule(make_tiny_run: MakeRun, model: str) -> None:
    """The scores of `predict` without a rule, and of the named rule with one, on views that the epoch decides."""
    run = make_tiny_run("remop")
    state = make_state(run, CPU, Silent())
    assert state.average is not None
    with torch.no_grad():
        for parameter in state.average.method.parameters():
            parameter.mul_(1.5)
    chosen: Method = state.method if model == "student" else state.average.method
    batches = make_batches(run, state.method, CPU, Share())
    ask = _answers(state, batches, epoch=2)
    stream = batches.labelled_stream
    rng = generator(stream.seed, "asked/labelled/weak", 2)
    (images,) = view_batches(batches.store, stream.indices, batches.recipe, "weak", rng)
    with torch.no_grad():
        expected = chosen.eval().predict_all(images)
    for rule in (None, "linear", "centers"):
        answer = ask("labelled", model=model, view="weak", rule=rule)  # type: ignore[arg-type]
        torch.testing.assert_close(answer.scores, expected[rule or "mixture"])
        assert answer.labels is not None and answer.labels.tolist() == run.faces.labels[stream.indices].tolist()
    assert state.method.training


def test_adacm_s_margins_are_those_of_the_averaged_model_on_weak_views(
    make_tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of three epochs, asked once for the whole labelled set of 24 images."""
    run = make_tiny_run("adacm")
    seen: list[torch.Tensor] = []
    original = AdaCM.end_epoch

    def spy(self: AdaCM, progress: object, ask: object) -> None:
        original(self, progress, ask)  # type: ignore[arg-type]
        scored = ask("labelled", model="average", view="weak")  # type: ignore[operator]
        assert len(scored.scores) == 24
        expected = adaptive_margin(scored.scores, scored.labels, len(seen) + 2, self.options)
        torch.testing.assert_close(self.margins, expected.float())
        seen.append(self.margins.clone())

    monkeypatch.setattr(AdaCM, "end_epoch", spy)
    train(run, tmp_path / "run")
    assert len(seen) == 3 and not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_on_a_gpu_an_optimiser_s_step_can_be_captured(make_tiny_run: MakeRun, optimizer: str) -> None:
    """Its kernels read the rate where it lies: fused ones, whose counts of steps are on the device too."""
    recipe = make_tiny_run(optimizer=optimizer, momentum=0.9).recipe
    with FakeTensorMode(), torch.device("cuda"):
        model = make_classifier("resnet_small", 3, size=16, dropout=0.0)
        method = build("vanilla", model, option_values("vanilla", "paper", {}))
        made = make_optimizer(method, recipe)
    for group in made.param_groups:
        assert group["fused"] is True and group.get("capturable", True) is True
    assert optimizer == "sgd" or made._warned_capturable_if_run_uncaptured


def test_a_checkpoint_of_another_device_keeps_this_one_s_ways(make_tiny_run: MakeRun) -> None:
    """Rates are saved as numbers; how the optimiser computes is not taken from the file."""
    run = make_tiny_run("vanilla")
    state = make_state(run, CPU, Silent())
    for group in state.optimizer.param_groups:
        group["lr"] = torch.tensor(0.25, dtype=torch.float64)
    saved = state.to_dict("spec")
    assert [group["lr"] for group in saved["optimizer"]["param_groups"]] == [0.25]
    assert isinstance(saved["optimizer"]["param_groups"][0]["lr"], float)
    saved["optimizer"]["param_groups"][0]["capturable"] = True  # as a GPU's says
    other = make_state(run, CPU, Silent())
    other.load(saved)
    assert other.optimizer.param_groups[0]["capturable"] is False
