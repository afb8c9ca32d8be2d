"""Tables on more than one machine: how far a table is, and results that are brought together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ferbench.bench.cli.app import app
from ferbench.bench.terminal import say


@app.command("merge")
def merge_command(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results folders to bring together.")],
    results: Annotated[Path, typer.Option(help="The results folder that they are brought into.")] = Path("results"),
) -> None:
    """Bring results folders together.

    The same run in two of them is compared: kept once where all numbers and predictions agree, kept twice and said
    where they do not. A damaged run stays out, with the reason. Exit code 1 where one did.
    """
    from ferbench.bench.board.merge import merge

    counts: Counter[str] = Counter()
    for source in sources:
        for one in merge(source, results):
            counts[one.what] += 1
            if one.what != "new" or one.why == "":
                say(f"{one.what + ':':<12} {one.name}{f': {one.why}' if one.why else ''}")
    say(f"merged into {results}: " + (", ".join(f"{count} {what}" for what, count in counts.items()) or "nothing"))
    if counts["refused"]:
        raise typer.Exit(1)
