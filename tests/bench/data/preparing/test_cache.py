"""The prepared form: complete or absent, read back as written, damaged copies refused in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import cache_root, load_prepared, recall, remember, write_prepared

SHAPE = (5, 4, 3, 1)


def make(folder: Path, value: int = 7) -> None:
    with write_prepared(folder, "toy", SHAPE) as draft:
        draft.images[:] = value
        draft.index = {"ids": np.array([f"é/{row}" for row in range(5)]), "parts": np.zeros(5, np.int8)}
        draft.meta = {"root": "/some/where"}


def test_read_back(tmp_path: Path) -> None:
    make(tmp_path / "cache" / "toy-1")
    stored = load_prepared(tmp_path / "cache" / "toy-1", "toy")
    assert stored.images.shape == SHAPE and isinstance(stored.images, np.memmap) and (stored.images == 7).all()
    assert stored.index["ids"].tolist() == [f"é/{row}" for row in range(5)]
    assert stored.meta["root"] == "/some/where" and stored.meta["images"] == 5
    with pytest.raises(ValueError, match="read-only"):
        stored.images[0] = 1


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_prepared(tmp_path / "toy-1", "toy", SHAPE):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_killed_run_is_swept_later_but_a_running_one_is_not(tmp_path: Path) -> None:
    old, new = tmp_path / ".toy-1-dead", tmp_path / ".toy-1-alive"
    old.mkdir()
    new.mkdir()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    make(tmp_path / "toy-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".toy-1-alive", "toy-1"]


def test_written_by_two_at_once_the_first_to_finish_wins(tmp_path: Path) -> None:
    with write_prepared(tmp_path / "toy-1", "toy", SHAPE) as slow:
        make(tmp_path / "toy-1", 7)
        slow.images[:] = 8
        slow.index = {"ids": np.array(list("abcde")), "parts": np.zeros(5, np.int8)}
    assert (load_prepared(tmp_path / "toy-1", "toy").images == 7).all()
    assert [path.name for path in tmp_path.iterdir()] == ["toy-1"]


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def edit_meta(path: Path, **change: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "images cut": lambda folder: cut(folder / "images.npy", 150),
    "images empty": lambda folder: cut(folder / "images.npy", 0),
    "images gone": lambda folder: (folder / "images.npy").unlink(),
    "images of another type": lambda folder: np.save(folder / "images.npy", np.zeros(SHAPE)),
    "index cut": lambda folder: cut(folder / "index.npz", 100),
    "index of others": lambda folder: np.savez(folder / "index.npz", ids=np.array(["a"]), parts=np.zeros(5)),
    "index without ids": lambda folder: np.savez(folder / "index.npz", parts=np.zeros(5)),
    "pickled index": lambda folder: np.savez(folder / "index.npz", ids=np.array([None] * 5), parts=np.zeros(5)),
    "meta gone": lambda folder: (folder / "meta.json").unlink(),
    "meta cut": lambda folder: cut(folder / "meta.json", 10),
    "meta a list": lambda folder: (folder / "meta.json").write_text("[]"),
    "meta without a count": lambda folder: (folder / "meta.json").write_text('{"dataset": "toy", "format": 1}'),
    "older format": lambda folder: edit_meta(folder / "meta.json", format=0),
    "another data set": lambda folder: edit_meta(folder / "meta.json", dataset="raf-db"),
    "another count": lambda folder: edit_meta(folder / "meta.json", images=6),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "toy-1")
    DAMAGE[damage](tmp_path / "toy-1")
    with pytest.raises(DataError, match=r"prepared toy at .*: run `ferbench prepare toy --root") as raised:
        load_prepared(tmp_path / "toy-1", "toy")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["images cut", "index cut", "meta gone"])
def test_damaged_copy_is_replaced(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "toy-1")
    DAMAGE[damage](tmp_path / "toy-1")
    make(tmp_path / "toy-1", 9)
    assert [path.name for path in tmp_path.iterdir()] == ["toy-1"]
    assert (load_prepared(tmp_path / "toy-1", "toy").images == 9).all()


def test_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="FERBENCH_CACHE"):
        make(tmp_path / "file" / "toy-1")


def test_full_disk(tmp_path: Path) -> None:
    huge = (10**9, 10**3, 10**3, 3)
    with pytest.raises(DataError, match="No space left"), write_prepared(tmp_path / "toy-1", "toy", huge):
        raise AssertionError("never reached")


def test_remember_and_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path))
    assert cache_root() == tmp_path and recall("toy") is None
    make(tmp_path / "toy-1")
    make(tmp_path / "toy-2")
    remember("toy", tmp_path / "toy-1")
    remember("toy", tmp_path / "toy-2")
    remember("other", tmp_path / "toy-1")
    assert recall("toy") == tmp_path / "toy-2" and recall("other", tmp_path) == tmp_path / "toy-1"
    (tmp_path / "toy.json").write_text("{")
    assert recall("toy") is None


def test_recall_of_a_deleted_folder(tmp_path: Path) -> None:
    remember("toy", tmp_path / "toy-1")
    assert recall("toy", tmp_path) is None


def test_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERBENCH_CACHE", raising=False)
    assert cache_root() == Path.home() / ".cache" / "ferbench"
