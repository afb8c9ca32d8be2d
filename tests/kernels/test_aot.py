"""Every kernel compiles for every target within 30 s of processor time and within its committed budget.

The cases are those of `kernels/<op>/aot.py` (`CASES`; those in `FAST` run for sm90 without the slow mark), the budget
is `budget.csv`, and `compile_ahead.py` does the work in one child process for all cases selected.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ferbench.kernels

HERE = Path(__file__).parent
TARGETS = ("sm80", "sm90", "sm100", "gfx942")
TIGHT = ("sm86", "sm89", "sm120")
SHARED_BY = ("contrast/", "center_etf/pairs", "center_etf/gram")
"""How the names of cases begin that hold tiles in shared memory: they are compiled for those, too."""
SHARED_LIMIT = {"sm80": 163 * 1024, "sm90": 227 * 1024, "sm100": 227 * 1024, "gfx942": 64 * 1024}
SHARED_LIMIT |= dict.fromkeys(TIGHT, 99 * 1024)
SECONDS = 30.0
MOST_SPILLED = 40
"""Bytes of a thread that may lie on the stack under any of the supported Tritons, and of few kernels do."""

with (HERE / "budget.csv").open(newline="") as file:
    BUDGET: dict[str, list[dict[str, str]]] = {}
    for line in csv.DictReader(file):
        BUDGET.setdefault(f"{line['case']}@{line['target']}", []).append(line)


def declared() -> dict[str, bool]:
    """`op/case` of every op's aot.py, and whether it is fast; read from the source, as importing would load Triton."""
    cases = {}
    for path in sorted(Path(ferbench.kernels.__path__[0]).glob("*/aot.py")):
        tables = {
            node.targets[0].id: node.value
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        keys = [ast.literal_eval(key) for key in tables["CASES"].keys]  # type: ignore[attr-defined]
        fast = ast.literal_eval(tables["FAST"])
        cases |= {f"{path.parent.name}/{key}": key in fast for key in keys}
    return cases


CASES = declared()
COMPILED = [
    (name, target)
    for name in CASES
    for target in (TARGETS + TIGHT if name.startswith(SHARED_BY) else TARGETS)
]  # fmt: skip


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> dict[str, list[dict[str, Any]]]:
    """What the child process reports for all the cases that this run has selected."""
    selected = [item.callspec.params["case"] for item in request.session.items if "compiled" in item.fixturenames]
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_ahead.py"), *selected],
        capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(f"{name}@{target}", marks=() if CASES[name] and target == "sm90" else pytest.mark.slow)
        for name, target in COMPILED
    ],
)
def test_compiles_within_budget(case: str, compiled: dict[str, list[dict[str, Any]]]) -> None:
    assert case in BUDGET, f"no budget: python tests/kernels/compile_ahead.py --write {case.partition('/')[0]}"
    rows, budget = compiled[case], BUDGET[case]
    assert "error" not in rows[0], rows[0]["error"]
    assert [row["kernel"] for row in rows] == [line["kernel"] for line in budget]
    for row, line in zip(rows, budget, strict=True):
        assert row["spill"] <= int(line["spill"]), f"{row['kernel']} spills {row['spill']} bytes"
        assert row["registers"] <= int(line["registers"]), f"{row['kernel']}: {row['registers']} registers"
        assert row["shared"] <= int(line["shared"]), f"{row['kernel']}: {row['shared']} bytes of shared memory"
        assert row["shared"] <= SHARED_LIMIT[case.split("@")[1]]
        assert row["widest_load"] >= int(line["widest_load"]), f"{row['kernel']}: loads of {row['widest_load']} bits"
        assert row["matrix_unit"] >= int(line["matrix_unit"]), f"{row['kernel']} left the matrix unit"
        assert row["seconds"] < SECONDS, f"{row['kernel']} took {row['seconds']} s to compile"


def test_hardly_anything_spills() -> None:
    spilled = [int(line["spill"]) for lines in BUDGET.values() for line in lines if line["spill"] != "0"]
    assert max(spilled) <= MOST_SPILLED and len(spilled) < 0.07 * sum(map(len, BUDGET.values()))


def test_budget_and_cases_are_the_same_set() -> None:
    assert set(BUDGET) == {f"{name}@{target}" for name, target in COMPILED}
