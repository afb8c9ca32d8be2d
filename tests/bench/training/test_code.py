"""The digest of a method's source: what changes it, and what does not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.training.recording.code import UNKNOWN, _modules, class_code, digest, method_code
from ferbench.methods import METHODS, option_values

SOURCE = '''"""A method."""

from math import tau


class Mine:
    """What it does."""

    threshold = 0.95  # the paper's

    def step(self, x: float) -> float:
        """One step."""
        return x * self.threshold
'''
SAME = {
    "another docstring": ("What it does.", "What it does, in other words."),
    "another comment": ("# the paper's", "# of the paper"),
    "another layout": ("return x * self.threshold", "return (\n            x\n            * self.threshold\n        )"),
    "no docstring": ('    """What it does."""\n', ""),
}
OTHER = {
    "a constant": ("0.95", "0.96"),
    "an operation": ("x * self", "x + self"),
    "a name": ("def step", "def stepp"),
    "an import": ("tau", "pi"),
    "an argument": ("x: float)", "x: float = 1.0)"),
}


@pytest.mark.parametrize("name", SAME)
def test_words_and_layout_do_not_matter(name: str) -> None:
    assert digest({"m": SOURCE.replace(*SAME[name])}) == digest({"m": SOURCE})


@pytest.mark.parametrize("name", OTHER)
def test_what_runs_matters(name: str) -> None:
    assert digest({"m": SOURCE.replace(*OTHER[name])}) != digest({"m": SOURCE})


def test_every_method_has_code_of_its_own() -> None:
    codes = {name: method_code(name, option_values(name, "paper", {})) for name in METHODS}
    assert len(set(codes.values())) == len(codes) and UNKNOWN not in codes.values()


def test_a_plug_in_counts_with_its_learner_and_with_its_kernels() -> None:
    modules = _modules((METHODS["remop"], METHODS["fixmatch"]))
    for name in ("methods.papers.remop", "methods.general.fixmatch", "methods.base", "kernels.pseudo.op"):
        assert f"ferbench.{name}" in modules
    assert not any(name.startswith("ferbench.bench") or "pico" in name for name in modules)
    values = {**option_values("remop", "paper", {}), "learner": "vanilla"}
    assert method_code("remop", values) != method_code("remop", {**values, "learner": "fixmatch"})


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_class_from_outside_the_package(tmp_path: Path) -> None:
    """Its file, and what it uses of ours."""
    path = tmp_path / "my_own_method.py"
    head = "from ferbench.methods.general.fixmatch import FixMatch\n\n\nclass Mine(FixMatch):\n"
    path.write_text(f"{head}    rate = 1\n")
    first = class_code(load(path).Mine)
    path.write_text(f"{head}    rate = 2\n")
    second = class_code(load(path).Mine)
    assert first != second and UNKNOWN not in (first, second)
    assert "ferbench.methods.consistency" in _modules((sys.modules["my_own_method"].Mine,))
