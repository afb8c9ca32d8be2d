"""The board as CSV and DataFrame: order, columns, and names that a spreadsheet or a terminal would obey."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

import ferbench
from ferbench.bench.board.csv_file import COLUMNS, cell, ordered, write_csv
from ferbench.bench.board.leaderboard import Line, collect
from ferbench.bench.training.recording.records import RunError
from tests.bench.board.conftest import Command, EvidentRun, edit


def measured(tmp_path: Path) -> Line:
    return next(line for line in collect(tmp_path).lines if line.run_ids)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1+1", "'-1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"), ("\n=1", "\\n=1"), ("a=1", "a=1"),
    ],
)  # fmt: skip
def test_what_a_spreadsheet_would_run_is_text(tmp_path: Path, evident_run: EvidentRun, text: str, kept: str) -> None:
    evident_run()
    line = replace(measured(tmp_path), row_label=text, device=(text,), delta=-1.5)
    write_csv([line], tmp_path / "board.csv")
    with (tmp_path / "board.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["row_label"] == row["device"] == kept
    assert row["delta"] == "-1.50"  # a number, and no text


def test_measured_lines_come_first_and_comparable_ones_before_them(tmp_path: Path, evident_run: EvidentRun) -> None:
    evident_run()
    board = collect(tmp_path)
    mine = measured(tmp_path)
    lines = ordered([*board.lines, replace(mine, comparable=True, row="comparable")])
    assert lines[0].row == "comparable" and lines[1].run_ids
    kinds = [bool(line.run_ids) for line in lines]
    assert kinds == sorted(kinds, reverse=True)


def test_a_line_says_what_it_was_made_with(tmp_path: Path, evident_run: EvidentRun) -> None:
    names = [evident_run(seed=seed) for seed in (1, 2)]
    edit(tmp_path / "runs" / names[1] / "record.json", lambda record: record.update(code="other", device="another"))
    line = measured(tmp_path)
    assert (line.n, line.steps, line.code) == (2, ("30",), ("c0de", "other"))
    assert line.finished_at == "2026-11-12T10:00:00Z" and line.verifiable is True and line.comparable is False
    assert line.ci_low is not None and line.measured_mean is not None and line.ci_high is not None
    assert line.ci_high - line.measured_mean == pytest.approx(line.measured_mean - line.ci_low)
    assert cell(line.device) == "a processor; another" and cell(line.code) == "c0de other"
    assert (cell(None), cell(True), cell(False), cell(1.005), cell(3)) == ("", "yes", "no", "1.00", "3")


def test_data_frame(tmp_path: Path, evident_run: EvidentRun) -> None:
    pandas = pytest.importorskip("pandas")
    evident_run()
    frame = ferbench.leaderboard(tmp_path, measured=True)
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == list(COLUMNS)
    assert frame["n"].tolist() == [1] * len(frame) and frame["measured_mean"].notna().all()
    assert len(ferbench.leaderboard(str(tmp_path))) > 1000
    with pytest.raises(RunError, match="no such results folder"):
        ferbench.leaderboard(tmp_path / "nope")


def test_a_terminal_does_not_obey_names(
    tmp_path: Path, evident_run: EvidentRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    name = evident_run(own=True, split={"kind": "[red]x[/red]\x1b[31m", "parameters": {}})
    assert command("leaderboard", "--results", str(tmp_path)) == 0
    assert command("runs", "--results", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "[red]" in printed and name in printed
