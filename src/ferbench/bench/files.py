"""Files that ferbench writes and reads itself: whole or not at all, sealed with a digest, and read with suspicion.

A file is written under a name that no other process uses, pushed to the disk and renamed; then its folder is pushed
too. A sealed file (a zip archive, as torch and NumPy write) ends in the SHA-256 of all that stands before it, as the
archive's comment: `torch.load` and `numpy.load` take no notice of it, and `check_seal` sees one changed bit.

What is read may come from anybody: it is looked at before it is believed, and whatever is wrong is one FileError.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import socket
import stat
import struct
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from ferbench.errors import UserError, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPORARY = ".ferbench-"  # .ferbench-HOST-PROCESS-NUMBER.tmp
FORGOTTEN_S = 24 * 3600.0  # after a day without a change nobody on another machine still writes
MOST_TEXT = 2**28  # bytes of a JSON file; a split of 300,000 images has 2**25
MOST_ARRAYS = 2**34  # bytes of all arrays of a file, unpacked
MOST_RATIO = 2000  # bytes unpacked per byte packed: deflate reaches 1032
END_OF_ZIP = b"PK\x05\x06"
SEAL = b"ferbench sha256 "
_SEAL_BYTES = len(SEAL) + 64
_number = count()


class FileError(UserError):
    """A file cannot be written, or is not what it should be; the message is one line that names it."""


def write(path: Path, fill: Callable[[BinaryIO], object], *, sealed: bool = False) -> None:
    """Write a file whole or not at all, and sweep what dead processes left half written beside it.

    sealed: a zip archive that ends in its digest.

    Raises FileError with the reason when the disk refuses.
    """
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        with temporary.open("x+b") as file:
            fill(file)
            if sealed:
                _seal(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as RuntimeError
        raise FileError(f"cannot write {path}: {_why_not(error, path.parent)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A name that no other process uses, for what is then renamed to `path`; swept once its process is dead."""
    return path.with_name(f"{TEMPORARY}{_host()}-{os.getpid()}-{next(_number)}.tmp")


def sweep(folder: Path) -> None:
    """Remove temporary files of processes that are dead: those of this machine at once, others after a day."""
    for path in folder.glob(f"{TEMPORARY}*.tmp"):
        with suppress(OSError, ValueError):
            host, process, _ = path.name.removeprefix(TEMPORARY).removesuffix(".tmp").rsplit("-", 2)
            ours = host == _host()
            if (ours and not alive(int(process))) or (not ours and time.time() - path.stat().st_mtime > FORGOTTEN_S):
                path.unlink()


def alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def check_seal(file: BinaryIO) -> bool:
    """Whether the archive ends in its digest; raises FileError where it does and something before it was changed.

    The file's position is at its start afterwards.
    """
    size = file.seek(0, os.SEEK_END)
    body = size - _SEAL_BYTES  # where a seal begins, right after the 22 bytes that end an archive
    file.seek(max(body - 22, 0))
    end = file.read()
    file.seek(0)
    if body < 22 or not end.startswith(END_OF_ZIP):
        return False
    digest, left = hashlib.sha256(), body - 2
    while left:
        part = file.read(min(left, 2**20))
        if not part:
            break
        digest.update(part)
        left -= len(part)
    digest.update(b"\0\0")  # the length of the comment, before there was one
    file.seek(0)
    if end[20:] != struct.pack("<H", _SEAL_BYTES) + SEAL + digest.hexdigest().encode():
        raise FileError("its digest says that it was changed after it was written")
    return True


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Open a file for reading, of at most `most` bytes; a pipe or a device is refused instead of waited for.

    Raises FileError; FileNotFoundError where there is nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    status = os.fstat(descriptor)
    os.set_blocking(descriptor, True)
    if not stat.S_ISREG(status.st_mode) or (most is not None and status.st_size > most):
        os.close(descriptor)
        wrong = f"has {status.st_size:,} bytes" if stat.S_ISREG(status.st_mode) else "is no regular file"
        raise FileError(f"{path}: {wrong}, which cannot be meant")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a regular file. Raises FileError, also where it is not there."""
    try:
        with open_regular(path, most) as file:
            return file.read()
    except OSError as error:
        _unreadable(path, error)


def read_text(path: Path) -> str:
    """A text file of ours. Raises FileError, also where it is not there."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        _unreadable(path, error)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object whose numbers are finite and fit 64 bits. Raises FileError for anything else."""
    return _object(read_text(path), path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON object per line. Raises FileError."""
    return [_object(line, path) for line in read_text(path).splitlines() if line.strip()]


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file: no objects, no more bytes than can be meant, the digest right. Raises FileError."""
    import numpy as np  # a fifth of what a list takes to answer, and lists read no arrays

    try:
        with open_regular(path) as file:
            check_seal(file)
            packed = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > min(MOST_ARRAYS, packed * MOST_RATIO):
                raise FileError(f"unpacks to {unpacked:,} bytes")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: _array(stored[name], unpacked) for name in stored.files}
    except MemoryError as error:
        raise FileError(f"{path}: cannot be read: it says it is larger than memory") from error
    except Exception as error:  # zip, zlib, NumPy and the tokenizer all report damage differently
        _unreadable(path, error)


def reason(error: BaseException) -> str:
    """An exception in one short line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return shown(" ".join(str(text).split()))[:200]


def _unreadable(path: Path, error: BaseException) -> NoReturn:
    if isinstance(error, FileError) and str(error).startswith(str(path)):
        raise error
    raise FileError(f"{path}: cannot be read: {reason(error)}") from error


def _object(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        _unreadable(path, error)
    if not isinstance(document, dict):
        raise FileError(f"{path}: cannot be read: it holds no JSON object")
    return document


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:20]}... is too large")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no number")
    return value


def _array(value: Any, most: int) -> NDArray[Any]:
    import numpy as np

    if not isinstance(value, np.ndarray) or value.nbytes > most:
        raise FileError("it holds something that is no array")
    return value


def _seal(file: BinaryIO) -> None:
    """Append the digest of an archive to it, as its comment."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(size - 22)
    end = file.read()
    if not end.startswith(END_OF_ZIP) or end[-2:] != b"\0\0":
        raise RuntimeError("only a zip archive without a comment can be sealed")
    file.seek(size - 2)
    file.write(struct.pack("<H", _SEAL_BYTES) + SEAL + digest.encode())


def _sync_folder(folder: Path) -> None:
    """Push a renamed file's new name to the disk; not every system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _why_not(error: BaseException, folder: Path) -> str:
    """The system's own reason where it is known: torch tells of a full disk by a position in its file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    with suppress(OSError):
        if shutil.disk_usage(folder).free < 2**20:
            return "No space left on device"
    return reason(error)


def _host() -> str:
    return "".join(c if c.isalnum() else "_" for c in socket.gethostname())[:60]
