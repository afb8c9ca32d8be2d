"""The page "On a cluster" followed step by step in plain shells: its own lines, a small table, fewer machines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability.lives import assert_same
from reliability.needy import write_needy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SRUN = '#!/bin/sh\nexec "$@"\n'
FERBENCH = f'#!/bin/sh\nexec {sys.executable} -P -c "from ferbench.bench.cli import main; main()" "$@"\n'


def block(holding: str) -> str:
    (found,) = (text for text in BLOCKS if holding in text)
    return found.replace("remop/4", "needy").replace("/shared/", "shared/").replace("$HOME/", "home/")


@pytest.fixture
def shell(tmp_path: Path, drawn_faces: Path) -> Iterator[Shell]:
    """A folder with the table, and shells that find `ferbench` and a `srun` that starts what it is given."""
    write_needy(tmp_path / "needy", epochs=4, steps_per_epoch=10, batch_size=8)
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("ferbench", FERBENCH)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    shell = Shell(tmp_path, drawn_faces)
    shell.run("ferbench reproduce needy --jobs 1 --results alone")
    yield shell
    for process in shell.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


class Shell:
    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.started = folder, list[subprocess.Popen[bytes]]()
        self._environment = {
            **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "FERBENCH_CACHE": str(cache),
            "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip

    def start(self, script: str, log: str = "log.txt", **variables: object) -> subprocess.Popen[bytes]:
        more = {name: str(value) for name, value in variables.items()}
        with (self.folder / log).open("a") as said:
            process = subprocess.Popen(
                ["/bin/sh", "-c", script], cwd=self.folder, env=self._environment | more, start_new_session=True,
                stdout=said, stderr=said,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, script: str) -> None:
        assert self.start(script).wait(900) == 0, self.said()

    def said(self, log: str = "*.txt") -> str:
        return "".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob(log)))

    def array(self, script: str) -> list[subprocess.Popen[bytes]]:
        """The jobs of `sbatch`, for an array of three."""
        assert "#SBATCH --array=1-8\n" in script and "--signal=TERM@120\n" in script
        return [
            self.start(script, f"job-{job}.txt", SLURM_ARRAY_TASK_ID=job, SLURM_ARRAY_TASK_COUNT=3) for job in (1, 2, 3)
        ]


def test_machines_that_share_nothing(shell: Shell) -> None:
    part = block("--shard 3/8 --results results").strip()
    for machine in (1, 2, 3):
        mine = part.replace("3/8", f"{machine}/3").replace("--results results", f"--results from-machine{machine}")
        shell.run(f"{mine} --jobs 1")
    trained = [path.parent.name for path in shell.folder.glob("from-machine*/runs/*/record.json")]
    assert len(trained) == len(set(trained)) == 24, "no run was trained twice"
    _, merge, again = block("ferbench merge").strip().splitlines()
    shell.run(merge)
    assert "merged into results: 24 new" in shell.said()
    shell.run(merge)
    assert "merged into results: 24 equal" in shell.said()
    shell.run(again)
    assert "finished before: 24 of 24 runs; nothing is trained for these" in shell.said()
    assert_same(shell.folder / "alone" / "runs", shell.folder / "results" / "runs")


@pytest.mark.parametrize("holding", ["--jobs 1 --results", "--jobs 1 --shard $SLURM"], ids=["shared disk", "parts"])
def test_a_job_array_whose_time_is_up_and_that_is_submitted_again(shell: Shell, holding: str) -> None:
    script = block(holding)
    results = shell.folder / script.rpartition("--results ")[2].strip() / "runs"
    jobs = shell.array(script)
    while not all(" step " in shell.said(f"job-{job}.txt") for job in (1, 2, 3)):
        assert all(job.poll() is None for job in jobs), shell.said()
        time.sleep(0.05)
    for job in jobs:
        os.kill(child(job.pid), signal.SIGTERM)
    codes = [job.wait(300) for job in jobs]
    assert codes == [143] * 3, (codes, shell.said())
    for job in (1, 2, 3):  # at a step, or between two runs
        assert "stopped" in shell.said(f"job-{job}.txt")
    for job in shell.array(script):
        assert job.wait(900) == 0, shell.said()
    left = [path.name for path in results.glob("*/.*") if path.name != ".lock"]
    assert not left, f"left behind: {left}"
    assert_same(shell.folder / "alone" / "runs", results)


def child(pid: int) -> int:
    """The process that a shell waits for."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
