"""Two copies with equal names and labels and other pixels are two data sets: no run of one stands for the other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.sets.fakes import FAKES
from ferbench.bench.data.sets.ferplus import reader as ferplus
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.training.recording.records import run_id

FakeCopy = Callable[..., Path]


def opened(dataset: str, root: Path, cache: Path) -> FaceSet:
    prepare_dataset(dataset, {}, root=root, cache=cache, partial=True)
    return open_dataset(dataset, {}, root=root, cache=cache)


def other_pixels(root: Path) -> None:
    """Turn a picture upside down, in its own format."""
    path = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))[0]
    with Image.open(path) as picture:
        turned = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turned.save(path)


WITH_FILES = [name for name in FAKES if name not in ("ckplus",)]  # the first file of CK+ may be a frame between two


@pytest.mark.parametrize("dataset", WITH_FILES)
def test_pixels_are_part_of_every_set(fake_copy: FakeCopy, tmp_path: Path, dataset: str) -> None:
    first = fake_copy(dataset, "folders" if dataset == "fer2013" else "")
    second, third = tmp_path / "second", tmp_path / "third"
    shutil.copytree(first, second)
    shutil.copytree(first, third)
    other_pixels(third)
    sets = [opened(dataset, root, tmp_path / f"cache{number}") for number, root in enumerate((first, second, third))]
    assert len({faces.fingerprint for faces in sets}) == 1
    assert sets[0].identity() == sets[1].identity() != sets[2].identity()
    assert all(faces.pixels for faces in sets)


def test_the_published_pixels_of_ferplus_are_not_named(
    fake_copy: FakeCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs recorded before pixels counted were made on them and keep their names; any other copy is told apart."""
    root = fake_copy("ferplus")
    faces = opened("ferplus", root, tmp_path / "cache")
    assert set(faces.identity()) == {"fingerprint", "pixels"}
    monkeypatch.setattr(ferplus, "PUBLISHED_PIXELS", faces.pixels)
    assert set(opened("ferplus", root, tmp_path / "cache").identity()) == {"fingerprint"}


def test_pixels_do_not_hang_on_the_file(fake_copy: FakeCopy, tmp_path: Path) -> None:
    """The same pixels in another file (compressed otherwise) are the same data."""
    first, second = fake_copy("folder"), tmp_path / "second"
    shutil.copytree(first, second)
    for path in second.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
        picture.save(path, compress_level=1)
    one, other = (opened("folder", root, tmp_path / "cache") for root in (first, second))
    assert one.identity() == other.identity()
    np.testing.assert_array_equal(one.images, other.images)


def test_a_run_on_other_pixels_is_another_run(
    make_tiny_run: Callable[..., Any], make_faces: Callable[..., FaceSet]
) -> None:
    """Equal in all but pixels; a set whose pixels are not named keeps the name that runs had before they were."""
    faces = make_faces()
    specs = [make_tiny_run(faces=replace(faces, pixels=pixels)).spec for pixels in ("", "a", "b")]
    assert len({run_id(spec) for spec in specs}) == 3
    assert [spec["dataset"].get("pixels") for spec in specs] == [None, "a", "b"]
    assert "pixels" not in specs[0]["dataset"] and specs[0]["dataset"]["fingerprint"] == faces.fingerprint
