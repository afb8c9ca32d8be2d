"""A Ray cluster of two machines on this one, commands that use it, and what can be killed of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FERBENCH = [sys.executable, "-P", "-c", "from ferbench.bench.cli import main; main()"]
STORE = 100 * 2**20
SOON = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
WAIT_S = 500.0


def until(true: Callable[[], object], seconds: float = WAIT_S, said: Callable[[], object] = str) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"waited in vain: {said()}"
        time.sleep(0.02)


@dataclass
class Machines:
    """Two raylets; the first one is the head, on which commands run."""

    cluster: Any
    nodes: list[Any]
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    @classmethod
    def start(cls) -> Machines:
        os.environ["RAY_worker_niceness"] = "0"  # else a machine that does other things as well lets them starve
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": STORE, "_system_config": SOON}  # a dead machine is seen so soon
        cluster = Cluster(initialize_head=True, head_node_args=head)
        return cls(cluster, [cluster.add_node(num_cpus=1, object_store_memory=STORE)])

    def command(self, folder: Path, *arguments: object) -> subprocess.Popen[str]:
        """`ferbench ARGUMENTS` in `folder`, its output in log.txt there."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with (folder / "log.txt").open("a") as log:
            begun = subprocess.Popen(
                [*FERBENCH, *map(str, arguments)], cwd=folder, env=environment, text=True, stdout=log, stderr=log
            )
        self.commands.append(begun)
        return begun

    def reproduce(self, folder: Path, *arguments: object, save_every: float = 0.0) -> subprocess.Popen[str]:
        asked = ("--ray", self.cluster.address, "--save-every", save_every)
        return self.command(folder, "reproduce", *arguments, *asked)

    def workers(self, name: bytes) -> list[int]:
        """Processes of this cluster that do such a task now."""
        ours = {str(process.process.pid) for node in self._all() for process in node.all_processes["raylet"]}
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if parent in ours and (folder / "cmdline").read_bytes().startswith(b"ray::" + name):
                    found.append(int(folder.name))
        return found

    def kill_node(self) -> None:
        """The second machine loses its raylet; another one takes its place."""
        node = self.nodes.pop()
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        with suppress(Exception):
            self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=STORE))

    def end(self) -> None:
        for command in self.commands:
            if command.poll() is None:
                command.kill()
            command.wait()
        self.cluster.shutdown()

    def _all(self) -> list[Any]:
        return [self.cluster.head_node, *self.nodes]
