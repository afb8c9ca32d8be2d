"""How runs are averaged beside published numbers, what the CSV file and the tables say, and which papers they hold."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ferbench.bench.cli import main
from ferbench.bench.leaderboard import Leaderboard, Line, collect, implemented, render, write_csv
from ferbench.protocols import Protocol, load_protocol, protocol_names, select

RecordRun = Callable[..., str]
HEADER = (
    "paper,table,row,column,dataset,metric,variant,preset,selection,published_mean,published_std,"
    "measured_mean,measured_std,seeds,delta,run_ids"
)
REMOP = "remop/3/remop/rafdb-500-150"  # published 81.42 ± 0.36 / 64.89 ± 2.84
SAME = "remop/1/fixmatch-h-reg/rafdb-500-150"  # the same settings, and so the same runs, in another table
DEMO = "demo/1/remop/synthetic-400-20"
PUBLISHED = sum(len(table.published) for name in protocol_names() for table in load_protocol(name).tables)


def measured(board: Leaderboard) -> list[Line]:
    return [line for line in board.lines if line.run_ids]


def find(board: Leaderboard, **wanted: str) -> Line:
    (line,) = (line for line in board.lines if all(getattr(line, key) == value for key, value in wanted.items()))
    return line


def shown(protocol: Protocol, table: str, board: Leaderboard, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=220)
    (chosen,) = (item for item in protocol.tables if item.id == table)
    console.print(render(protocol, chosen, board.lines, **options))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_mean_sample_std_and_delta_over_three_seeds(tmp_path: Path, record_run: RecordRun) -> None:
    names = [record_run(REMOP, seed, value) for seed, value in [(3, 84.0), (1, 80.0), (2, 81.0)]]
    board = collect(tmp_path)
    line = find(board, paper="remop", table="3", selection="last", metric="overall")
    assert line.measured_mean == pytest.approx(245 / 3)
    assert line.measured_std == pytest.approx((13 / 3) ** 0.5)  # (25 + 4 + 49) / 9 over n - 1
    assert (line.published_mean, line.published_std) == (81.42, 0.36)
    assert line.delta == pytest.approx(245 / 3 - 81.42)
    assert (line.seeds, line.run_ids) == ((1, 2, 3), (names[1], names[2], names[0]))
    mean_line = find(board, paper="remop", table="3", selection="last", metric="mean")
    assert mean_line.published_mean == 64.89
    assert mean_line.delta == pytest.approx(245 / 3 - 10 - 64.89)
    assert find(board, selection="best-on-test").measured_mean == pytest.approx(245 / 3 + 1)
    assert not board.ignored


def test_csv_is_as_printed(tmp_path: Path, record_run: RecordRun) -> None:
    name = record_run(REMOP, 1, 80.13)
    write_csv(collect(tmp_path).lines, tmp_path / "leaderboard.csv")
    text = (tmp_path / "leaderboard.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == HEADER
    ours = [row for row in csv.DictReader(io.StringIO(text)) if row["run_ids"]]
    assert list(ours[0].values()) == [
        "remop", "3", "remop", "rafdb-500-150", "rafdb", "overall", "released", "paper", "last",
        "81.42", "0.36", "80.13", "", "1", "-1.29", name,
    ]  # fmt: skip
    assert [(row["metric"], row["selection"]) for row in ours] == [
        ("overall", "last"), ("overall", "best-on-test"), ("mean", "last"),
    ]  # fmt: skip


def test_published_numbers_without_runs_are_lines_of_their_own(tmp_path: Path, record_run: RecordRun) -> None:
    record_run(REMOP, 1, 80.0)
    board = collect(tmp_path)
    waiting = [line for line in board.lines if not line.run_ids]
    assert len(waiting) == 205 - 2
    assert all(
        (line.variant, line.preset, line.selection, line.measured_mean) == ("", "", "", None) for line in waiting
    )
    assert find(board, table="5", row="mek", column="rafdb").published_mean == 89.77
    assert find(board, table="1", row="fixmatch", column="ckplus-500-150", metric="mean").dataset == "rafdb>ckplus"
    assert len(collect(tmp_path, without_runs=False).lines) == 3


def test_cpu_preset_is_a_line_of_its_own_without_delta(tmp_path: Path, record_run: RecordRun) -> None:
    record_run(REMOP, 1, 80.0)
    record_run(REMOP, 1, 40.0, preset="cpu")
    board = collect(tmp_path)
    small = find(board, preset="cpu", selection="last", metric="overall")
    assert (small.measured_mean, small.delta, small.published_mean) == (40.0, None, 81.42)
    assert find(board, preset="paper", selection="last", metric="overall").measured_mean == 80.0


def test_variants_are_not_mixed(tmp_path: Path, record_run: RecordRun) -> None:
    record_run(REMOP, 1, 80.0)
    record_run(REMOP, 2, 60.0, variant="paper")
    found = {line.variant: line.seeds for line in measured(collect(tmp_path)) if line.metric == "mean"}
    assert found == {"released": (1,), "paper": (2,)}


def test_no_results_folder(tmp_path: Path, record_run: RecordRun) -> None:
    board = collect(tmp_path / "none")
    assert (len(board.lines), board.ignored) == (205, ())


def test_rendered_table_shows_every_row(tmp_path: Path, record_run: RecordRun) -> None:
    for seed, value in [(1, 80.0), (2, 81.0)]:
        record_run(REMOP, seed, value)
    protocol, board = load_protocol("remop"), collect(tmp_path)
    text = shown(protocol, "3", board)
    for row in protocol.tables[2].rows:
        assert row.label in text
    assert "81.42 ± 0.36 / 64.89 ± 2.84" in text
    assert "80.50 ± 0.71 / 70.50 ± 0.71" in text
    assert "not comparable" not in text
    ours = [line for line in text.splitlines() if "released paper last" in line]
    assert len(ours) == 1 and ours[0].count("not run") == 3
    by_label = {line.split("│")[1].strip(): position for position, line in enumerate(text.splitlines()) if "│" in line}
    cpe = text.splitlines()[by_label["FixMatch w/ CPE"] + 1]
    assert implemented(select("remop/3/cpe")[0]) == ("not implemented yet" not in cpe)


def test_rendered_table_tells_published_only_and_absent(tmp_path: Path, record_run: RecordRun) -> None:
    text = shown(load_protocol("remop"), "5", collect(tmp_path))
    assert text.count("published only") == 4
    assert "mek/ferplus: printed as -" in text
    assert "One seed, its value not stated" in text


def test_rendered_cpu_table_says_it_does_not_compare(tmp_path: Path, record_run: RecordRun) -> None:
    record_run("demo/1/remop/synthetic-400-20", 1, 80.0, preset="cpu")
    text = shown(load_protocol("demo"), "1", collect(tmp_path))
    assert "preset cpu: its numbers are not comparable with published ones" in text
    assert "80.00 / 70.00" in text
    assert "published " not in text.split("preset cpu")[0]


def test_best_on_test_is_shown_only_when_asked_for(tmp_path: Path, record_run: RecordRun) -> None:
    record_run(REMOP, 1, 80.0)
    protocol, board = load_protocol("remop"), collect(tmp_path)
    assert "best-on-test" not in shown(protocol, "3", board)
    text = shown(protocol, "3", board, selections=("last", "best-on-test"))
    assert "81.00 / -" in text


@pytest.mark.parametrize(
    ("target", "expected"),
    [("remop/3/vanilla", True), ("remop/1/vanilla-h", True), ("remop/1/fixmatch-h-reg", True)],
)
def test_implemented(target: str, expected: bool) -> None:
    assert all(implemented(cell) == expected for cell in select(target))


def test_unknown_method_or_learner_is_not_implemented() -> None:
    cell = select(REMOP)[0]
    assert not implemented(replace(cell, row=replace(cell.row, method="nothing")))
    assert not implemented(replace(cell, row=replace(cell.row, options={"learner": "nothing"})))
