"""What can a user ask for? The command line, a file per family of commands.

Start with `entry.py`, which turns every mistake of a user's into one line, then read the family you are after: `lists`,
`data`, `running`, `board`, `studies`. Importing any of them costs no torch: a command imports what it needs when it is
called, so that `ferbench --help` and a misspelt option are answered at once.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console command; Ctrl-C is one line from the first moment on."""
    try:
        from ferbench.bench.cli.entry import run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("ferbench: stopped; what was saved before is kept\n")
        sys.exit(130)
