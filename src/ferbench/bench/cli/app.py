"""The application that the families of commands join."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="Reproduce tables of semi- and weakly-supervised facial expression recognition.",
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


@app.callback(invoke_without_command=True)
def _before_a_command(
    context: typer.Context,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="FILE.py or a module with methods, data sets or backbones of your own; repeatable."),
    ] = None,
) -> None:
    from ferbench import plugins

    plugins.load(plugin or ())
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
