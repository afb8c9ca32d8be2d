"""The application that the families of commands join."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Reproduce tables of semi- and weakly-supervised facial expression recognition.",
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
