"""Processes of one command take the GPUs in turn; processes of several commands take different ones."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ferbench.bench.tables.running import cards, reproduce, workers

Machine = Callable[..., list[int]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with so many GPUs, `visible` by name; returns the list of those that this process settles on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    chosen: list[int] = []

    def make(count: int, visible: str | None = None) -> list[int]:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    cards._held.clear()
    yield make
    cards.release()


def another(work: Callable[[], object]) -> int:
    """Another process that does this and stays."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        work()
        os.write(tell, b"1")
        time.sleep(60)
        os._exit(0)
    assert os.read(told, 1) == b"1"
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 2, ["0", "1", "0"]), ("3,5", 2, ["3", "5", "3"]), ("GPU-a", 1, ["GPU-a"] * 3), (None, 0, [None] * 3)],
)
def test_workers_are_spread_over_the_gpus(
    machine: Machine, visible: str | None, count: int, expected: list[str | None]
) -> None:
    machine(count, visible)
    found = cards.for_workers(3)
    given = [workers.worker_environment(number, found).get("CUDA_VISIBLE_DEVICES") for number in range(3)]
    assert given == expected
    if count:
        assert (reproduce.default_jobs(9), reproduce.default_jobs(1)) == (count, 1)


def test_a_process_alone_takes_a_card_that_nobody_has(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    """Two commands at once on a machine of three: they do not meet on the first card."""
    chosen = machine(3)
    first = another(cards.settle)
    second = another(cards.settle)
    cards.settle()
    assert chosen == [2]
    cards.settle()
    assert chosen == [2], "it has one"
    cards.release()
    end(first)
    cards.settle()
    assert chosen == [2, 0] and capfd.readouterr().err == ""
    end(second)


def test_cards_that_are_all_taken_are_shared_and_that_is_said(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = machine(2, "4,7")
    other = another(lambda: cards.take(2))
    cards.settle()
    assert chosen == [os.getpid() % 2]
    said = capfd.readouterr().err
    assert f"GPU {'47'[os.getpid() % 2]} is shared with another process of ferbench: all 2 are taken" in said
    end(other)


def test_a_command_starts_processes_for_the_free_cards(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    """Another command has two of four: this one starts two, on the other two, and says where more are asked for."""
    machine(4)
    other = another(lambda: cards.take(2))
    assert reproduce.default_jobs(9) == 2
    assert list(cards.for_workers(2)) == ["2", "3"] and capfd.readouterr().err == ""
    third = another(lambda: None)
    assert list(cards.for_workers(3)) == ["2", "3"]
    assert "3 processes share 2 of 4 GPUs" in capfd.readouterr().err
    end(other)
    end(third)


def test_without_a_gpu_nothing_is_taken(machine: Machine) -> None:
    assert machine(0) == []
    cards.settle()
    assert not cards._held and cards.for_workers(2) == [] and cards.free() == 0
