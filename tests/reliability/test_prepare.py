"""`ferbench prepare` killed at random instants and started again, and two at once in one cache: the prepared copy is
the one that an undisturbed command makes. FERBENCH_KILLS, FERBENCH_ROUNDS: how many."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reliability.lives import Child, amount, command, plain

from ferbench.bench.data.preparing import partial
from ferbench.bench.training.recording import records

LIVES = 8
OF_ONE_COMMAND = ("seconds", "resumed")  # and so of the digest over all that is noted


@pytest.fixture
def asked(tmp_path: Path) -> tuple[str, ...]:
    """A command that decodes 1,000 images or so in a second."""
    copy = tmp_path / "rafdb"
    assert command("fake", "rafdb", copy, "--images", "100", folder=tmp_path).wait() == 0
    return ("prepare", "rafdb", "--root", str(copy), "--partial", "--threads", "2", "--option", "size=96")


def begin(asked: tuple[str, ...], cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    monkeypatch.setenv("FERBENCH_CACHE", str(cache))
    return command(*asked, folder=folder)


def prepared(cache: Path) -> dict[str, Any]:
    """The one prepared copy in a cache; nothing else may be left there but notes."""
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    meta = records.read_json(folder / "meta.json")
    del meta["digest"]
    meta["decoded"] = {key: value for key, value in meta["decoded"].items() if key not in OF_ONE_COMMAND}
    with np.load(folder / "index.npz") as index:
        arrays = {**index, "images": np.load(folder / "images.npy")}
    names = sorted(path.name for path in folder.iterdir())
    return {"name": folder.name, "files": names, "meta": plain(meta), **arrays}


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path, asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "FLUSH_S", 0.02)  # so that there is something to go on from
    rng, began = random.Random("prepare"), time.monotonic()
    assert begin(asked, tmp_path / "whole", tmp_path, monkeypatch).wait() == 0
    lasts, kills, resumed, wanted = time.monotonic() - began, 0, 0, amount("KILLS", 8)
    while kills < wanted:
        cache = tmp_path / "killed"
        shutil.rmtree(cache, ignore_errors=True)
        for life in range(LIVES):
            child = begin(asked, cache, tmp_path, monkeypatch)
            ends, last = time.monotonic() + rng.uniform(0.02, 0.9) * lasts, life == LIVES - 1
            while (code := child.poll()) is None and (last or time.monotonic() < ends):
                time.sleep(0.001)
            if code is None:
                os.kill(child.pid, signal.SIGKILL)
                code = child.wait()
            if code != -signal.SIGKILL:
                break
            kills += 1
        assert code == 0, child.said()[-1000:]
        (meta,) = cache.glob("*/meta.json")
        resumed += records.read_json(meta)["decoded"]["resumed"] > 0
        np.testing.assert_equal(prepared(cache), prepared(tmp_path / "whole"))
    print(f"prepare: {kills} kills, 0 copies that differ, {resumed} of them went on from earlier lives")
    assert resumed


def test_two_at_once(tmp_path: Path, asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """In every second round one of them is killed somewhere."""
    rng, began = random.Random("two"), time.monotonic()
    assert begin(asked, tmp_path / "whole", tmp_path, monkeypatch).wait() == 0
    lasts, rounds = time.monotonic() - began, amount("ROUNDS", 2)
    for number in range(rounds):
        cache = tmp_path / "two"
        shutil.rmtree(cache, ignore_errors=True)
        first, second = (begin(asked, cache, tmp_path, monkeypatch) for _ in range(2))
        if number % 2:
            time.sleep(rng.uniform(0.05, 0.8) * lasts)
            if first.poll() is None:
                os.kill(first.pid, signal.SIGKILL)
        assert second.wait() == 0, second.said()[-1000:]
        if not number % 2:
            assert first.wait() == 0, first.said()[-1000:]
        np.testing.assert_equal(prepared(cache), prepared(tmp_path / "whole"))
    print(f"{rounds} rounds of two at once, {rounds // 2} with one of them killed: 0 copies that differ")
