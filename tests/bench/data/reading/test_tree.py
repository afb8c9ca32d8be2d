"""Folders, names and label files: what is read, in which order, and what is refused, whatever the bytes are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.names import (
    AFFECTNET,
    CKEXTENDED,
    CKPLUS,
    EMOTIONS,
    FER2013,
    RAFDB,
    canonical,
    emotion,
)
from ferbench.bench.data.reading.textfile import columns_of, csv_file, csv_rows, decode, lines, number, text_of, whole
from ferbench.bench.data.reading.tree import (
    archives_in,
    class_folders,
    clean_path,
    first_folder,
    image_names,
    reading,
    subfolders,
    walk_images,
)


def plant(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


@pytest.mark.parametrize(
    ("word", "name"),
    [("Happy", "happiness"), ("JOY", "happiness"), (" sad ", "sadness"), ("Angry", "anger"), ("surprised", "surprise"),
     ("afraid", "fear"), ("Fearful", "fear"), ("disgusted", "disgust"), ("Neutral", "neutral"),
     ("contempt", "contempt"), ("bored", None), ("", None), ("0", None)],
)  # fmt: skip
def test_synonyms(word: str, name: str | None) -> None:
    assert canonical(word) == name


def test_unknown_words_are_named() -> None:
    with pytest.raises(DataError, match="labels.csv line 3: 'bored' is no expression ferbench knows"):
        emotion("bored", "labels.csv line 3")


def test_codes_of_the_data_sets() -> None:
    """The table of the reference: RAF-DB from 1, and AffectNet in four of eight places not like FER+."""
    assert [RAFDB[code] for code in (1, 2, 7)] == ["surprise", "fear", "neutral"]
    assert [AFFECTNET[code] for code in range(8)] == list(EMOTIONS)
    assert [FER2013[code] for code in (0, 3, 6)] == ["anger", "happiness", "neutral"]
    assert [CKPLUS[code] for code in (1, 2, 7)] == ["anger", "contempt", "surprise"] and CKEXTENDED[7] == "contempt"


def test_images_are_listed_in_order(tmp_path: Path) -> None:
    plant(
        tmp_path, "b/2.JPG", "b/10.jpg", "a/x.PNG", "c.bmp", "b/._2.jpg", ".hidden/1.png", "__MACOSX/1.png", "b/n.txt"
    )
    assert list(walk_images(tmp_path)) == ["c.bmp", "a/x.PNG", "b/10.jpg", "b/2.JPG"]
    assert image_names(tmp_path / "b") == ["10.jpg", "2.JPG"]
    assert subfolders(tmp_path) == ["a", "b"]


def test_links_are_not_entered(tmp_path: Path) -> None:
    plant(tmp_path, "root/a/1.png", "other/2.png")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/out").symlink_to(tmp_path / "other")
    assert list(walk_images(tmp_path / "root")) == ["a/1.png"]


def test_folders_in_any_case(tmp_path: Path) -> None:
    plant(tmp_path, "Train/1.png", "VAL/1.png")
    assert first_folder(tmp_path, ["train"]) == tmp_path / "Train"
    assert first_folder(tmp_path, ["test", "val"]) == tmp_path / "VAL"
    assert first_folder(tmp_path, ["test"]) is None and first_folder(tmp_path / "no", ["x"]) is None


def test_class_folders_by_number_not_by_order(tmp_path: Path) -> None:
    codes = dict(enumerate("abcdefghijk", start=1))
    plant(tmp_path, *(f"{code}/x.png" for code in (1, 10, 11, 2)))
    assert class_folders(tmp_path, codes) == ("digits", {"a": "1", "j": "10", "k": "11", "b": "2"})
    assert class_folders(tmp_path / "1", codes) is None


def test_class_folders_in_words(tmp_path: Path) -> None:
    plant(tmp_path, "Happy/x.png", "sadness/x.png", "notes/x.txt")
    assert class_folders(tmp_path, {}) == ("words", {"happiness": "Happy", "sadness": "sadness"})


@pytest.mark.parametrize("path", ["a.png", "a/b/c.png", "a b/ü.png", "..a/b..png", "a\\b.png"])
def test_paths_inside(path: str) -> None:
    assert clean_path(path, "f") == path.replace("\\", "/")


@pytest.mark.parametrize("path", ["a//b", "./a/b", "a/./b", "a/b/", ".//a///b"])
def test_one_path_in_other_words(path: str) -> None:
    assert clean_path(path, "f") == "a/b"


@pytest.mark.parametrize("name", ["Screenshot at 10.00.00\u202fAM.png", "\u8868\u60c5\u3000001.png", "a\u00a0b.png"])
def test_blanks_of_every_kind_are_in_order(name: str) -> None:
    assert clean_path(name, "f") == name


def test_a_name_that_is_not_utf8() -> None:
    with pytest.raises(DataError, match="f: 'caf.*' is not a name in UTF-8: rename the file"):
        clean_path(b"caf\xe9.png".decode("utf-8", "surrogateescape"), "f")


@pytest.mark.parametrize(
    "path", ["", ".", "/", "/a", "../a", "a/../b", "C:/a", "..\\a", "a\0b", "a\x1b[2Jb", "a\u2028b", "x" * 1001]
)
def test_paths_outside(path: str) -> None:
    with pytest.raises(DataError, match="f: .* is not a path inside"):
        clean_path(path, "f")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("./\\ab:\n"), max_size=12) | st.text(max_size=20))
def test_no_accepted_path_leaves(text: str) -> None:
    try:
        path = clean_path(text, "f")
    except DataError:
        return
    assert os.path.normpath(os.path.join("/copy", path)).startswith("/copy/")


def test_archives_are_a_hint(tmp_path: Path) -> None:
    plant(tmp_path, "a.zip", "b.tar.gz", "c.txt", "d.parquet")
    assert archives_in(tmp_path) == ["a.zip", "b.tar.gz", "d.parquet"]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: cannot be read: No such file"), reading(tmp_path):
        text_of(tmp_path / "none")


def test_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa 1\r\n\r\n b 2 \n")
    assert list(lines(text_of(tmp_path / "f"), "f")) == [(1, "a 1"), (3, "b 2")]
    assert list(csv_file(tmp_path / "f")) == [(1, ["a 1"]), (3, ["b 2"])]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"a\nb\xff\n", "f line 2: not UTF-8 text"), (b"a\nb\0\n", "f line 2: not a text file")],
)
def test_what_is_no_text(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(data, "f")


def test_long_lines() -> None:
    with pytest.raises(DataError, match="f line 2: longer than 100,000 characters"):
        list(lines("a\n" + "b" * 100_001, "f"))


@pytest.mark.parametrize(("cell", "value"), [("3", 3), (" 4 ", 4), ("5.0", 5), ("-1", -1), ("007", 7)])
def test_whole_numbers(cell: str, value: int) -> None:
    assert whole(cell, "f", 1, range(-2, 8), "code") == value


@pytest.mark.parametrize("cell", ["", "8", "-3", "1.5", "1e0", "+1", "--1", "1_0", "٣", "nan", "9" * 30])
def test_no_whole_numbers(cell: str) -> None:
    with pytest.raises(DataError, match="f line 1: code .* is not a whole number in -2 to 7"):
        whole(cell, "f", 1, range(-2, 8), "code")


@pytest.mark.parametrize("cell", ["", "nan", "inf", "1_0", "1,5", "1e10", "x"])
def test_no_numbers(cell: str) -> None:
    with pytest.raises(DataError, match="f line 1: box .* is not a number"):
        number(cell, "f", 1, "box")


@pytest.mark.parametrize("header", [["a"], ["a", "b", "A"]])
def test_headers(header: list[str]) -> None:
    assert columns_of([" B ", "x", "a"], ("a", "b"), "f") == [2, 0]
    with pytest.raises(DataError, match="f line 1: expected one column each of a, b; wrong"):
        columns_of(header, ("a", "b"), "f")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_rows_or_refused(data: bytes) -> None:
    try:
        text = decode(data, "f")
        rows = [*lines(text, "f"), *csv_rows(text, "f")]
    except DataError as error:
        assert str(error).startswith("f line ")
    else:
        assert all(line >= 1 for line, _ in rows)
