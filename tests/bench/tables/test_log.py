"""The log's tables are of records that are there: no figure outlives the run it was taken from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

from ferbench.bench.board.compare import compare, side
from ferbench.bench.board.leaderboard import collect
from ferbench.bench.board.order import orders
from ferbench.bench.board.statistics import Difference
from ferbench.bench.tables.settings import same_run
from ferbench.bench.training.recording import records

RESULTS = Path(__file__).parents[3] / "results"


def measured() -> set[tuple[str, str, str]]:
    """(seeds, overall, mean) as the log writes them, of every run and of several runs with the same settings."""
    runs: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for path in sorted(RESULTS.glob("runs/*/record.json")):
        spec, last = records.read_json(path.with_name("spec.json")), records.read_json(path)["metrics"]["last"]
        runs[same_run(spec)][spec["seed"]] = (last["overall"], last["mean"])
    found = set()
    for by_seed in runs.values():
        found |= {(str(seed), *(f"{value:.2f}" for value in values)) for seed, values in by_seed.items()}
        for chosen in (part for size in range(2, len(by_seed) + 1) for part in combinations(sorted(by_seed), size)):
            columns = zip(*(by_seed[seed] for seed in chosen), strict=True)
            texts = [f"{mean(column):.2f} ± {stdev(column):.2f}" for column in columns]
            found.add((",".join(map(str, chosen)), *texts))
    return found


def rows(*columns: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and these columns of every row of a table that has the first of them."""
    header: list[str] = []
    for number, line in enumerate((RESULTS / "LOG.md").read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if columns[0] in cells:
            header = cells
        elif not cells:
            header = []
        elif header and not re.fullmatch(r"-*", cells[0]):
            place = dict(zip(header, cells, strict=True))
            yield number, tuple(place[column] for column in columns)


def test_every_row_of_the_log_has_its_records() -> None:
    there, listed = measured(), list(rows("seeds", "overall", "mean"))
    assert len(listed) > 30
    assert [row for row in listed if row[1] not in there] == []


def test_every_claim_of_the_log_is_what_compare_says() -> None:
    """A row with `first` and `second` has n seeds and, for overall and mean, the difference and its 95 % interval.

    A side may end in "under PRESET"; else it is under cpu.
    """
    listed = list(rows("first", "second", "n", "overall", "mean"))
    assert listed
    for number, (first, second, *stated) in listed:
        names = (name.partition(" under ") for name in (first, second))
        found = compare(*(side(name.strip("`"), RESULTS, preset=preset or "cpu") for name, _, preset in names))
        by_metric = {one.what: one.difference for one in found.compared}
        assert found.images, f"line {number}: {found.note}"
        assert stated == [str(len(found.seeds)), *(written(by_metric[metric]) for metric in ("overall", "mean"))]


def test_every_order_of_the_log_is_the_boards() -> None:
    found = {
        (f"{one.paper} {one.table}, {one.column}", one.metric): (
            str(one.rows), f"{one.rho:+.2f} [{one.interval.low:+.2f}, {one.interval.high:+.2f}]",
        )
        for one in orders(collect(RESULTS)) if one.preset == "cpu"
    }  # fmt: skip
    for number, (column, metric, *stated) in rows("column", "metric", "rows", "rank correlation"):
        assert found[column, metric] == tuple(stated), f"line {number}"


def written(difference: Difference) -> str:
    assert difference.interval
    return f"{difference.mean:+.1f} [{difference.interval.low:+.1f}, {difference.interval.high:+.1f}]"
