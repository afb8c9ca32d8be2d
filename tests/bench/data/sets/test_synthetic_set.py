"""The synthetic face set: parts, people and fingerprint, and a cache that is read back or replaced, never trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError, FaceSet
from ferbench.bench.data.preparing.checks.fingerprint import faceset_fingerprint
from ferbench.bench.data.sets.synthetic.expressions import CLASSES
from ferbench.bench.data.sets.synthetic.reader import class_sizes, synthetic


def test_face_set() -> None:
    found = synthetic(scale=0.01, classes=8, size=24, seed=3)
    train, test = class_sizes(0.01, 8)
    assert list(found.class_counts(found.train).values()) == train and found.classes == CLASSES
    assert list(found.class_counts(found.test).values()) == test
    assert found.ids[0] == "train/00001" and found.ids[found.test[-1]] == f"test/{sum(test):05d}"
    assert len(set(found.ids.tolist())) == len(found.images) == sum(train) + sum(test)
    assert {PARTS[part] for part in found.parts[found.test]} == {"test"}
    assert {PARTS[part] for part in found.parts[found.train]} == {"train"}
    assert found.subjects is not None and found.votes is not None and found.boxes is not None
    assert not set(found.subjects[found.train].tolist()) & set(found.subjects[found.test].tolist())
    assert np.array_equal(found.votes.argmax(axis=1), found.labels)


def test_fingerprint_tells_sets_apart() -> None:
    small = {"scale": 0.002, "size": 16}
    prints = [
        synthetic(**small).fingerprint,  # type: ignore[arg-type]
        synthetic(**small, seed=1).fingerprint,  # type: ignore[arg-type]
        synthetic(scale=0.003, size=16).fingerprint,
        synthetic(scale=0.002, size=17).fingerprint,
        synthetic(**small, classes=8).fingerprint,  # type: ignore[arg-type]
    ]
    assert len(set(prints)) == 5 and prints[0] == synthetic(**small).fingerprint  # type: ignore[arg-type]


def test_fingerprint_covers_every_field() -> None:
    base = ({"a": 1, "b": "x"}, ["p", "q"], [0, 1], [0, 2], [0], [1])
    changed = [
        ({"a": 2, "b": "x"}, *base[1:]), (base[0], ["p", "r"], *base[2:]), (*base[:2], [1, 1], *base[3:]),
        (*base[:3], [0, 1], *base[4:]), (*base[:4], [0, 1], []), (*base[:4], [], [0, 1]),
    ]  # fmt: skip
    assert len({faceset_fingerprint(*fields) for fields in [base, *changed]}) == 7  # type: ignore[arg-type]
    widths = ({"b": "x", "a": 1}, np.array(["p", "q"]), np.array([0, 1], ">i2"), np.array([0, 2], np.int8), (0,), (1,))
    assert faceset_fingerprint(*widths) == faceset_fingerprint(*base)  # type: ignore[arg-type]


def arrays(found: FaceSet) -> list[NDArray[np.generic]]:
    assert found.votes is not None and found.boxes is not None and found.subjects is not None
    return [
        found.images, found.labels, found.parts, found.ids, found.train, found.test, found.votes, found.boxes,
        found.subjects,
    ]  # fmt: skip


def same(one: FaceSet, two: FaceSet) -> bool:
    pairs = zip(arrays(one), arrays(two), strict=True)
    return one.fingerprint == two.fingerprint and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def cached(cache: Path) -> FaceSet:
    return synthetic(scale=0.003, size=16, cache=cache)


def test_cache_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = cached(tmp_path / "new" / "cache")
    assert same(fresh, synthetic(scale=0.003, size=16))
    monkeypatch.setattr("ferbench.bench.data.sets.synthetic.reader.generate", None)  # drawing again would fail
    assert same(cached(tmp_path / "new" / "cache"), fresh)


@pytest.mark.parametrize("file", ["images.npy", "index.npz", "meta.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "missing"])
def test_damaged_cache_is_replaced(tmp_path: Path, file: str, damage: str) -> None:
    fresh = cached(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    target = folder / file
    if damage == "missing":
        target.unlink()
    else:
        content = target.read_bytes()
        target.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "foreign": b'{"a": 1}'}[damage])
    assert same(cached(tmp_path), fresh)
    assert same(cached(tmp_path), fresh)


def test_cache_of_other_options_is_replaced(tmp_path: Path) -> None:
    fresh = cached(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    synthetic(scale=0.003, size=16, seed=9, cache=tmp_path / "other")
    (other,) = (path for path in (tmp_path / "other").iterdir() if path.is_dir())
    for path in other.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert same(cached(tmp_path), fresh)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 6}, "classes cannot be 6"),
        ({"scale": 0.0}, "scale cannot be 0.0"),
        ({"scale": -1.0}, "scale cannot be -1.0"),
        ({"scale": float("nan")}, "scale cannot be nan"),
        ({"scale": 1e9}, "scale cannot be"),
        ({"size": 8}, "size cannot be 8"),
        ({"size": 4096}, "size cannot be 4096"),
        ({"seed": -1}, "seed cannot be -1"),
    ],
    ids=lambda value: str(value),
)
def test_bad_arguments(arguments: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        synthetic(**arguments, cache=tmp_path)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and "give" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
