"""The light door: ops, methods and protocols need torch, triton and numpy, and the command says what the rest needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ferbench.bench.cli import OF_THE_HARNESS

NAMES = {"pillow": "PIL", "scikit-learn": "sklearn"}  # packages that are imported by another name

BLOCK = f"""
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OF_THE_HARNESS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""

OPS = """
import torch
from ferbench import kernels
from ferbench.kernels import info_nce
a, b = (torch.randn(8, 16, requires_grad=True) for _ in range(2))
info_nce(a, b, temperature=0.1).backward()
assert a.grad.abs().sum() > 0
from ferbench.methods import METHODS
from ferbench.protocols import load_protocol, protocol_names
[METHODS[name] for name in METHODS]
[load_protocol(name) for name in protocol_names()]
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True)


def test_ops_methods_and_protocols_without_the_harness() -> None:
    done = python(OPS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", ["", "--help", "list methods"])
def test_the_command_says_what_to_install(words: str) -> None:
    done = python(f"sys.argv = ['ferbench', *{words.split()!r}]\nfrom ferbench.bench.cli import main\nmain()")
    assert done.returncode == 2 and "pip install 'ferbench[bench]'" in done.stderr and "Traceback" not in done.stderr


def test_the_extra_brings_what_the_harness_imports() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def packages(lines: list[str]) -> set[str]:
        found = {line.partition(";")[0].split(">")[0].strip() for line in lines}
        return {NAMES.get(name, name) for name in found}

    assert packages(project["dependencies"]) == {"torch", "triton", "numpy"}
    assert packages(project["optional-dependencies"]["bench"]) == set(OF_THE_HARNESS)
    assert "ferbench[bench]" in project["optional-dependencies"]["dev"]
