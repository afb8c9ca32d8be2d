"""The one kind of exception that the command line shows to its user."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend; the message is one line that says what, where and how.

    The command line prints the message and exits with code 2. Every other exception is a fault of ferbench.
    """
