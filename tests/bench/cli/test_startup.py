"""The door opens at once: what a command may import before it answers, and how much CPU time that takes.

Times are ratios to an empty Python process, or to the import of torch, measured in the same minute: a slow or busy
machine slows all of them.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "timm", "triton", "sklearn", "scipy", "pandas", "matplotlib")
ASKED = "import sys, atexit; atexit.register(lambda: print('HEAVY', *[m for m in {heavy} if m in sys.modules]));"
INSTANT = {
    "bare": [],
    "help": ["--help"],
    "help of train": ["train", "--help"],
    "help of reproduce": ["reproduce", "--help"],
    "help of leaderboard": ["leaderboard", "--help"],
    "misspelt command": ["trian"],
    "misspelt option": ["train", "fixmatch", "--sed", "3"],
    "missing argument": ["predict"],
    "value out of range": ["reproduce", "demo", "--seeds", "0"],
    "protocols": ["list", "protocols"],
    "one protocol": ["list", "protocols", "remop"],
    "data sets": ["list", "datasets"],
    "methods": ["list", "methods"],
}


def call(code: str, folder: Path, *arguments: str) -> tuple[float, str]:
    """CPU seconds of a Python process, and what it said."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "FERBENCH_CACHE": str(folder / "cache")},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Traceback" not in done.stderr, done.stderr
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime), done.stdout


def command() -> str:
    heavy = ASKED.format(heavy=HEAVY)
    return f"{heavy} sys.argv[0] = 'ferbench'; from ferbench.bench.cli import main; main()"


@pytest.mark.parametrize("arguments", INSTANT.values(), ids=INSTANT.keys())
def test_what_needs_no_torch_does_not_import_it(tmp_path: Path, arguments: list[str]) -> None:
    _, said = call(command(), tmp_path, *arguments)
    assert said.splitlines()[-1].split() == ["HEAVY"]


@pytest.mark.timing
def test_cpu_time(tmp_path: Path) -> None:
    """An empty process takes 15 ms where torch takes 1.7 s: 0.5 s are 33 times the one, and 0.3 times the other."""
    most = {"--help": 0.3, "train --help": 0.3, "trian": 0.3, "list protocols": 0.3, "list datasets": 0.3}
    most["list methods"] = 0.6
    torch, quickest = float("inf"), dict.fromkeys(most, float("inf"))
    for _ in range(5):  # turn by turn: a minute in which the machine is slow is slow for all
        torch = min(torch, call("import torch", tmp_path)[0])
        for line in most:
            quickest[line] = min(quickest[line], call(command(), tmp_path, *line.split())[0])
    assert not {line: seconds / torch for line, seconds in quickest.items() if seconds >= most[line] * torch}


def test_a_board_waits_for_torch_once(tmp_path: Path, record_run: Callable[..., str]) -> None:
    """What methods say of their options is remembered; after an edit of a method it is asked again."""
    record_run("remop/4/fixmatch/ferplus-1000-150", 1, 80.0)
    for arguments in (["leaderboard", "--results", "."], ["runs", "--results", "."]):
        call(command(), tmp_path, *arguments)
        _, said = call(command(), tmp_path, *arguments)
        assert "torch" not in said.splitlines()[-1].split(), arguments
    assert "80.00" in call(command(), tmp_path, "leaderboard", "--results", ".")[1]
    assert list((tmp_path / "cache").glob("methods-*.json"))


@pytest.mark.parametrize("seconds", [0.15, 0.6, 1.5])
def test_ctrl_c_in_the_first_seconds_is_one_line(tmp_path: Path, seconds: float) -> None:
    """While torch is still being imported, say."""
    arguments = [
        sys.executable,
        "-c",
        "from ferbench.bench.cli import main; main()",
        "reproduce",
        "demo",
        "--jobs",
        "1",
    ]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FERBENCH_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits none
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    if process.returncode != -signal.SIGINT:  # before Python itself was ready
        assert process.returncode == 130, errors
        assert [line.partition(":")[0] for line in errors.splitlines()] == ["ferbench"], errors
