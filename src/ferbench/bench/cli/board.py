"""The leaderboard, what its differences can carry, and whether its runs are what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import ArgumentError, Results, Roots, workspace
from ferbench.bench.terminal import say
from ferbench.validation import unknown

if TYPE_CHECKING:
    from ferbench.bench.board.leaderboard import Leaderboard
    from ferbench.bench.tables.counting.counted import Ignored


@app.command()
def leaderboard(
    csv: Annotated[Path | None, typer.Option(help="Default: leaderboard.csv in the results, all papers.")] = None,
    paper: Annotated[list[str] | None, typer.Option(help="Only this protocol, or `yours`; repeatable.")] = None,
    selection: Annotated[str, typer.Option(help="last, best-on-val, best-on-test, best-epoch-on-test or all.")] = (
        "last"
    ),
    against: Annotated[str, typer.Option(help="ROW: show how each row differs from it, with intervals.")] = "",
    results: Results = Path("results"),
) -> None:
    """Show published beside measured numbers.

    Rows that the runs do not tell from the best of their column are marked as ties, and each column says how far two
    rows must be apart to be told apart. Your own runs and protocols have tables of their own.
    """
    from ferbench.bench.board.csv_file import write_csv
    from ferbench.bench.board.frame import existing
    from ferbench.bench.board.leaderboard import SELECTIONS, collect
    from ferbench.bench.board.shown import render
    from ferbench.protocols import ProtocolError

    if selection not in (*SELECTIONS, "all"):
        raise ArgumentError(unknown("selection", selection, (*SELECTIONS, "all"), "--selection"))
    board = collect(existing(results))
    for name in paper or ():
        if name not in (names := [protocol.name for protocol in board.protocols]):
            raise ProtocolError(unknown("protocol", name, names, "--paper"))
    chosen = [protocol for protocol in board.protocols if not paper or protocol.name in paper]
    papers = {protocol.name for protocol in chosen}
    shown = SELECTIONS if selection == "all" else (selection,)
    measured = {(line.paper, line.table) for line in board.lines if line.run_ids}
    tables = [(protocol, table) for protocol in chosen for table in protocol.tables]
    tables = [(protocol, table) for protocol, table in tables if (protocol.name, table.id) in measured]
    if against:
        _say_against(against, board, {(protocol.name, table.id) for protocol, table in tables})
        return
    for protocol, table in tables:
        say(render(protocol, table, board, shown))
    say_ignored(run for run in board.ignored if not paper or run.paper in papers)
    written = csv or results / "leaderboard.csv"
    write_csv([line for line in board.lines if not csv or line.paper in papers], written)
    say(f"wrote {written}")


def _say_against(row: str, board: Leaderboard, tables: set[tuple[str, str]]) -> None:
    from ferbench.bench.board.compare import against
    from ferbench.bench.board.shown import against_table

    found = [one for one in against(row, board) if (one.line.paper, one.line.table) in tables]
    if not found:
        rows = sorted({line.row for line in board.lines if line.run_ids and (line.paper, line.table) in tables})
        raise ArgumentError(unknown("measured row", row, rows, "--against"))
    say(against_table(row, found))


OF_SEVERAL = "Where cells were run under several; twice for the first and the second."


@app.command("compare")
def compare_command(
    first: Annotated[str, typer.Argument(help="PAPER/TABLE/ROW/COLUMN or a run; with @RULE its inference rule.")],
    second: Annotated[str, typer.Argument(help="What to hold against it.")],
    preset: Annotated[list[str] | None, typer.Option(help=OF_SEVERAL)] = None,
    variant: Annotated[list[str] | None, typer.Option(help=OF_SEVERAL)] = None,
    results: Results = Path("results"),
) -> None:
    """Say how two rows differ, and how surely.

    Paired by seed and test image: overall, mean and per-class accuracy with 95 % intervals over seeds and images, the
    hierarchical bootstrap's percentiles, Student's interval over seeds alone, and McNemar's test for each seed.
    """
    from ferbench.bench.board.compare import compare, side
    from ferbench.bench.board.frame import existing
    from ferbench.bench.board.shown import comparison_table

    presets, variants = _of_each("--preset", preset), _of_each("--variant", variant)
    settings = zip((first, second), presets, variants, strict=True)
    say(comparison_table(compare(*(side(target, existing(results), *chosen) for target, *chosen in settings))))


def _of_each(option: str, values: Sequence[str] | None) -> tuple[str | None, str | None]:
    """What the first and the second side are to have."""
    if values and len(values) > 2:
        raise ArgumentError(f"{option} stands {len(values)} times: once is for both sides, twice for first and second")
    return (values[0], values[-1]) if values else (None, None)


@app.command("claims")
def claims_command(
    papers: Annotated[list[str] | None, typer.Argument(help="Only of these protocols.")] = None,
    results: Results = Path("results"),
) -> None:
    """Say which of the papers' claims the runs show.

    A claim is that one row stands above another. Every column and preset in which both have runs is a test of it, with
    the published difference, the measured one with its 95 % interval over seeds and images, and a verdict, for which
    five seeds are the least.
    """
    from ferbench.bench.board.claims import put_to_the_test
    from ferbench.bench.board.frame import existing
    from ferbench.bench.board.leaderboard import collect
    from ferbench.bench.board.shown import claims_lines
    from ferbench.protocols import ProtocolError

    board = collect(existing(results))
    for name in papers or ():
        if name not in (names := [protocol.name for protocol in board.protocols]):
            raise ProtocolError(unknown("protocol", name, names))
    for line in claims_lines(*put_to_the_test(board, papers or ())):
        say(line)


@app.command("runs")
def runs_command(
    words: Annotated[list[str] | None, typer.Argument(help="Only runs whose name or settings hold these.")] = None,
    results: Results = Path("results"),
) -> None:
    """List the runs of a results folder.

    The end of a name, from its hash on, is enough wherever a run is asked for.
    """
    from ferbench.bench.board.run_names import list_runs
    from ferbench.bench.board.shown import runs_lines

    for line in runs_lines(list_runs(results, words or ())):
        say(line)


@app.command("verify")
def verify_command(
    results: Annotated[Path, typer.Argument(help="The results folder.")] = Path("results"),
    data: Annotated[bool, typer.Option(help="Draw splits again where the data set is at hand.")] = True,
    root: Roots = None,
) -> None:
    """Check that records agree with themselves.

    Numbers are worked out again from the counts that records keep, names from settings, splits from the data. Exit code
    1 where something does not agree.
    """
    from ferbench.bench.board.frame import existing
    from ferbench.bench.board.verify import verify

    place = workspace(existing(results), root, None)
    wrong = known = total = 0
    for run in verify(results, place.faces if data else None):
        total += 1
        wrong += bool(run.wrong)
        known += not run.wrong and not run.unknown
        for line in run.wrong:
            say(f"WRONG {run.name}: {line}")
        if not run.wrong:
            for line in run.unknown:
                say(f"{run.name}: {line}")
    say(f"{total} finished runs: {known} agree in all that was worked out again, {wrong} do not")
    if wrong:
        raise typer.Exit(1)


@app.command("report")
def report_command(
    out: Annotated[Path | None, typer.Option(help="Default: report.html in the results folder.")] = None,
    results: Results = Path("results"),
) -> None:
    """Write a page to look at.

    One HTML file that needs no network and no server: the tables with what their differences carry, pictures, a card
    for each run, and what does not count.
    """
    from ferbench.bench.board.report.page import write_report

    path = write_report(results, out)
    say(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")


def say_ignored(ignored: Iterable[Ignored]) -> None:
    """A line for each run that does not count, with the reason."""
    for run in ignored:
        say(f"not counted: {run.run_id}: {run.reason}")
