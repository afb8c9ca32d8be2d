"""How much of everything, commands in forked processes, what they leave, a small table.

Each test has a quick form. `FERBENCH_FUZZ`, `_FLIPS`, `_KILLS`, `_ROUNDS`, `_RUNS` and `_STEPS` set another amount:
FERBENCH_FUZZ=20000 is 20,000 inputs for each reader.
"""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ferbench.bench import files
from ferbench.bench.training import train as loop
from ferbench.bench.training.recording import records
from ferbench.bench.training.steps import feed

TIMES = ("seconds", "step_ms", "peak_memory_mib", "finished_at", "at", "commit")


def amount(what: str, quick: int) -> int:
    """How many, by the environment variable or for a quick test."""
    return int(os.environ.get(f"FERBENCH_{what}", quick))


@dataclass
class Child:
    """A command that runs in a process of its own, forked where it can be: without the seconds of its imports."""

    pid: int
    log: Path

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code, or the negative number of the signal that ended it; killed when it takes too long."""
        ends = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > ends:
                os.kill(self.pid, 9)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"still running after {seconds} s: {self.said()[-500:]}")
            time.sleep(0.002)
        return code

    def poll(self) -> int | None:
        done, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def fork(work: Callable[[], object], log: Path) -> Child:
    """Run `work` in a process of its own, its output in `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 99
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(*arguments: object, folder: Path, threads: int = 1) -> Child:
    """`ferbench ARGUMENTS` in `folder`, on a machine that gives a process so many threads.

    Chunks are of three steps, and the state is saved after each and at the end of each epoch.
    """
    log = folder / "log.txt"
    words = [str(word) for word in arguments]
    if threads == 1:
        return fork(lambda: live(folder, threads, words), log)
    # OpenMP hangs in a fork of a process that has used several threads before: a process of its own
    code = "import sys; from pathlib import Path; from reliability.lives import live; "
    code += "live(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])"
    asked = [sys.executable, "-P", "-c", code, str(folder), str(threads), *words]
    out = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    actions = [out, (os.POSIX_SPAWN_DUP2, 1, 2)]
    return Child(os.posix_spawn(sys.executable, asked, where, file_actions=actions), log)


def live(folder: Path, threads: int, words: Sequence[str]) -> None:
    """The command in this process."""
    from ferbench.bench import cli, terminal
    from ferbench.bench.tables.running import workers

    workers._own = uuid.uuid4().hex  # a command of its own: a fork has its parent's name
    torch.set_num_threads(threads)
    loop.SAVED_EVERY_S, loop.SAVING_SHARE, feed.LOG_EVERY = 0.0, 1e9, 3
    os.chdir(folder)
    sys.argv = ["ferbench", *words]
    terminal.console.file = sys.stdout
    cli.main()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def outcome(results: Path) -> dict[str, Any]:
    """Everything in a results folder but times and locks, by path."""
    found: dict[str, Any] = {}
    for path in sorted(results.rglob("*")):
        name = str(path.relative_to(results))
        if path.suffix == ".pt":
            found[name] = plain(torch.load(path, weights_only=True))
        elif path.suffix == ".npz":
            found[name] = files.read_arrays(path)
        elif path.suffix == ".json":
            found[name] = plain(records.read_json(path))
        elif path.suffix == ".jsonl":
            found[name] = [plain(line) for line in files.read_json_lines(path)]
        elif path.is_file() and path.name != ".lock":
            found[name] = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"", path.read_bytes())
    return found


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in TIMES}
    return [plain(item) for item in value] if isinstance(value, list) else value


def assert_same(first: Path, second: Path) -> None:
    """Two results folders hold the same, bit for bit."""
    np.testing.assert_equal(outcome(second), outcome(first))


RECIPE = {
    "backbone": '"resnet_small"', "batch_size": 4, "mu": 1, "epochs": 2, "steps_per_epoch": 3, "input_size": 16,
    "crop_padding": 2, "lr": 2e-3, "ema": 0.9, "evaluate": '"ema"',
}  # fmt: skip
PROTOCOL = """
paper = "small"
title = "A table of seconds"
citation = "No paper"
version = 1
variant = "paper"

[recipes.r]
{recipe}
[presets.cpu]

[datasets.d]
reader = "synthetic"
options = {{ scale = 0.01, size = 16 }}

[splits.s]
kind = "balanced"
per_class = 2

[[tables]]
id = "1"
caption = "Small"
source = "none"
metrics = ["overall", "mean"]
seeds = [1]
absent = [{{ why = "nobody's paper" }}]
{rows}
[[tables.columns]]
id = "c"
label = "C"
dataset = "d"
split = "s"
recipe = "r"
"""


def row(method: str, more: str = "") -> str:
    return f'[[tables.rows]]\nid = "{method}"\nlabel = "{method}"\nmethod = "{method}"\n{more}\n'


def write_protocol(folder: Path, rows: Sequence[str], **recipe: object) -> Path:
    """A protocol folder with one column on few drawn faces. rows: made by `row`; recipe: keys set otherwise."""
    text = "".join(f"{key} = {value}\n" for key, value in {**RECIPE, **recipe}.items())
    folder.mkdir()
    (folder / "protocol.toml").write_text(PROTOCOL.format(rows="\n".join(rows), recipe=text), encoding="utf-8")
    return folder
