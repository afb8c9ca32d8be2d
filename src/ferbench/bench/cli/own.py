"""Bring your own: files to start from, and whether they keep to the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import Results, Roots, workspace
from ferbench.bench.terminal import say


@app.command("new")
def new_command(
    kind: Annotated[str, typer.Argument(help="method, dataset or protocol.")],
    name: Annotated[str, typer.Argument(help="What to call it: small letters, digits and _.")],
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = Path("."),
) -> None:
    """Write a method, data set or protocol to start from.

    The file is short and runs as it is.
    """
    from ferbench.bench.templates import write_new

    path = write_new(kind, name, folder)
    say(f"wrote {path}")
    if kind == "protocol":
        say(f"next: ferbench check {path.parent}, then ferbench reproduce {path.parent}")
    else:
        then = f"train {name} --split total:labels=40" if kind == "method" else f"prepare {name} --root YOUR_IMAGES"
        say(f"next: ferbench --plugin {path} check {name}, then ferbench --plugin {path} {then}")


@app.command("check")
def check_command(
    name: Annotated[str, typer.Argument(help="A method, a data set, or a protocol's name or folder.")],
    root: Roots = None,
    results: Results = Path("results"),
) -> None:
    """Check a method, data set or protocol.

    What the training loop, the records and the board count on, a line each; exit code 1 where something is not kept.
    """
    from ferbench.bench.studies.contract import check

    broken = 0
    for promise, wrong in check(name, workspace(results, root, None)):
        broken += bool(wrong)
        say(f"{'BROKEN' if wrong else 'kept':<7} {promise}{': ' + wrong if wrong else ''}")
    if broken:
        raise typer.Exit(1)
