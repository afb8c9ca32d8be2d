"""The exceptions that the command line shows to its user as one line."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend; the message is one line that says what, where and how.

    The command line prints the message and exits with code 2. Every other exception, `Interrupted` apart, is a fault of
    ferbench.
    """


class DataError(UserError):
    """Something is wrong with the user's data; the message says what, where and how to mend it, in one line."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # 130 for Ctrl-C, 143 for SIGTERM
