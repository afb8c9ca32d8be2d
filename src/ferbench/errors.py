"""The exceptions that the command line shows to its user as one line."""

from __future__ import annotations

import re

# C0 and C1 controls, line and paragraph separators, marks that turn the direction of text, and lone surrogates
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """`text` in one line, with its control characters written out: a newline as \\n, an escape as \\x1b."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class UserError(Exception):
    """Something that the user can mend; the message is one line that says what, where and how.

    The command line prints the message and exits with code 2. Every other exception, `Interrupted` apart, is a fault of
    ferbench. A message may quote names that anybody gave to files and classes, so control characters are written out.
    """

    def __str__(self) -> str:
        return shown(super().__str__())


class DataError(UserError):
    """Something is wrong with the user's data; the message says what, where and how to mend it, in one line."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # 130 for Ctrl-C, 143 for SIGTERM
