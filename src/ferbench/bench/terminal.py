"""The one way to the terminal. Names of files, classes and runs come from anybody: none of it is markup or a command.

Square brackets are printed as they are, and control characters are shown (a newline as \\n, an escape as \\x1b), in
lines and in tables alike. Only process 0 of a torchrun speaks.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from ferbench.errors import shown as shown


class Terminal(Console):
    """A console on which a string is only text, wherever it stands: printed, or in the cell of a table."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)


console = Terminal()
FORMULA = ("=", "+", "-", "@")  # how a cell of a CSV file begins that spreadsheets take for one


def say(*parts: RenderableType) -> None:
    """Print each part: a string as one line that is not broken, anything else (a table) as it is drawn."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def say_text(text: str) -> None:
    """Print a report of several lines."""
    say(*text.splitlines())


def mutter(text: str) -> None:
    """One line on stderr that is no complaint, such as how far something is."""
    print(shown(text), file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    mutter(f"ferbench: {' '.join(message.split())}")


def no_formula(text: str) -> str:
    """A cell of a CSV file, in one line; an apostrophe stands before what a spreadsheet would take for a formula."""
    text = shown(text)
    return f"'{text}" if text.startswith(FORMULA) else text
