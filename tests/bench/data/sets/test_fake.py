"""Generated copies: every layout is recognised by its reader or refused for a reason; mistakes of the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.sets.affectnet.reader import AFFECTNET7
from ferbench.bench.data.sets.fake import draw_face
from ferbench.bench.data.sets.fakes import FAKES
from ferbench.bench.data.sets.rafdb.reader import RAFDB_SET
from ferbench.bench.data.sets.readers import READERS, open_dataset, prepare_dataset

Command = Callable[..., Any]
FakeCopy = Callable[..., Path]
REFUSED = {
    ("affectnet7", "yolo"),
    ("affectnet7", "pseudo-labels"),
    ("affectnet8", "yolo"),
    ("affectnet8", "pseudo-labels"),
}
MINE = ("ferplus", "rafdb", "affectnet7", "affectnet8")
READ = [(name, layout) for name in ("rafdb", "affectnet7") for layout in FAKES[name] if (name, layout) not in REFUSED]
OPTIONS = {("ferplus", "csv"): {"source": "new_csv"}}


@pytest.fixture
def drawn_faces(tmp_path: Path) -> Path:
    """A cache of the test's own: what is prepared here must not be found by other tests."""
    return tmp_path / "cache"


def test_every_fake_has_a_reader() -> None:
    assert set(FAKES) <= set(READERS)


@pytest.mark.parametrize(("dataset", "layout"), [(name, layout) for name in MINE for layout in FAKES[name]])
def test_layouts(fake_copy: FakeCopy, monkeypatch: pytest.MonkeyPatch, dataset: str, layout: str) -> None:
    root = fake_copy(dataset, layout, images=2)
    cache = root.parent / "cache"
    monkeypatch.setenv("FERBENCH_CACHE", str(cache))
    options = OPTIONS.get((dataset, layout), {})
    if (dataset, layout) in REFUSED:
        with pytest.raises(DataError, match="on request"):
            prepare_dataset(dataset, options, root=root, cache=cache, partial=True)
        return
    report = prepare_dataset(dataset, options, root=root, cache=cache, partial=True)
    data = open_dataset(dataset, options, root=root, cache=cache)
    assert report.fingerprint == data.fingerprint and len(data.train) == 2 * len(data.classes)
    assert set(data.labels[data.test].tolist()) == set(range(len(data.classes)))


@pytest.mark.parametrize(("dataset", "layout"), READ)
def test_the_recognised_folder_is_recognised_itself(
    fake_copy: FakeCopy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: str, layout: str
) -> None:
    """A copy is prepared again, under other options, from the folder that was recognised below the root."""
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path / "cache"))
    known = {"rafdb": RAFDB_SET, "affectnet7": AFFECTNET7}[dataset]
    options = {name: option.default for name, option in known.scan_options.items()}
    whole = known.scan(fake_copy(dataset, layout, images=1), options)
    again = known.scan(whole.root, options)
    assert again.layout == whole.layout and (again.ids == whole.ids).all() and (again.labels == whole.labels).all()


def test_pictures_repeat_and_differ() -> None:
    one, same, other = (np.asarray(draw_face(3, number)) for number in (5, 5, 6))
    assert (one == same).all() and (one != other).any() and one.shape == (100, 100, 3)
    assert draw_face(3, 5, (20, 10), "L").size == (20, 10)


def test_command(ferbench: Command, tmp_path: Path) -> None:
    done = ferbench("fake", "rafdb", "new", "--images", "1", "--layout", "kaggle")
    assert done.code == 0 and done.out.strip() == (
        "new: rafdb in layout kaggle; next: ferbench prepare rafdb --root new --partial"
    )
    assert len(list((tmp_path / "new").rglob("*.jpg"))) == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet", "new"], "no fake of 'imagenet'; data sets: ferplus, rafdb"),
        (["rafdb", "new", "--layout", "zip"], "rafdb has no layout 'zip'; layouts: official, compound, kaggle"),
        (["rafdb", "new", "--images", "0"], "--images must be 1 to 10,000, not 0"),
        (["rafdb", "full"], "full is there and not an empty folder: name a new one"),
        (["rafdb", "file"], "file is there and not an empty folder: name a new one"),
        (["rafdb", "file/new"], "Not a directory"),
    ],
)
def test_mistakes(ferbench: Command, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    done = ferbench("fake", *arguments)
    assert done.code == 2 and message in done.error()
