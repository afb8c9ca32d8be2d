"""The form of the lines that `ferbench list` prints."""

from __future__ import annotations

INDENT = "    "


def cut(line: str, width: int | None) -> str:
    """The line as a terminal of this width shows it; whole without a width."""
    return line if width is None or len(line) <= width else line[: width - 1] + "…"
