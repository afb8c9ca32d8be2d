"""The log's tables are of records that are there: no figure outlives the run it was taken from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

from ferbench.bench.tables.settings import same_run
from ferbench.bench.training.recording import records

RESULTS = Path(__file__).parents[3] / "results"


def measured() -> set[tuple[str, str, str]]:
    """(seeds, overall, mean) as the log writes them, of every run and every two runs with the same settings."""
    runs: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for path in sorted(RESULTS.glob("runs/*/record.json")):
        spec, last = records.read_json(path.with_name("spec.json")), records.read_json(path)["metrics"]["last"]
        runs[same_run(spec)][spec["seed"]] = (last["overall"], last["mean"])
    found = set()
    for by_seed in runs.values():
        found |= {(str(seed), *(f"{value:.2f}" for value in values)) for seed, values in by_seed.items()}
        for pair in combinations(sorted(by_seed), 2):
            columns = zip(*(by_seed[seed] for seed in pair), strict=True)
            texts = [f"{mean(column):.2f} ± {stdev(column):.2f}" for column in columns]
            found.add((",".join(map(str, pair)), *texts))
    return found


def rows() -> Iterator[tuple[int, tuple[str, str, str]]]:
    """Line number and (seeds, overall, mean) of every row of a table that has a column of seeds."""
    header: list[str] = []
    for number, line in enumerate((RESULTS / "LOG.md").read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if "seeds" in cells:
            header = cells
        elif not cells:
            header = []
        elif header and not re.fullmatch(r"-*", cells[0]):
            place = dict(zip(header, cells, strict=True))
            yield number, (place["seeds"], place["overall"], place["mean"])


def test_every_row_of_the_log_has_its_records() -> None:
    there, listed = measured(), list(rows())
    assert len(listed) > 30
    assert [row for row in listed if row[1] not in there] == []
