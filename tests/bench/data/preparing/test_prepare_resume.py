"""A preparation that is stopped, killed, doubled or out of disk: nothing half-done appears, nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing import prepare as module
from ferbench.bench.data.preparing.cache import Prepared, load_prepared
from ferbench.bench.data.preparing.partial import Partial, partial_work
from ferbench.bench.data.preparing.prepare import prepare_listing
from ferbench.bench.data.reading.listing import DECODE_OPTIONS, Listing, Options
from ferbench.bench.data.reading.tree import walk_images

DEFAULTS: Options = {name: option.default for name, option in DECODE_OPTIONS.items()}


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve different pictures."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(picture(number)).save(folder / f"{number:02d}.png")
    return folder


def listing(root: Path) -> Listing:
    ids = np.array(sorted(walk_images(root)))
    return Listing("copies", root, "flat", ids, np.zeros(len(ids), np.int8), np.zeros(len(ids), np.int64), ("x",))


def prepared(root: Path, partial: bool = False) -> Prepared:
    return prepare_listing(listing(root), root.parent / "cache", DEFAULTS, partial=partial)


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    original = module.decode_image

    def counting(*arguments: Any) -> Any:
        decoded.append(1)
        return original(*arguments)

    monkeypatch.setattr(module, "decode_image", counting)
    return decoded


def test_what_was_decoded_before_an_error_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "03.png").write_text("no image")
    with pytest.raises(DataError):
        prepared(root)
    decoded = count_decodes(monkeypatch)
    prepared(root, partial=True)
    assert len(decoded) == 1  # the damaged one is tried again


def test_interrupted_between_chunks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after a few images: they are not decoded again, and the result is that of an undisturbed run."""
    monkeypatch.setattr(module, "CHUNK", 2)

    def stop(done: int, total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_listing(listing(root), root.parent / "cache", DEFAULTS, threads=1, progress=stop)
    assert not list((root.parent / "cache").glob("copies-*"))
    decoded = count_decodes(monkeypatch)
    stored = prepared(root)
    assert len(decoded) == 6 and stored.meta["decoded"]["resumed"] == 6
    for row in range(12):
        np.testing.assert_array_equal(stored.images[row], picture(row))


KILLED = """
import sys; from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_prepare_resume as tests; from ferbench.bench.data.preparing import prepare, partial
prepare.CHUNK, partial.FLUSH_BYTES = 2, 1
def progress(done, total):
    print(done, flush=True)
    if done >= 6:
        import time; time.sleep(60)
root = Path(sys.argv[1])
prepare.prepare_listing(tests.listing(root), root.parent / "cache", tests.DEFAULTS, threads=1, progress=progress)
"""


def test_killed_in_the_middle(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [sys.executable, "-c", KILLED, str(root), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "6":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    decoded = count_decodes(monkeypatch)
    stored = prepared(root)
    assert len(decoded) == 6 and len(np.unique(stored.images.reshape(12, -1), axis=0)) == 12


def test_two_at_once_decode_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = count_decodes(monkeypatch)
    results: list[Prepared] = []
    threads = [threading.Thread(target=lambda: results.append(prepared(root))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 12 and len({result.folder for result in results}) == 1


def test_a_damaged_cache_is_made_again(root: Path) -> None:
    folder = prepared(root).folder
    (folder / "index.npz").write_bytes(b"garbage")
    assert prepared(root).folder == folder
    assert len(load_prepared(folder, "copies").images) == 12


@pytest.mark.parametrize("file", ["rows.npy", "images.npy"])
@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_damaged_work_is_thrown_away(root: Path, file: str, content: bytes) -> None:
    expected = prepared(root)
    work = expected.folder.parent / f".{expected.folder.name}.partial"
    work.mkdir()
    with Partial(work, expected.images.shape):
        pass
    (work / file).write_bytes(content)
    pixels = np.array(expected.images)
    for path in expected.folder.iterdir():
        path.unlink()
    expected.folder.rmdir()
    np.testing.assert_array_equal(prepared(root).images, pixels)


def test_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DataError, match="cannot write to the cache .*No space left on device.*FERBENCH_CACHE"):
            prepared(root)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 10}))
        with pytest.raises(DataError, match="No space left on device"):
            prepared(root)
    assert len(prepared(root).images) == 12


def test_forgotten_attempts_are_swept(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name, age in (("old", 8), ("new", 6)):
        work = cache / f".copies-{name}.partial"
        work.mkdir(parents=True)
        with Partial(work, (2, 16, 16, 1)):
            pass
        then = time.time() - age * 24 * 3600
        os.utime(work / "rows.npy", (then, then))
    with partial_work(cache / "copies-mine", "copies", (2, 16, 16, 1)):
        pass
    assert sorted(path.name for path in cache.glob(".copies-*.partial")) == [
        ".copies-mine.partial",
        ".copies-new.partial",
    ]
