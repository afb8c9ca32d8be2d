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

from ferbench.bench.board import shown as shown_module
from ferbench.bench.board.csv_file import COLUMNS, write_csv
from ferbench.bench.board.leaderboard import Leaderboard, Line, collect
from ferbench.bench.board.shown import render
from ferbench.bench.cli import main
from ferbench.bench.tables.planning.implemented import implemented
from ferbench.bench.terminal import Terminal
from ferbench.protocols import Protocol, load_protocol, select

RecordRun = Callable[..., str]
REMOP = "remop/3/remop/rafdb-500-150"  # published 81.42 ± 0.36 / 64.89 ± 2.84
SAME = "remop/1/fixmatch-h-reg/rafdb-500-150"  # the same settings, and so the same runs, in another table
DEMO = select("demo/1/remop")[0].id


def measured(board: Leaderboard) -> list[Line]:
    return [line for line in board.lines if line.run_ids]


def find(board: Leaderboard, **wanted: str) -> Line:
    (line,) = (line for line in board.lines if all(getattr(line, key) == value for key, value in wanted.items()))
    return line


def shown(protocol: Protocol, table: str, board: Leaderboard, **options: Any) -> str:
    console = Terminal(file=io.StringIO(), width=220)
    (chosen,) = (item for item in protocol.tables if item.id == table)
    console.print(render(protocol, chosen, board, **options))
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
    best = find(board, table="3", selection="best-on-test", metric="overall")
    assert best.measured_mean == pytest.approx(245 / 3 + 1)
    assert not board.ignored


def test_one_run_stands_beside_each_tables_own_number(tmp_path: Path, record_run: RecordRun) -> None:
    """Tables 1 and 3 of ReMoP print 81.29 and 81.42 for one setting; Table 1's rows with other options get nothing."""
    name = record_run(REMOP, 1, 80.0)
    chosen = [line for line in measured(collect(tmp_path)) if (line.selection, line.metric) == ("last", "overall")]
    found = {(line.table, line.row): (line.published_mean, line.measured_mean, line.run_ids) for line in chosen}
    assert found == {
        ("1", "fixmatch-h-reg"): (81.29, 80.0, (name,)),
        ("3", "remop"): (81.42, 80.0, (name,)),
        ("letter", "released"): (None, 80.0, (name,)),
    }
    assert [line.delta for line in chosen] == [pytest.approx(-1.29), pytest.approx(-1.42), None]


def test_csv_is_as_printed(tmp_path: Path, record_run: RecordRun) -> None:
    name = record_run(REMOP, 1, 80.13)
    write_csv(collect(tmp_path).lines, tmp_path / "leaderboard.csv")
    text = (tmp_path / "leaderboard.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == ",".join(COLUMNS)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert all(row["run_ids"] for row in rows[:9]) and not any(row["run_ids"] for row in rows[9:])  # measured first
    ours = [row for row in rows if row["run_ids"] and row["table"] == "3"]
    assert ours[0] == {
        "paper": "remop", "table": "3", "row": "remop", "row_label": "FixMatch w/ ReMoP (Ours)",
        "column": "rafdb-500-150",
        "column_label": "RAF-DB N1=500 γ=150", "dataset": "rafdb", "metric": "overall", "variant": "released",
        "preset": "paper", "selection": "last", "published_mean": "81.42", "published_std": "0.36",
        "measured_mean": "80.13", "measured_std": "", "n": "1", "ci_low": "", "ci_high": "", "standing": "",
        "delta": "-1.29", "comparable": "yes", "verifiable": "no", "seeds": "1", "steps": "", "device": "",
        "commit": "", "code": "", "finished_at": "", "ambiguous": "", "run_ids": name,
    }  # fmt: skip
    assert [(row["metric"], row["selection"]) for row in ours] == [
        ("overall", "last"), ("overall", "best-on-test"), ("mean", "last"),
    ]  # fmt: skip


def test_published_numbers_without_runs_are_lines_of_their_own(tmp_path: Path, record_run: RecordRun) -> None:
    """ReMoP prints 205 numbers; the run below stands beside an overall and a mean accuracy in two tables."""
    record_run(REMOP, 1, 80.0)
    only = [load_protocol("remop")]
    board = collect(tmp_path, only)
    waiting = [line for line in board.lines if not line.run_ids]
    assert len(waiting) == 205 - 4
    assert all(
        (line.variant, line.preset, line.selection, line.measured_mean) == ("", "", "", None) for line in waiting
    )
    assert find(board, table="5", row="mek", column="rafdb").published_mean == 89.77
    assert find(board, table="1", row="fixmatch", column="ckplus-500-150", metric="mean").dataset == "rafdb>ckplus"
    assert {line.table for line in collect(tmp_path, only, without_runs=False).lines} == {"1", "3", "letter"}


def test_cpu_preset_is_a_line_of_its_own_without_delta(tmp_path: Path, record_run: RecordRun) -> None:
    record_run(REMOP, 1, 80.0)
    record_run(REMOP, 1, 40.0, preset="cpu")
    board = collect(tmp_path)
    small = find(board, table="3", preset="cpu", selection="last", metric="overall")
    assert (small.measured_mean, small.delta, small.published_mean) == (40.0, None, 81.42)
    assert find(board, table="3", preset="paper", selection="last", metric="overall").measured_mean == 80.0


def test_variants_are_not_mixed(tmp_path: Path, record_run: RecordRun) -> None:
    record_run(REMOP, 1, 80.0)
    record_run(REMOP, 2, 60.0, variant="paper")
    found = {line.variant: line.seeds for line in measured(collect(tmp_path)) if line.table == "3"}
    assert found == {"released": (1,), "paper": (2,)}


def test_no_results_folder(tmp_path: Path) -> None:
    board = collect(tmp_path / "none", [load_protocol("remop")])
    assert (len(board.lines), board.ignored) == (205, ())


def test_rendered_table_shows_every_row(tmp_path: Path, record_run: RecordRun) -> None:
    for seed, value in [(1, 80.0), (2, 81.0)]:
        record_run(REMOP, seed, value)
    protocol, board = load_protocol("remop"), collect(tmp_path)
    text = shown(protocol, "3", board)
    for row in protocol.tables[2].rows:
        assert row.label in text
    assert "81.42 ± 0.36 / 64.89 ± 2.84" in text
    assert "80.50 ± 0.71 / 70.50 ± 0.71 (n=2)" in text
    assert "not comparable" not in text
    ours = [line for line in text.splitlines() if "released paper last" in line]
    assert len(ours) == 1 and ours[0].count("not run") == 3
    by_label = {line.split("│")[1].strip(): position for position, line in enumerate(text.splitlines()) if "│" in line}
    cpe = text.splitlines()[by_label["FixMatch w/ CPE"] + 1]
    assert implemented(select("remop/3/cpe")[0]) == ("not implemented yet" not in cpe)


def test_a_wide_table_shows_the_columns_that_have_runs_and_counts_the_others(
    tmp_path: Path, record_run: RecordRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_module, "MOST_COLUMNS", 3)
    assert "columns without a run" not in shown(load_protocol("remop"), "3", collect(tmp_path))
    record_run(REMOP, 1, 80.0)
    text = shown(load_protocol("remop"), "3", collect(tmp_path))
    assert (
        "3 columns without a run are not shown" in text and "not run" not in text.split("released paper last")[1][:60]
    )


def test_rendered_table_tells_published_only_and_absent(tmp_path: Path) -> None:
    text = shown(load_protocol("remop"), "5", collect(tmp_path))
    assert text.count("published only") == 2
    assert "mek/ferplus: printed as -" in text
    assert "One seed, its value not stated" in text


def test_rendered_cpu_table_says_it_does_not_compare(tmp_path: Path, record_run: RecordRun) -> None:
    record_run(DEMO, 1, 80.0, preset="cpu")
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


def test_implemented_asks_for_the_method_and_the_learner_it_is_put_on() -> None:
    cell = select(REMOP)[0]
    assert implemented(cell)
    assert not implemented(replace(cell, row=replace(cell.row, method="nothing")))
    assert not implemented(replace(cell, row=replace(cell.row, options={"learner": "nothing"})))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of `ferbench leaderboard ARGUMENTS`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["ferbench", "leaderboard", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def papers(path: Path) -> set[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["paper"] for row in csv.DictReader(file) if row["run_ids"]}


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        pytest.param((), {"remop", "demo"}, id="all papers"),
        pytest.param(("--paper", "demo"), {"remop", "demo"}, id="one paper printed"),
        pytest.param(("--paper", "demo", "--csv", "elsewhere/demo.csv"), {"demo"}, id="one paper written"),
        pytest.param(("--csv", "elsewhere/all.csv"), {"remop", "demo"}, id="all papers elsewhere"),
    ],
)
def test_command_keeps_every_paper_in_the_folders_own_table(
    tmp_path: Path,
    record_run: RecordRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    written: set[str],
) -> None:
    record_run(REMOP, 1, 80.0)
    record_run(DEMO, 1, 60.0, preset="cpu")
    record_run(REMOP, 2, 60.0, name="old", made_for={"protocol": "remop", "version": 0, "cell": REMOP})
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "--results", ".", *arguments) == 0
    path = arguments[-1] if "--csv" in arguments else "leaderboard.csv"
    assert papers(tmp_path / path) == written
    assert sorted(map(str, Path().rglob("*.csv"))) == [path]
    printed = capsys.readouterr().out
    remop_too = "--paper" not in arguments
    assert "demo 1:" in printed
    assert ("remop 3:" in printed) == ("remop 1:" in printed) == remop_too
    assert ("not counted: old" in printed) == remop_too
    assert "remop 2:" not in printed  # nothing was measured for it
    assert printed.endswith(f"wrote {path}\n")


def test_command_shows_the_selection_asked_for(
    record_run: RecordRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record_run(DEMO, 1, 60.0, preset="cpu")
    for selection, numbers in {"last": (True, False), "best-on-test": (False, True), "all": (True, True)}.items():
        assert command(monkeypatch, "--results", str(tmp_path), "--selection", selection) == 0
        printed = capsys.readouterr().out
        assert ("60.00" in printed, "61.00" in printed) == numbers


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--paper", "remp"), "ferbench: --paper: unknown protocol 'remp'; did you mean 'remop'?\n"),
        (
            ("--selection", "b"),
            "ferbench: --selection: unknown selection 'b'; valid: last, best-on-val, best-on-test, "
            "best-epoch-on-test, all\n",
        ),
    ],
    ids=["paper", "selection"],
)
def test_command_refuses_a_misspelt_name_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    error: str,
) -> None:
    assert command(monkeypatch, "--results", str(tmp_path), *arguments) == 2
    assert capsys.readouterr().err == error
    assert not list(tmp_path.iterdir())


def test_the_share_of_ambiguous_sets_stands_beside_the_number(tmp_path: Path, record_run: RecordRun) -> None:
    for seed, share in ((1, 40.0), (2, 50.0)):
        run = record_run("pll/1/rc/rafdb", seed, 70.0, preset="cpu")
        record = json.loads((tmp_path / "runs" / run / "record.json").read_text())
        record["candidates"] = {"ambiguous": share, "classes": 1.4, "given_in_top_k": 90.0}
        (tmp_path / "runs" / run / "record.json").write_text(json.dumps(record))
    board = collect(tmp_path)
    line = find(board, paper="pll", table="1", row="rc", column="rafdb", metric="overall", selection="last")
    assert line.ambiguous == 45.0
    assert "rc/rafdb: 45.0 % of the candidate sets have more than one class" in shown(load_protocol("pll"), "1", board)
    assert all(other.ambiguous is None for other in board.lines if not other.run_ids)


def with_code(results: Path, name: str, code: str) -> None:
    path = results / "runs" / name / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "code": code}), encoding="utf-8")


@pytest.mark.parametrize(
    ("codes", "said"),
    [(("aaaa", "aaaa"), ""), (("aaaa", "bbbb"), "aaaa, bbbb"), (("aaaa", ""), "aaaa, unknown"), (("", ""), "")],
    ids=["one code", "two codes", "one is not known", "none is known"],
)
def test_a_cell_of_mixed_code_says_so(tmp_path: Path, record_run: RecordRun, codes: tuple[str, str], said: str) -> None:
    for seed, code in enumerate(codes, start=1):
        name = record_run(REMOP, seed, 80.0)
        if code:
            with_code(tmp_path, name, code)
    text = shown(load_protocol("remop"), "3", collect(tmp_path, [load_protocol("remop")]))
    assert ("mixed code" in text) == bool(said)
    assert f"by 2 versions of the method ({said})" in text or not said
