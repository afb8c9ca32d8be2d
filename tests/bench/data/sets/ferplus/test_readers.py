"""The registry of data sets: where files are looked for, and how wrong names, options and values are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.sets.readers import READERS, open_dataset, prepare_dataset
from ferbench.validation import Option, Value, resolve_options


@pytest.fixture(autouse=True)
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Three images, one per part, all of them happy."""
    for number, folder in enumerate(("FER2013Train", "FER2013Valid", "FER2013Test")):
        (tmp_path / "copy" / folder).mkdir(parents=True)
        Image.fromarray(np.full((48, 48), number, np.uint8)).save(tmp_path / "copy" / folder / f"fer{number}.png")
        (tmp_path / "copy" / folder / "label.csv").write_text(f"fer{number}.png,box,0,10,0,0,0,0,0,0,0,0\n")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("raf", {}, "unknown data set 'raf'; did you mean 'rafdb'?"),
        (
            "ferplus",
            {"rul": "majority"},
            "ferplus: unknown option 'rul'; did you mean 'rule'?",
        ),
        ("ferplus", {"rule": "vote"}, "ferplus.rule: 'vote' is not known; valid: majority, argmax10"),
        ("ferplus", {"classes": 6}, "ferplus.classes: 6 is not known; valid: 8, 7"),
        ("ferplus", {"classes": "seven"}, "ferplus.classes: expected a whole number, got 'seven'"),
        ("ferplus", {"classes": True}, "expected a whole number, got True"),
        ("ferplus", {"rule": 1}, "expected a word, got 1"),
        ("synthetic", {"seed": 1.5}, "expected a whole number, got 1.5"),
        ("ferplus", {}, "ferplus is not prepared: run `ferbench prepare ferplus --root PATH`"),
    ],
)
def test_refused(tmp_path: Path, name: str, options: dict[str, Value], message: str) -> None:
    with pytest.raises(DataError) as raised:
        open_dataset(name, options, cache=tmp_path)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_prepare_needs_a_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `ferbench prepare ferplus --root PATH`"):
        prepare_dataset("ferplus", {}, cache=tmp_path)


def test_parts_must_not_overlap(copy: Path) -> None:
    prepare_dataset("ferplus", {}, root=copy, cache=copy.parent, partial=True)
    with pytest.raises(DataError, match=r"train_parts=train\+test and test_parts=test overlap"):
        open_dataset("ferplus", {"train_parts": "train+test"}, cache=copy.parent)


def test_root_is_found(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared once, the copy is found by its root, by the environment and from memory."""
    prepare_dataset("ferplus", {}, root=copy, cache=copy.parent / "cache", partial=True)
    remembered = open_dataset("ferplus", {"classes": "7"}, cache=copy.parent / "cache")
    by_root = open_dataset("ferplus", {"classes": 7}, root=copy, cache=copy.parent / "cache")
    monkeypatch.setenv("FERBENCH_FERPLUS_ROOT", str(copy))
    by_environment = open_dataset("ferplus", {"classes": 7}, cache=copy.parent / "cache")
    assert remembered.fingerprint == by_root.fingerprint == by_environment.fingerprint
    assert remembered.class_counts(remembered.train)["happiness"] == 1


def test_opening_prepares_only_the_published_copy(copy: Path) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match="is not the published FERPlus: .*--partial"):
            open_dataset("ferplus", {}, root=copy, cache=copy.parent / "cache")
    prepare_dataset("ferplus", {}, root=copy, cache=copy.parent / "cache", partial=True)
    assert len(open_dataset("ferplus", {}, root=copy, cache=copy.parent / "cache").train) == 1
    with pytest.raises(DataError, match="is not the published FERPlus"):
        prepare_dataset("ferplus", {}, root=copy, cache=copy.parent / "cache")


def test_unreadable_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder: .*nowhere"):
        open_dataset("ferplus", {}, root=tmp_path / "nowhere", cache=tmp_path)


def test_synthetic_needs_no_root(tmp_path: Path) -> None:
    options: dict[str, Value] = {"scale": "0.01", "seed": 3, "size": 24}
    report = prepare_dataset("synthetic", options, cache=tmp_path)
    data = open_dataset("synthetic", options, cache=tmp_path)
    assert report.fingerprint == data.fingerprint and report.train == len(data.train)
    assert sum(row.found[0] for row in report.counts) == len(data.train)


@pytest.mark.parametrize("name", READERS)
def test_defaults_are_allowed_and_explained(name: str) -> None:
    reader = READERS[name]
    assert reader.name == name and reader.summary
    for option in reader.options.values():
        assert option.help and (not option.choices or option.default in option.choices)


@pytest.mark.parametrize(
    "default, given, expected",
    [(1, "2", 2), (0.5, "2", 2.0), (0.5, 2, 2.0), (False, "true", True), (True, False, False), ("a", "b", "b")],
)
def test_values_take_the_type_of_the_default(default: Value, given: Value, expected: Value) -> None:
    value = resolve_options("toy", {"x": Option(default, "help")}, {"x": given}, DataError)["x"]
    assert value == expected and type(value) is type(expected)
