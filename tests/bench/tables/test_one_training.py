"""Columns that train one network and test it on several data sets: trained once, scored as if each had been trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ferbench.bench.tables.running.plan import make_plan
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training.recording import records
from ferbench.protocols import cells, load_protocol

TWO_TESTS = """
[datasets.other]
reader = "synthetic"
options = { scale = 0.02, size = 16 }

[[tables]]
id = "two"
kind = "figure"
caption = "Two test sets"
source = "none"
metrics = ["overall"]
seeds = [1]
absent = [{ why = "nobody's" }]
rows = [{ id = "vanilla", label = "Vanilla", method = "vanilla" }]
columns = [
    { id = "own", label = "", dataset = "synthetic", split = "SPLIT", recipe = "synthetic" },
    { id = "other", label = "", dataset = "synthetic", split = "SPLIT", recipe = "synthetic", test = "other" },
]
"""


def test_a_second_test_set_is_scored_by_the_network_of_the_first(
    ferbench: Any, tiny_protocol: Path, tmp_path: Path
) -> None:
    path = tiny_protocol / "protocol.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text + TWO_TESTS.replace("SPLIT", text.split("[splits.")[1].split("]")[0]), encoding="utf-8")
    done = ferbench("reproduce", "tiny/two", "--jobs", 1)
    assert done.code == 0, done.err
    found = {
        record["trained_by"] if "trained_by" in record else "": (file.parent, record)
        for file in tmp_path.glob("results/runs/*/record.json")
        for record in [records.read_json(file)]
    }
    (base,) = (name for name in found if name)
    assert found[""][0].name == base and not (found[base][0] / "checkpoint.pt").exists()
    scored = found[base][1]
    assert set(scored["metrics"]) == {"last"}
    alone = ferbench("reproduce", "tiny/two/vanilla/other", "--jobs", 1, "--results", tmp_path / "alone")
    assert alone.code == 0, alone.err
    (trained,) = (records.read_json(file) for file in tmp_path.glob("alone/runs/*/record.json"))
    assert trained["metrics"]["last"] == scored["metrics"]["last"]
    assert trained["evidence"] == scored["evidence"] and "trained_by" not in trained
    assert found[""][1]["metrics"]["last"] != scored["metrics"]["last"]


def test_the_papers_columns_that_test_elsewhere_name_the_run_that_trains(tmp_path: Path) -> None:
    """A plan of ReMoP's Table 1 without data leaves everything out; the demo's columns differ in more than the test."""
    plan = make_plan(cells(load_protocol("demo")), "cpu", 1, Workspace(tmp_path, tmp_path), None)
    assert plan.runs and all(run.trained_by is None for _, _, run in plan.runs)
