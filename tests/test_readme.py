"""The figures of README's demo are those of committed records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
ROWS = {"Vanilla": "vanilla", "FixMatch": "fixmatch", "FixMatch w/ ReMoP": "remop"}
COLUMNS = {"N1=200 γ=20": 20, "N1=200 γ=50": 50}


def measured(method: str, gamma: int, metric: str) -> str:
    """Mean and standard deviation over the seeds of the records of one cell."""
    values = []
    for path in (ROOT / "results" / "runs").glob(f"synthetic-long_tailed-200-{gamma}-{method}-paper-cpu-s*/spec.json"):
        spec = json.loads(path.read_text())
        if spec["made_for"]["protocol"] == "demo":
            values.append(json.loads(path.with_name("record.json").read_text())["metrics"]["last"][metric])
    assert len(values) == 2
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def test_the_demo_of_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (part for part in text.split("```") if "FixMatch w/ ReMoP" in part)
    head, *lines = [re.split(r"  +", line.strip()) for line in block.strip().splitlines()]
    assert head[2:] == list(COLUMNS) and [line[0] for line in lines] == list(ROWS)
    for line in lines:
        shown = [f"{measured(ROWS[line[0]], gamma, 'overall')} / {measured(ROWS[line[0]], gamma, 'mean')}"
                 for gamma in COLUMNS.values()]  # fmt: skip
        assert line[2:] == shown
