"""How a GPU is used: what may be asked, what it is for a recipe, and that a network may be compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ferbench.bench.training.state import Run
from ferbench.bench.training.steps import mode
from ferbench.bench.training.steps.mode import Mode, ModeError, ask_mode, compile_network, why_eager
from ferbench.bench.training.train import train
from ferbench.methods import build, option_values

MakeRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    ask_mode()


def test_what_was_asked_holds_for_runs_and_stands_in_their_record(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    assert Mode.asked() == Mode("auto", False, "off")
    ask_mode("off")
    assert train(make_tiny_run("vanilla", epochs=1), tmp_path)["execution"] == {
        "graph": "off", "deterministic": False, "compile": "off", "steps": "one by one", "why": "--graph off",
    }  # fmt: skip


@pytest.mark.parametrize("words", [{"graph": "of"}, {"compiled": "all"}])
def test_other_words_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(ModeError, match=r"(--graph|--compile): unknown value '(of|all)'; .*off"):
        ask_mode(**words)  # type: ignore[arg-type]


def test_deterministic_holds_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode.os, "environ", {})
    was = torch.backends.cudnn.deterministic
    try:
        Mode(deterministic=True).begin()
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert mode.os.environ == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = was


def test_why_steps_are_done_one_by_one(make_tiny_run: MakeRun) -> None:
    recipe, gpu = make_tiny_run().recipe, torch.device("cuda")
    assert why_eager(recipe, gpu, 1) == ""
    assert why_eager(recipe, torch.device("cpu"), 1) == "no GPU"
    assert why_eager(recipe, gpu, 2) == "2 processes"
    assert "float16" in why_eager(replace(recipe, dtype="float16"), gpu, 1)
    assert why_eager(replace(recipe, dtype="bfloat16"), gpu, 1) == ""


@pytest.mark.parametrize("name", ["vanilla", "remop"])
def test_the_network_is_compiled_under_the_names_it_had(
    make_tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from ferbench.bench.training.networks.backbones import make_classifier

    method = build(name, make_classifier("resnet_small", 3, size=16, dropout=0.0), option_values(name, "paper", {}))
    names, compiled = list(method.state_dict()), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *args, **named: compiled.append(self))
    compile_network(method)
    assert [type(module).__name__ for module in compiled] == ["Classifier"] and list(method.state_dict()) == names
