"""A column that is the mean of others: measured where all of them are, seed by seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ferbench.bench.board.leaderboard import Leaderboard, Line, collect
from ferbench.bench.board.shown import render
from ferbench.protocols import load_protocol

RecordRun = Callable[..., str]
FOLDS = [f"ferplus-fold{fold}" for fold in range(1, 6)]


def lines(tmp_path: Path, column: str) -> list[Line]:
    found = collect(tmp_path, [load_protocol("ssfer")]).lines
    return [line for line in found if (line.table, line.row, line.column) == ("5", "vit-base", column)]


def test_the_mean_of_five_folds(tmp_path: Path, record_run: RecordRun) -> None:
    names = [record_run(f"ssfer/5/vit-base/{fold}", 1, 80.0 + i) for i, fold in enumerate(FOLDS)]
    last, best = lines(tmp_path, "ferplus-average")
    assert (last.selection, last.measured_mean, last.published_mean) == ("last", 82.0, 85.14)
    assert (best.selection, best.measured_mean) == ("best-on-test", 83.0)
    assert last.seeds == (1,) and last.run_ids == (" ".join(names),)
    assert last.measured_std is None and round(last.delta or 0, 2) == -3.14


def test_four_folds_have_no_mean_and_seeds_are_apart(tmp_path: Path, record_run: RecordRun) -> None:
    for i, fold in enumerate(FOLDS):
        record_run(f"ssfer/5/vit-base/{fold}", 1, 80.0 + i)
        if i:
            record_run(f"ssfer/5/vit-base/{fold}", 2, 70.0 + i)
    (last,) = [line for line in lines(tmp_path, "ferplus-average") if line.selection == "last"]
    assert (last.seeds, last.measured_mean) == ((1,), 82.0)


def test_a_missing_mean_is_not_run_and_a_decline_is_published_only(tmp_path: Path) -> None:
    from ferbench.bench.terminal import Terminal

    protocol = load_protocol("ssfer")
    for table, words in (("5", "not run"), ("8", "published only")):
        chosen = next(entry for entry in protocol.tables if entry.id == table)
        console = Terminal(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(render(protocol, chosen, Leaderboard((), ())))
        assert words in console.export_text()
