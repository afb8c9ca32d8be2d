"""What is there: methods, protocols and data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from ferbench.bench import terminal
from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import ArgumentError, Results
from ferbench.bench.terminal import say
from ferbench.validation import unknown

KINDS = ("methods", "protocols", "datasets")


@app.command("list")
def list_command(
    what: Annotated[str, typer.Argument(help="methods, protocols or datasets.")] = "",
    name: Annotated[str, typer.Argument(help="One of them, to see all about it.")] = "",
    results: Results = Path("results"),
) -> None:
    """List methods, protocols and data sets.

    What protocols would cost is estimated by finished runs in the results folder, where a GPU has made any.
    """
    if what and what not in KINDS:
        raise ArgumentError(unknown("list", what, KINDS))
    if name:
        for line in _printer(what, "_card")(name, *([results] if what == "protocols" else [])):
            say(line)
        return
    width = terminal.console.width if terminal.console.is_terminal else None
    for kind in [what] if what else KINDS:
        for line in _printer(kind)(width, *([results] if kind == "protocols" else [])):
            say(line)


def _printer(kind: str, suffix: str = "") -> Callable[..., Iterable[str]]:
    """The function that makes the lines, from the module that imports no more than they need."""
    module = import_module(f"ferbench.bench.tables.planning.{'data_sets' if kind == 'datasets' else 'listing'}")
    found: Callable[..., Iterable[str]] = getattr(module, kind + suffix)
    return found
