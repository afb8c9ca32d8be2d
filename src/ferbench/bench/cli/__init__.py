"""What can a user ask for? The command line, a file per family of commands.

Start with `entry.py`, which turns every mistake of a user's into one line, then read the family you are after: `lists`,
`data`, `running`, `board`, `studies`. Importing any of them costs no torch: a command imports what it needs when it is
called, so that `ferbench --help` and a misspelt option are answered at once.
"""

from __future__ import annotations

import sys

from ferbench.bench.cli import stopping

# what the extra `bench` brings
OF_THE_HARNESS = (
    "typer", "rich", "filelock", "torchvision", "timm", "pandas", "PIL", "sklearn", "scipy", "jinja2", "matplotlib",
)  # fmt: skip


def main() -> None:
    """Entry point of the console command; Ctrl-C and SIGTERM are one line from the first moment on."""
    try:
        stopping.end_as_on_ctrl_c()
        from ferbench.bench.cli.entry import run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("ferbench: stopped; what was saved before is kept\n")
        sys.exit(stopping.exit_code())
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in OF_THE_HARNESS:
            raise
        sys.stderr.write(f"ferbench: {error.name} is not installed: pip install 'ferbench[bench]' brings the harness\n")
        sys.exit(2)
