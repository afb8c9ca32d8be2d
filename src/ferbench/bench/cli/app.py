"""The application that the families of commands join, and the console they print to."""

from __future__ import annotations

import typer
from rich.console import Console, RenderableType

app = typer.Typer(
    help="Reproduce tables of semi- and weakly-supervised facial expression recognition.",
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
_console = Console()


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def screen() -> Console:
    """The console of this call."""
    return _console


def say(text: str) -> None:
    """Print a line as it is: nothing in it is markup, and it is not folded."""
    screen().print(text, highlight=False, soft_wrap=True, markup=False)


def show(part: RenderableType) -> None:
    """Print a line or a table."""
    if isinstance(part, str):
        say(part)
    else:
        screen().print(part, highlight=False)
