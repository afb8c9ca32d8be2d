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
from ferbench.bench.data.reading.listing import Listing
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
        ("path,emotion,label\na.jpg,1,1\n", "columns 'emotion' and 'label' both are the label; take one with"),
        ("path,image,label\na.jpg,a.jpg,1\n", "columns 'path' and 'image' both are the path; rename one"),
        ("name,label\na.jpg,1\n", "t line 1: 'name, label' names no image, but line 2 does: if it is a header"),
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
        ('path,label\n"a.jpg,1\n', "t line 2: "),
    ],
    ids=["empty", "header", "one", "three", "short", "twice", "paths", "theirs", "missing", "parent", "absolute",
         "drive", "up", "none", "part", "area", "nan", "huge", "quote"],
)  # fmt: skip
def test_damaged_tables(text: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_table(text, "t")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label,joy\na.jpg,joy,-1\n", "line 2: votes '-1' are below 0"),
        ("path,label,joy\na.jpg,joy,1\nb.jpg,joy,many\n", "line 3: votes 'many' is not a number"),
        ("path,label\na.jpg,\n", "no row has a label; images without labels are read as `faces`"),
        ("path,label\na.jpg,-1\nb.jpg,NaN\n", "no row has a label"),
        ("path,label\na.jpg,joy\na.jpg,sad\n", "every image is listed with different labels"),
    ],
    ids=["below 0", "no number", "unlabelled", "words for none", "repeated"],
)
def test_tables_that_contradict_themselves(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=expected):
        scan_csv(tmp_path, DEFAULTS)


def scanned(tmp_path: Path, text: str, **options: str) -> Listing:
    (tmp_path / "labels.csv").write_text(text)
    return scan_csv(tmp_path, {**DEFAULTS, **options})


@pytest.mark.parametrize(
    ("header", "row", "unused"),
    [
        ("path,label,confidence", "{}.jpg,{},0.5", "confidence"),
        (",path,label", "0,{}.jpg,{}", "(column 1)"),
        ("path,label,happy", "{}.jpg,{},1", "happy"),
        ("path,label,happy,joy,sad", "{}.jpg,{},1,0,0", "happy, joy, sad"),
        ("image_name,label,original_split", "{}.jpg,{},Train", "original_split"),
    ],
)
def test_other_columns_are_named_and_not_taken_for_votes(tmp_path: Path, header: str, row: str, unused: str) -> None:
    rows = [row.format(name, label) for name, label in (("a", "joy"), ("b", "sad"))]
    listing = scanned(tmp_path, "\n".join([header, *rows]) + "\n")
    assert listing.votes is None and listing.classes == ("happiness", "sadness")
    assert f"columns that are not used: {unused}" in listing.notes


def test_votes_beside_other_columns(tmp_path: Path) -> None:
    listing = scanned(tmp_path, "path,Sad,label,note,happy\na.jpg,1,joy,x,2\nb.jpg,3,sad,y,\n")
    assert listing.votes is not None and listing.votes.tolist() == [[2, 1], [0, 3]]
    assert listing.notes == ("columns that are not used: note",)


def test_one_of_two_label_columns(tmp_path: Path) -> None:
    text = "image_name,label,emotion\na.jpg,3,Happy\nb.jpg,4,Sad\n"
    listing = scanned(tmp_path, text, label="Emotion")
    assert listing.classes == ("happiness", "sadness") and listing.notes == ("columns that are not used: label",)
    assert scanned(tmp_path, text, label="label").classes == ("3", "4")
    with pytest.raises(DataError, match="no column 'feeling' .option label.; columns: image_name, label, emotion"):
        scanned(tmp_path, text, label="feeling")


@pytest.mark.parametrize("header", ["file_name,label", "image_path,label", "pth,label", "Image Name,Emotion"])
def test_headers_of_others(tmp_path: Path, header: str) -> None:
    listing = scanned(tmp_path, f"{header}\na.jpg,happy\nb.jpg,sad\n")
    assert listing.ids.tolist() == ["a.jpg", "b.jpg"] and listing.classes == ("happiness", "sadness")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators(tmp_path: Path, mark: str) -> None:
    listing = scanned(tmp_path, mark.join(("path", "label")) + f"\na.jpg{mark}happy\n./i//b.jpg{mark}sad\n")
    assert listing.ids.tolist() == ["a.jpg", "i/b.jpg"]


@pytest.mark.parametrize("word", ["-1", "-1.0", "nan", "NaN", "None", "null", "NA", "n/a", "?", " ", "<NA>"])
def test_words_for_no_label(tmp_path: Path, word: str) -> None:
    listing = scanned(tmp_path, f"path,label\na.jpg,happy\nb.jpg,{word}\nc.jpg,sad\n")
    assert listing.labels.tolist() == [0, -1, 1] and listing.classes == ("happiness", "sadness")


def test_codes_that_became_floats(tmp_path: Path) -> None:
    """A gap in a column of codes makes floats of them in pandas; they are the same numbers, in numerical order."""
    text = "path,label\n" + "".join(f"{code}.jpg,{float(code)}\n" for code in range(11)) + "x.jpg,\n"
    listing = scanned(tmp_path, text)
    assert listing.classes == tuple(map(str, range(11))) and listing.labels.tolist() == [*range(11), -1]
    assert "say what they mean with the option codes" in listing.warnings[0]
    text = "path,label\n" + "".join(f"{code}.jpg,{float(code)}\n" for code in range(8))
    assert scanned(tmp_path, text, codes="affectnet").classes == EMOTIONS
    ferplus = scanned(tmp_path, text, codes="ferplus").classes
    assert ferplus[2:7] == ("surprise", "sadness", "anger", "disgust", "fear")


def test_letter_case_and_unicode_form_make_no_classes(tmp_path: Path) -> None:
    words = ("Calm", "calm", "Happy", "happy", "cafe\u0301", "caf\u00e9")
    listing = scanned(tmp_path, "path,label\n" + "".join(f"{n}.jpg,{word}\n" for n, word in enumerate(words)))
    assert listing.classes == ("Calm", "Happy", "caf\u00e9") and listing.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_slips_are_named(tmp_path: Path) -> None:
    listing = scanned(tmp_path, "path,label\na.jpg,suprise\nb.jpg,Angray\nc.jpg,sad\nd.jpg,calm\n")
    assert "classes that may be misspelt: Angray (anger?), suprise (surprise?)" in listing.warnings


def test_images_listed_twice(tmp_path: Path) -> None:
    """Once where the rows agree, set aside by name where they do not, as the first row says where asked for."""
    rows = ("a.jpg,joy,", "b.jpg,sad,", "a.jpg,Happy,train", "b.jpg,joy,", "c.jpg,sad,", "c.jpg,sad,test", "d.jpg,joy,")
    text = "\n".join(("path,label,part", *rows))
    listing = scanned(tmp_path, text)
    assert listing.ids.tolist() == ["a.jpg", "d.jpg"]
    assert listing.notes == ("3 rows repeat an image that an earlier row names, and are left out",)
    assert "2 images are listed with different labels or parts, b.jpg, c.jpg: set aside" in listing.warnings[0]
    first = scanned(tmp_path, text, repeated="first")
    assert first.ids.tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] and first.labels.tolist() == [0, 1, 1, 0]
    assert "the first row of each counts" in first.warnings[0]


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
