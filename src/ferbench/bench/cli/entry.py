"""One call of the command: every mistake a user can make ends in one line on stderr and exit code 2, no traceback."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import typer

from ferbench.bench import terminal
from ferbench.bench.cli import app, board, cluster, data, lists, own, reproducing, running, stopping, studies
from ferbench.bench.terminal import complain
from ferbench.errors import Interrupted, UserError

# importing them adds their commands, in this order
FAMILIES = (lists, data, running, reproducing, cluster, board, studies, own)
LAUNCHED = "RANK"  # torchrun sets it

# click's UsageError, or that of the copy of click which newer versions of typer hold.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])


def run() -> None:
    """Do what sys.argv asks, also under torchrun: there the first process alone speaks."""
    try:
        with _group():
            code = app.app(standalone_mode=False)
        if code == 130:  # how typer tells of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped; what was saved before is kept", stopping.exit_code())
    except UsageError as error:
        _fail(f"{error.format_message()} (see {_help_of(error)})", 2)
    except UserError as error:
        _fail(str(error), 2)
    except Interrupted as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}", 2)
    except (MemoryError, RuntimeError) as error:  # RuntimeError: torch's, on a GPU and on the CPU
        if _lost_a_process(error):  # said by whoever is left
            complain("another process of this run has ended; what was saved is kept: start the same command again")
            sys.exit(2)
        if not _out_of_memory(error):
            raise
        _fail("out of memory; try a smaller batch_size or input_size", 2)


def _group() -> AbstractContextManager[None]:
    """The processes that torchrun started, brought together; nothing for a process alone."""
    if LAUNCHED not in os.environ:
        return nullcontext()
    from ferbench.bench.training import processes

    terminal.console.quiet = processes.launched_rank() > 0
    return processes.process_group()


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )


def _lost_a_process(error: BaseException) -> bool:
    """Whether the processes that torchrun started cannot go on because one of them is gone."""
    signs = ("closed by peer", "reset by peer", "gloo", "NCCL")
    return LAUNCHED in os.environ and any(sign in str(error) for sign in signs)


def _help_of(error: typer.BadParameter) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'ferbench'} --help"


def _fail(message: str, code: int) -> None:
    if int(os.environ.get(LAUNCHED, "0")) == 0:
        complain(message)
    sys.exit(code)
