"""A command that is asked to stop while nothing trains."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# `ferbench list protocols`, whose answer takes long, and a signal while it is at it
CODE = """
import os, signal, sys, time
from ferbench.bench.cli import main
from ferbench.bench.tables.planning import listing

def protocols(*_):
    os.kill(os.getpid(), signal.{name})
    time.sleep({seconds})
    return ["answered"]

listing.protocols = protocols
sys.argv = ["ferbench", "list", "protocols"]
{before}
main()
"""


def stopped_by(name: str, seconds: float = 30.0, before: str = "") -> subprocess.CompletedProcess[str]:
    code = CODE.format(name=name, seconds=seconds, before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=25)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_one_line_and_its_own_exit_code(name: str) -> None:
    done = stopped_by(name)
    assert done.returncode == 128 + signal.Signals[name], done.stderr
    assert done.stderr == "ferbench: stopped; what was saved before is kept\n"


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    done = stopped_by("SIGHUP", 0.0, "signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    assert (done.returncode, done.stdout) == (0, "answered\n")
