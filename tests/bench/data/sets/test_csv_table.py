"""A user's own table of images: columns, boxes, votes, and everything that may be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.names import EMOTIONS
from ferbench.bench.data.reading.textfile import decode
from ferbench.bench.data.sets.own import fake as fake_own
from ferbench.bench.data.sets.own.csv_table import parse_table, scan_csv
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.data.splits.draw import make_split

DEFAULTS = {"file": "labels.csv", "codes": "none"}


def test_every_column_there_can_be(tmp_path: Path) -> None:
    fake_own.table(tmp_path, 3)
    listing = scan_csv(tmp_path, DEFAULTS)
    assert listing.classes == EMOTIONS[:7]
    assert [int((listing.parts == part).sum()) for part in range(3)] == [21, 0, 7]
    assert listing.boxes is not None and listing.boxes[0].tolist() == [8, 8.5, 56, 60]
    assert listing.votes is not None and (listing.votes.argmax(axis=1) == listing.labels).all()
    assert listing.votes.sum(axis=1).tolist() == [9.0] * 28
    assert listing.subjects is not None and len(set(listing.subjects.tolist())) == 4
    prepare_dataset("csv", {}, root=tmp_path, cache=tmp_path / "cache")
    faces = open_dataset("csv", {}, root=tmp_path, cache=tmp_path / "cache")
    assert (len(faces.train), len(faces.test)) == (21, 7)
    assert faces.boxes is not None and faces.boxes[0].tolist() == [8, 8.5, 56, 60]


def test_a_bare_table_of_codes(tmp_path: Path) -> None:
    fake_own.bare_table(tmp_path, 2)
    listing = scan_csv(tmp_path, {**DEFAULTS, "codes": "rafdb"})
    assert listing.classes == ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    assert listing.labels.tolist() == [label for label in range(7) for _ in range(2)]
    assert listing.boxes is None and listing.votes is None and listing.subjects is None


def test_headers_in_any_order_and_spelling() -> None:
    rows = parse_table("Expression, Split ,FILENAME\nhappy,PrivateTest,a/b.jpg\n,,c.jpg\n", "t")
    assert (rows.paths, rows.labels, rows.parts) == (["a/b.jpg", "c.jpg"], ["happy", ""], [2, 0])


def test_boxes_without_a_header_and_rows_without_a_box() -> None:
    rows = parse_table("a.jpg,1,0,0,5,6.5\nb.jpg,2,,,,\n", "t")
    assert rows.boxes is not None
    np.testing.assert_array_equal(rows.boxes, [[0, 0, 5, 6.5], [np.nan] * 4])


def test_training_images_without_a_label_are_unlabelled_ones(tmp_path: Path) -> None:
    fake_own.table(tmp_path, 2)
    text = (tmp_path / "labels.csv").read_text()
    for path in ("images/train0_0.png", "images/test0_100000.png"):
        assert f"{path},neutral" in text
        text = text.replace(f"{path},neutral", f"{path},")
    (tmp_path / "labels.csv").write_text(text)
    prepare_dataset("csv", {}, root=tmp_path, cache=tmp_path / "cache")
    faces = open_dataset("csv", {}, root=tmp_path, cache=tmp_path / "cache")
    assert faces.labels[faces.train].tolist().count(-1) == 1 and -1 not in faces.labels[faces.test]
    assert (len(faces.train), len(faces.test)) == (14, 6)
    split = make_split(faces, "full", {}, 1)
    assert len(split.labelled) == 13 and faces.ids[split.unlabelled].tolist() == ["images/train0_0.png"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "t: no rows"),
        ("path,label\n", "t: a header and no rows"),
        ("a.jpg\n", "t line 1: 1 fields and no header; expected path,label or path,label,x1,y1,x2,y2"),
        ("a.jpg,1,2\n", "t line 1: 3 fields and no header"),
        ("path,label\na.jpg\n", "t line 2: 1 fields, expected 2"),
        ("path,emotion,label\na.jpg,1,1\n", "column 'label' is there twice"),
        ("path,label,,\na.jpg,1,,\n", "column 3 has no name"),
        ("path,x1\na.jpg,1\n", "t line 1: no column label, y1, x2, y2"),
        ("path,label\n../a.jpg,1\n", "t line 2: '../a.jpg' is not a path inside the data set's folder"),
        ("path,label\n/etc/passwd,1\n", "'/etc/passwd' is not a path inside"),
        ("path,label\nC:\\a.jpg,1\n", "is not a path inside"),
        ("path,label\na/../../b.jpg,1\n", "is not a path inside"),
        ("path,label\n,1\n", "'' is not a path inside"),
        ("path,label,part\na.jpg,1,half\n", "part 'half' is none of train, valid, test"),
        ("a.jpg,1,5,0,5,6\n", "t line 1: box 5, 0, 5, 6 has no area"),
        ("a.jpg,1,0,0,nan,6\n", "t line 1: box 'nan' is not a number"),
        ("a.jpg,1,0,0,1e99,6\n", "box '1e99' is not a number"),
        ("path,label,joy\na.jpg,joy,-1\n", "votes '-1' are below 0"),
        ('path,label\n"a.jpg,1\n', "t line 2: "),
    ],
    ids=["empty", "header", "one", "three", "short", "twice", "nameless", "missing", "parent", "absolute", "drive",
         "up", "none", "part", "area", "nan", "huge", "votes", "quote"],
)  # fmt: skip
def test_damaged_tables(text: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_table(text, "t")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label,happy,sad\na.jpg,joy,1,0\n", "must be named after the classes .happiness., once each, not happy"),
        ("path,label,sad\na.jpg,joy,1\n", "must be named after the classes"),
        ("path,label,happy,joy\na.jpg,joy,1,1\n", "once each, not happy, joy"),
        ("path,label\na.jpg,\n", "no row has a label; images without labels are read as `faces`"),
        ("path,label\na.jpg,joy\na.jpg,sad\n", "1 images are listed more than once, first 'a.jpg'"),
    ],
    ids=["more", "other", "synonyms", "unlabelled", "repeated"],
)
def test_tables_that_contradict_themselves(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=expected):
        scan_csv(tmp_path, DEFAULTS)


@pytest.mark.parametrize("file", ["other.csv", "../labels.csv", "/etc/passwd"])
def test_a_table_that_is_not_there_or_outside(tmp_path: Path, file: str, ferbench: Callable[..., Any]) -> None:
    (tmp_path / "labels.csv").write_text("path,label\na.jpg,1\n")
    (tmp_path / "copy").mkdir()
    done = ferbench("prepare", "csv", "--root", tmp_path / "copy", "--option", f"file={file}")
    assert done.code == 2
    assert ("no such table" if file == "other.csv" else "is not a path inside") in done.error()


def test_listed_images_that_are_missing(tmp_path: Path, ferbench: Callable[..., Any]) -> None:
    fake_own.bare_table(tmp_path / "copy", 2)
    (tmp_path / "copy" / "3_1.png").unlink()
    done = ferbench("prepare", "csv", "--root", tmp_path / "copy")
    assert done.code == 2 and "1 x missing image of train: 3_1.png" in done.error()
    assert ferbench("prepare", "csv", "--root", tmp_path / "copy", "--partial").code == 0


CELL = st.sampled_from(
    ["path", "label", "a.jpg", "x1", "y1", "x2", "y2", "part", "1", "0.5", "joy", "test", "", "../b"]
)


@given(
    st.lists(st.lists(CELL, min_size=1, max_size=7).map(",".join), max_size=4).map(
        lambda rows: "\n".join(rows).encode()
    )
    | st.binary(max_size=60).map(lambda data: b"path,label\na.jpg,1\n" + data)
)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_table_or_a_clean_error(data: bytes) -> None:
    try:
        rows = parse_table(decode(data, "t"), "t")
    except DataError as error:
        assert str(error).startswith("t") and "\n" not in str(error)
        return
    assert len(rows.paths) == len(rows.labels) == len(rows.parts) > 0
    assert not any(path.startswith("/") or ".." in path.split("/") for path in rows.paths)
