"""The leaderboard: published numbers beside measured ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import ArgumentError, Results
from ferbench.bench.terminal import say
from ferbench.validation import unknown

if TYPE_CHECKING:
    from ferbench.bench.tables.counted import Ignored


@app.command()
def leaderboard(
    csv: Annotated[Path | None, typer.Option(help="Default: leaderboard.csv in the results, all papers.")] = None,
    paper: Annotated[str | None, typer.Option(help="Only this protocol.")] = None,
    selection: Annotated[str, typer.Option(help="last, best-on-val, best-on-test or all.")] = "last",
    results: Results = Path("results"),
) -> None:
    """Show published beside measured numbers."""
    from ferbench.bench.tables.leaderboard import SELECTIONS, collect, render, write_csv
    from ferbench.protocols import load_protocol, protocol_names

    if selection not in (*SELECTIONS, "all"):
        raise ArgumentError(unknown("selection", selection, (*SELECTIONS, "all"), "--selection"))
    known = [load_protocol(name) for name in ([paper] if paper else protocol_names())]
    board = collect(results, known)
    written = collect(results) if paper and not csv else board  # the folder's own table always holds all papers
    write_csv(written.lines, csv or results / "leaderboard.csv")
    shown = SELECTIONS if selection == "all" else (selection,)
    measured = {(line.paper, line.table) for line in board.lines if line.run_ids}
    for protocol in known:
        for table in protocol.tables:
            if (protocol.name, table.id) in measured:
                say(render(protocol, table, board.lines, shown))
    say_ignored(board.ignored)
    say(f"wrote {csv or results / 'leaderboard.csv'}")


def say_ignored(ignored: Iterable[Ignored]) -> None:
    """A line for each run that does not count, with the reason."""
    for run in ignored:
        say(f"not counted: {run.run_id}: {run.reason}")
