"""Memory and descriptors stay flat over many runs, and digests and waits for the disk cost next to nothing.

FERBENCH_RUNS: how many runs in one process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reliability.lives import amount

from ferbench.bench import files
from ferbench.bench.training.recording import records
from ferbench.bench.training.train import train


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_many_runs_in_one_process(make_tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    run, count = make_tiny_run("fixmatch", epochs=1, steps_per_epoch=2), amount("RUNS", 12)
    seen: list[tuple[float, int]] = []
    for number in range(count):
        train(run, tmp_path / str(number))
        seen.append((resident_mib(), descriptors()))
    settled = seen[count // 3 :]
    print(f"{count} runs: {settled[0][0]:.0f} to {settled[-1][0]:.0f} MiB, {settled[-1][1]} descriptors")
    assert settled[-1][0] - settled[0][0] < 12 and settled[-1][1] == settled[0][1]


@pytest.mark.slow
def test_many_steps(make_tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    """2,000 steps of ReMoP: the memory after the first quarter is that at the end."""
    seen: list[float] = []

    class Watch:
        def note(self, text: str) -> None: ...

        def step(self, step: int, total: int, means: Any) -> None:
            seen.append(resident_mib())

        def epoch(self, line: Any) -> None: ...

    train(make_tiny_run("remop", epochs=20, steps_per_epoch=amount("STEPS", 2000) // 20), tmp_path, reporter=Watch())
    settled = seen[len(seen) // 4 :]
    print(f"{amount('STEPS', 2000)} steps: {min(settled):.0f} to {max(settled):.0f} MiB")
    assert settled[-1] - settled[0] < 12


@pytest.mark.timing
def test_what_digests_and_waiting_for_the_disk_cost(make_tiny_run: Callable[..., Any], tmp_path: Path) -> None:
    """Of the checkpoint of a ResNet-18 with its average and Adam's moments, 180 MB, written once a minute."""
    state = {str(number): torch.randn(11_200_000) for number in range(4)}
    started = time.process_time()
    records.write(tmp_path / "plain.pt", lambda file: torch.save(state, file))
    plain = time.process_time() - started
    started = time.process_time()
    records.write(tmp_path / "sealed.pt", lambda file: torch.save(state, file), sealed=True)
    digest = max(time.process_time() - started - plain, 0.0)
    started = time.process_time()
    with (tmp_path / "sealed.pt").open("rb") as file:
        assert files.check_seal(file)
    check = time.process_time() - started
    print(
        f"digest {digest:.2f} s of CPU when written, {check:.2f} s when read; a checkpoint a minute: {digest / 60:.2%}"
    )
    assert digest / 60 < 0.01
