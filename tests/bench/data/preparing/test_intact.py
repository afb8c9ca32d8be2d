"""A prepared copy that has changed on the disk, by a bit or a byte, is never trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import load_prepared
from ferbench.bench.data.preparing.checks import intact
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

FakeCopy = Callable[..., Path]
SETS = {"ferplus": "first", "rafdb": "first", "folder": "first"}


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def prepared(fake_copy: FakeCopy, dataset: str) -> tuple[Path, Path, Path]:
    root = fake_copy(dataset)
    report = prepare_dataset(dataset, {}, root=root, cache=root.parent / "cache", partial=True)
    return root, root.parent / "cache", Path(str(report.folder))


@pytest.mark.parametrize("dataset", SETS)
def test_a_changed_pixel_is_named_and_mended(fake_copy: FakeCopy, dataset: str) -> None:
    root, cache, folder = prepared(fake_copy, dataset)
    before = open_dataset(dataset, {}, root=root, cache=cache)
    pixels, name = before.images[2].copy(), str(before.ids[2])
    flip(folder / "images.npy", 128 + 2 * before.images[0].nbytes + 7)
    with pytest.raises(DataError, match=rf"1 images of the prepared copy .* not as they were decoded \(first {name}\)"):
        open_dataset(dataset, {}, root=root, cache=cache)
    report = prepare_dataset(dataset, {}, root=root, cache=cache, partial=True)
    assert "1 images of the prepared copy were not as they had been decoded: decoded again" in report.notices
    np.testing.assert_array_equal(open_dataset(dataset, {}, root=root, cache=cache).images[2], pixels)


def test_large_copies_are_looked_at_when_asked(fake_copy: FakeCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intact, "ALWAYS_BYTES", 0)
    root, cache, folder = prepared(fake_copy, "folder")
    flip(folder / "images.npy", -1)
    open_dataset("folder", {}, root=root, cache=cache)
    assert prepare_dataset("folder", {}, root=root, cache=cache).cached
    report = prepare_dataset("folder", {}, root=root, cache=cache, verify=True)
    assert not report.cached and "1 images of the prepared copy were not" in report.notices[0]
    again = prepare_dataset("folder", {}, root=root, cache=cache, verify=True)
    assert again.cached and "verified: all 35 images of the prepared copy are as they were decoded" in again.notices


def test_synthetic_faces_are_drawn_again(tmp_path: Path) -> None:
    before = open_dataset("synthetic", {"scale": 0.003, "size": 16}, cache=tmp_path)
    pixels = np.array(before.images)
    (folder,) = tmp_path.glob("synthetic-*")
    flip(folder / "images.npy", -5)
    after = open_dataset("synthetic", {"scale": 0.003, "size": 16}, cache=tmp_path)
    np.testing.assert_array_equal(after.images, pixels)
    assert after.pixels == before.pixels != ""


@pytest.mark.parametrize("file", ["index.npz", "meta.json", "images.npy"])
def test_no_flipped_bit_is_accepted(fake_copy: FakeCopy, tmp_path: Path, file: str) -> None:
    """300 bits of each file: the copy cannot be opened, its images are found changed, or its content is the same."""
    _, _, folder = prepared(fake_copy, "folder")
    copy = tmp_path / folder.name
    whole = load_prepared(folder, "folder")
    rng, size = np.random.default_rng(0), (folder / file).stat().st_size
    for place, bit in zip(rng.integers(0, size, 300), rng.integers(0, 8, 300), strict=True):
        shutil.copytree(folder, copy)
        flip(copy / file, int(place), int(bit))
        try:
            opened = load_prepared(copy, "folder")
        except DataError as error:
            assert "\n" not in str(error)
        else:
            changed = len(intact.changed_images(opened)) > 0
            assert changed or (json.dumps(opened.meta) == json.dumps(whole.meta) and _same(opened.index, whole.index))
            assert changed or np.array_equal(opened.images, whole.images)
        shutil.rmtree(copy)


def _same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
