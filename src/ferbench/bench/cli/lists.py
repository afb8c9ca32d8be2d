"""What is there: methods, protocols and data sets."""

from __future__ import annotations

from typing import Annotated

import typer

from ferbench.bench import terminal
from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import ArgumentError
from ferbench.bench.terminal import say
from ferbench.validation import unknown

KINDS = ("methods", "protocols", "datasets")


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(help="methods, protocols or datasets.")] = "",
    name: Annotated[str, typer.Argument(help="One of them, to see all about it.")] = "",
) -> None:
    """List methods, protocols and data sets."""
    from ferbench.bench.tables.planning import listing

    if what and what not in KINDS:
        raise ArgumentError(unknown("list", what, KINDS))
    if name:
        for line in getattr(listing, f"{what}_card")(name):
            say(line)
        return
    for kind in [what] if what else KINDS:
        for line in getattr(listing, kind)(terminal.console.width if terminal.console.is_terminal else None):
            say(line)
