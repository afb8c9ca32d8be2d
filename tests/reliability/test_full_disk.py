"""A disk that fills up, a quota, a disk that may not be written to: one line, exit code 2, nothing half written; with
room again the same command ends where it would have ended.

The small disks are mounted where this process may mount, else a limit on the size of files stands for them.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reliability.lives import assert_same, command, fork
from reliability.test_kills import SMALL, STEPS

TRAIN = ("train", "fixmatch", *SMALL, *STEPS)
BIG = "200m"


def mounted(*options: str, at: Path) -> bool:
    return subprocess.run(["mount", *options, str(at)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of a size; called again, the same one with another size. Skips where nothing may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "-o", f"size={BIG}", "none", at=place):
        pytest.skip("this process may not mount a small disk")

    def sized(size: str) -> Path:
        assert mounted("-o", f"remount,size={size}", at=place)
        return place

    yield sized
    subprocess.run(["umount", "-l", str(place)], check=True)


def refused(said: str) -> None:
    """One line, and no other word of an error."""
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("ferbench: ")]) == 1, said[-1000:]


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
def test_results_on_a_full_disk(tmp_path: Path, disk: Callable[[str], Path]) -> None:
    whole, ends = tmp_path / "whole", set()
    whole.mkdir()
    assert command(*TRAIN, folder=whole).wait() == 0
    for size in ("8k", "64k", "1m", "5100k", "6m", "9900k", "12m"):
        empty(disk(BIG))
        place = disk(size)
        child = command(*TRAIN, "--results", place / "results", folder=whole)
        ends.add(code := child.wait())
        assert code in (0, 2), child.said()[-1000:]
        if code:
            refused(child.said())
            assert not list(place.rglob("*.tmp"))
        child.log.unlink()
        disk(BIG)
        assert command(*TRAIN, "--results", place / "results", folder=whole).wait() == 0
        assert_same(whole / "results", place / "results")
    assert 2 in ends


def prepare(copy: Path) -> tuple[str, ...]:
    return ("prepare", "rafdb", "--root", str(copy), "--partial", "--option", "size=96")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    made = tmp_path / "rafdb"
    assert command("fake", "rafdb", made, "--images", "60", folder=tmp_path).wait() == 0
    return made


@pytest.mark.slow
def test_a_cache_on_a_full_disk(
    tmp_path: Path, copy: Path, disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = set()
    for size in ("8k", "64k", "1m", "6m", "11900k", "12300k"):
        empty(disk(BIG))
        place = disk(size)
        monkeypatch.setenv("FERBENCH_CACHE", str(place))
        child = command(*prepare(copy), folder=tmp_path)
        ends.add(code := child.wait())
        assert code in (0, 2), child.said()[-1000:]
        if code:
            refused(child.said())
        child.log.unlink()
        disk(BIG)
        again = command(*prepare(copy), folder=tmp_path)
        assert again.wait() == 0, again.said()[-1000:]
        assert not list(place.rglob("*.tmp"))
        again.log.unlink()
    assert 2 in ends


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As quotas answer; what is left is continued without the limit."""
    whole = tmp_path / "whole"
    whole.mkdir()
    assert command(*TRAIN, folder=whole).wait() == 0
    for limit in (1000, 3000, 100_000, 3_000_000):
        folder = tmp_path / str(limit)
        folder.mkdir()

        def limited(limit: int = limit, folder: Path = folder) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            raise SystemExit(command(*TRAIN, folder=folder).wait())

        assert fork(limited, tmp_path / "outer.txt").wait() in (0, 2)
        if limit < 100_000:  # what it says is itself a file
            refused((folder / "log.txt").read_text())
        assert command(*TRAIN, folder=folder).wait() == 0
        assert_same(whole / "results", folder / "results")


def test_a_disk_that_may_not_be_written_to(tmp_path: Path, copy: Path, disk: Callable[[str], Path]) -> None:
    place = disk(BIG)
    assert command(*TRAIN, "--results", place / "results", folder=tmp_path).wait() == 0
    (run,) = (place / "results" / "runs").iterdir()
    (place / "faces.txt").write_text("")
    (tmp_path / "log.txt").unlink()
    assert mounted("-o", "remount,ro", at=place)
    asked = {
        "train": (*TRAIN, "--results", place / "results", "--seed", "2"),
        "leaderboard": ("leaderboard", "--results", place / "results"),
        "export": ("export", run, "--out", place / "weights.pt"),
        "split": ("split", "synthetic", "full", "--out", place / "split.json"),
        "fake": ("fake", "rafdb", place / "copy"),
        "prepare": prepare(copy),
    }
    for name, words in asked.items():
        cache = os.environ["FERBENCH_CACHE"]
        os.environ["FERBENCH_CACHE"] = str(place / "cache") if name == "prepare" else cache
        child = command(*words, folder=tmp_path)
        os.environ["FERBENCH_CACHE"] = cache
        code = child.wait()
        if name == "leaderboard":  # it shows the table and says that it was not written
            assert code in (0, 2), child.said()
        else:
            assert code == 2, (name, child.said())
        assert "Traceback" not in child.said() and "ead-only" in child.said(), (name, child.said())
        child.log.unlink()
