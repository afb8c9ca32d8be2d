"""Locks where the system keeps them, where it has none, where it gives them to everybody, and in a folder of choice."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from ferbench.bench import locks
from ferbench.bench.files import FileError
from ferbench.bench.tables.running.claims import claimed, holder
from ferbench.bench.training.recording.records import RunError


def refuse(descriptor: int, blocking: bool = True) -> bool:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def lie(descriptor: int, blocking: bool = True) -> bool:
    return True


@pytest.fixture(params=["system", "soft", "none", "everybody's", "this machine's", "elsewhere"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks of some kind, and what the user says of it."""
    monkeypatch.delenv(locks.VARIABLE, raising=False)
    locks._lease.cache_clear()
    if request.param in ("system", "soft"):
        monkeypatch.setenv(locks.VARIABLE, request.param)
    elif request.param == "elsewhere":
        (tmp_path / "locks").mkdir()
        monkeypatch.setenv(locks.VARIABLE, str(tmp_path / "locks"))
    elif request.param == "this machine's":
        (tmp_path / "mounts").write_text(
            f"22 1 0:1 / / rw shared:1 - ext4 /dev/vda rw\n"
            f"23 22 0:2 / {os.path.realpath(tmp_path)} rw shared:2 - nfs server:/x rw,vers=3,nolock\n"
        )
        monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")
    else:
        monkeypatch.setattr(filelock, "lock_descriptor", refuse if request.param == "none" else lie)
    return str(request.param)


@contextmanager
def child_with(path: Path, then: Callable[[], object] = lambda: time.sleep(60)) -> Iterator[int]:
    """Another process that holds the lock."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locks.held(path, "the child") as free:
            os.write(writing, b"1" if free else b"0")
            then()
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"1"
        yield child
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.kill(child, number)
            except ProcessLookupError:
                break
        os.waitpid(child, 0)


def test_one_holds_it_and_its_death_frees_it(tmp_path: Path, kept: str) -> None:
    path = tmp_path / ".lock"
    with child_with(path):
        with locks.held(path, "this process") as free:
            assert not free
        assert locks.holder(path) == "the child"
    with locks.held(path, "this process") as free:
        assert free
        with locks.held(path) as second:
            assert not second
    with locks.held(path) as free:
        assert free
    assert locks.holder(path) == "this process"
    soft = kept in ("soft", "none", "everybody's", "this machine's")
    assert (kept == "elsewhere") == (not path.exists())
    assert not list(tmp_path.glob(".lock.soft*")), "a soft lock that nobody holds is gone"
    with locks.held(path):
        assert (tmp_path / ".lock.soft").exists() == soft


def test_a_soft_lock_of_a_machine_that_is_gone_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder is stopped: it lives, as far as can be told, and renews nothing."""
    monkeypatch.setenv(locks.VARIABLE, "soft")
    monkeypatch.setattr(locks, "LEASE_S", 1.5)
    locks._lease.cache_clear()
    path = tmp_path / ".lock"
    with child_with(path) as child:
        ends = time.monotonic() + 2.5
        while time.monotonic() < ends:  # renewed all the time
            with locks.held(path) as free:
                assert not free
            time.sleep(0.1)
        os.kill(child, signal.SIGSTOP)
        ends = time.monotonic() + 30
        taken = False
        while not taken and time.monotonic() < ends:
            with locks.held(path) as taken:
                time.sleep(0.1)
        assert taken
    locks._lease.cache_clear()


def test_a_system_lock_that_was_asked_for_and_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locks.VARIABLE, "system")
    for refusing, why in ((refuse, "Function not implemented"), (lie, "it gives one lock to two")):
        monkeypatch.setattr(filelock, "lock_descriptor", refusing)
        with pytest.raises(RunError, match=f"keeps no locks \\({why}\\); set FERBENCH_LOCKS=soft"):
            with claimed(tmp_path / "run"):
                pass


def test_a_setting_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locks.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileError, match="is neither system nor soft, nor a folder that is there"):
        with locks.held(tmp_path / ".lock"):
            pass


def test_locks_elsewhere_are_the_same_under_another_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines see a shared folder under different paths, and meet at one lock."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv(locks.VARIABLE, str(tmp_path / "locks"))
    with claimed(tmp_path / "here" / "runs" / "a") as free, claimed(tmp_path / "there" / "runs" / "a") as other:
        assert free and not other
        assert f"process {os.getpid()} on " in holder(tmp_path / "there" / "runs" / "a")


def test_what_is_no_file_is_no_lock(tmp_path: Path, kept: str) -> None:
    os.mkfifo(tmp_path / ".lock")
    if kept == "elsewhere":
        (tmp_path / ".lock").rename(tmp_path / "locks" / f"{tmp_path.name}-.lock")
    with pytest.raises(RunError, match="is no regular file; remove it"):
        with claimed(tmp_path):
            pass
