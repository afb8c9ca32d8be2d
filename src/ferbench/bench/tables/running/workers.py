"""The processes that `--jobs` starts: each is this same command again, does what nobody is at, and ends with us.

A worker runs no file of the current folder, has one thread unless `--threads` says otherwise, and leaves a note in the
folder of a run that failed, so that no other worker of this command tries it again and the command can say why.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from ferbench.bench.tables.running import cards
from ferbench.bench.training.interrupt import Interrupted, StopRequest
from ferbench.bench.training.recording import records

WORKER = "FERBENCH_WORKER"  # PARENT:COMMAND in the environment of a worker
ORPHAN_CHECK_S = 1.0
_COMMAND = "from ferbench.bench.cli import main; main()"
_own = uuid.uuid4().hex  # names this command, where it is not a worker of another one


def is_worker() -> bool:
    return WORKER in os.environ


def command_id() -> str:
    """The same for a command and all its workers, another for every other command."""
    return os.environ.get(WORKER, f":{_own}").partition(":")[2]


def worker_environment(number: int, found: Sequence[str]) -> dict[str, str]:
    """The environment of worker `number`, from 0: a GPU of its own while there are enough, else shared in turn."""
    own = {"CUDA_VISIBLE_DEVICES": found[number % len(found)]} if found else {}
    return {**os.environ, WORKER: f"{os.getpid()}:{command_id()}", **own}


def run_workers(arguments: Sequence[str], jobs: int, look: Callable[[], None]) -> None:
    """`jobs` processes of this same command share its runs, spread over the GPUs. Raises Interrupted or RunError.

    look: called again and again while they work
    """
    found = cards.for_workers(jobs)
    # -P: the console command does not look for modules in the current folder, so its workers must not either
    command = [sys.executable, "-P", "-c", _COMMAND, *arguments]
    with StopRequest() as stop:
        # Sessions of their own: Ctrl-C reaches them through us, once.
        workers = [
            subprocess.Popen(command, env=worker_environment(number, found), start_new_session=True)
            for number in range(jobs)
        ]
        passed_on = False
        while any(worker.poll() is None for worker in workers):
            if stop.requested and not passed_on:
                passed_on = True
                for worker in workers:
                    worker.send_signal(stop.signal)
            look()
            time.sleep(0.1)
    cards.release()  # for what is left to this process
    if stop.requested:
        raise Interrupted(stop.signal, "stopped; all state is saved; run it again to continue")
    failed = [worker.returncode for worker in workers if worker.returncode]
    if failed:
        raise records.RunError(f"{len(failed)} of {jobs} processes failed (the lines above say why); run it again")


def end_with_parent() -> None:
    """In a worker: when the command that started it dies, however it dies, stop as on SIGTERM."""
    parent = os.environ.get(WORKER, "").partition(":")[0]  # empty in a command that nobody started
    if parent.isdigit():
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os.kill(os.getpid(), signal.SIGTERM)
