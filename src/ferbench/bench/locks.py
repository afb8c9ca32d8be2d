"""Locks between processes, on one machine or on several that share a folder.

The system's lock is free again when its holder dies, however it dies. Where a file system has none, or has one that
holds on a single machine only (NFS mounted with `nolock` or `local_lock`, Lustre with `localflock`), a soft lock takes
its place: a small file that its holder renews, and that anybody takes over who has seen it unchanged for a minute.

FERBENCH_LOCKS chooses otherwise: `system`, `soft`, or a folder, on a file system of one's choice, that the locks lie in
under the last two names of their path. All processes that share a folder must choose alike.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import filelock

from ferbench.bench.files import FileError
from ferbench.bench.terminal import complain

VARIABLE = "FERBENCH_LOCKS"
KINDS = ("", "system", "soft")
LEASE_S = 60.0  # a soft lock that was not renewed for so long is free; its holder renews it three times as often
MOUNTS = Path("/proc/self/mountinfo")
LOCAL = ("nolock", "local_lock=flock", "local_lock=all", "localflock")  # mount options: locks of this machine alone
_LONGEST = 200  # bytes of what a holder says of itself


@contextmanager
def held(path: Path, said: str = "") -> Iterator[bool]:
    """Hold the lock of this name; False where another process does. Its folder is there already.

    said: what the holder says of itself; `holder` reads it. Raises OSError where the lock cannot be made; FileError for
    a setting that is none, for a name that is a pipe or a device, and where a system's lock was asked for and is none.
    """
    kind, place = _asked(path)
    descriptor = _open(place)
    try:
        if kind == "soft" or (kind != "system" and _of_this_machine_alone(place)):
            taken = None
        else:
            taken = _system(descriptor, place, kind == "system")
        if taken is None:
            with _soft(place) as taken:
                _say(descriptor, said if taken else "")
                yield taken
        else:
            _say(descriptor, said if taken else "")
            yield taken
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """What the process that took the lock last said of itself; empty where nothing was said."""
    with suppress(OSError):
        descriptor = os.open(_asked(path)[1], os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            return os.read(descriptor, _LONGEST).decode(errors="replace")
        finally:
            os.close(descriptor)
    return ""


def _asked(path: Path) -> tuple[str, Path]:
    """Which kind of lock, and where its file lies."""
    value = os.environ.get(VARIABLE, "")
    if value in KINDS:
        return value, path
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FileError(f"{VARIABLE}={value}: is neither system nor soft, nor a folder that is there")
    return "", folder / "-".join(path.absolute().parts[-2:])


def _open(path: Path) -> int:
    """The lock's file, made where it is not there; never a pipe, a device or a link."""
    flags = os.O_RDWR | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"{path}: is no regular file; remove it")
    return descriptor


def _say(descriptor: int, said: str) -> None:
    """It only tells others who is here, so that a failure does no harm."""
    if said:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, said.encode()[:_LONGEST])


def _system(descriptor: int, path: Path, alone: bool) -> bool | None:
    """Whether the system's lock is ours now; None where it keeps none, or gives it to everybody.

    alone: whether there is to be no other kind; FileError instead of None
    """
    try:
        if not filelock.lock_descriptor(descriptor, blocking=False):
            return False
        second = _open(path)
        try:
            if not filelock.lock_descriptor(second, blocking=False):
                return True
            why = "it gives one lock to two"
        finally:
            os.close(second)
    except OSError as error:
        why = error.strerror or str(error)
    if alone:
        raise FileError(f"{path.parent}: its file system keeps no locks ({why}); set {VARIABLE}=soft, or to a folder")
    return None


@contextmanager
def _soft(path: Path) -> Iterator[bool]:
    lease = _lease(str(path.absolute()))
    try:
        if lease.is_locked:  # by us: it would be ours once more
            raise filelock.Timeout(str(path))
        lease.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lease.release()


@cache  # one for each path: how long another's lock is unchanged is known to who has looked before
def _lease(path: str) -> filelock.SoftFileLease:
    def lost(_: object) -> None:
        complain(f"{path}: this process was too slow to renew its lock, and another one may have taken it over")

    return filelock.SoftFileLease(f"{path}.soft", lease_duration=LEASE_S, on_compromise=lost)


def _of_this_machine_alone(path: Path) -> bool:
    """Whether the options of the mount say that the system's locks are not shared."""
    options = _mount_options(os.path.realpath(path.parent))
    return any(option in LOCAL for option in options)


def _mount_options(folder: str) -> list[str]:
    """Those of the mount that the folder lies on; none where the system does not tell."""
    best, found = "", list[str]()
    with suppress(OSError):
        for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
            mount, _, rest = line.partition(" - ")
            point, given = mount.split()[4:6]
            point = point.replace("\\040", " ")
            if len(point) >= len(best) and (folder == point or folder.startswith(point.rstrip("/") + "/")):
                best, found = point, [*given.split(","), *rest.split()[-1].split(",")]
    return found
