"""The FERPlus file parsers: what they read, and that anything else is one DataError line and nothing worse."""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.pixel_table import pixel_rows
from ferbench.bench.data.sets.ferplus.csv import parse_label_csv, parse_new_csv

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
PIXELS = " ".join(str(value % 256) for value in range(48 * 48))


def test_label_csv() -> None:
    table = parse_label_csv(b'fer0.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0\r\nfer1.png,x,0,0,0,0,0,0,0,0,0,10', "f", 2)
    assert table.names == ["fer0.png", "fer1.png"]
    assert table.parts.tolist() == [2, 2]
    assert table.votes.tolist() == [[4, 0, 0, 1, 3, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 10]]


def test_new_csv() -> None:
    rows = (
        "Training,fer0.png,4,0,0,1,3,2,0,0,0,0\nPublicTest,,0,0,0,0,0,0,0,0,0,10\nPrivateTest,f.png,0,9,0,0,0,0,0,0,0,0"
    )
    table = parse_new_csv((HEADER + rows).encode(), "f")
    assert table.keys() == [(0, "fer0.png"), (1, ""), (2, "f.png")]
    assert table.votes.sum(axis=1).tolist() == [10, 10, 9]


def test_new_csv_columns_are_found_by_name() -> None:
    """A spreadsheet that moved the columns changes nothing; a byte order mark does no harm."""
    header = "NF,unknown,contempt,fear,disgust,anger,sadness,surprise,Happiness, neutral,Image name,Usage\n"
    table = parse_new_csv(b"\xef\xbb\xbf" + (header + "0,1,2,0,0,0,0,0,3,4,fer0.png,Training").encode(), "f")
    assert table.votes.tolist() == [[4, 3, 0, 0, 0, 0, 0, 2, 1, 0]]


LABEL_FAULTS = {
    "empty": (b"", "no rows"),
    "header": (HEADER.encode(), "line 1: 'Usage' is no image name"),
    "cut short": (b"fer0.png,x,4,0,0,1,3,2,0,0,0,0\nfer1.png,x,4,0", "line 2: 4 fields"),
    "no number": (b"fer0.png,x,4,0,0,1,3,two,0,0,0,0", "line 1"),
    "negative": (b"fer0.png,x,4,0,0,-1,3,2,0,0,0,0", "line 1"),
    "eleven votes": (b"fer0.png,x,4,0,0,1,3,2,0,0,0,1", "10 votes"),
    "path": (b"../fer0.png,x,4,0,0,1,3,2,0,0,0,0", "line 1: '../fer0.png' is no image name"),
    "quote left open": (b'fer0.png,"(0, 0,4,0,0,1,3,2,0,0,0,0', "line 1: unexpected end of data"),
    "UTF-16": ("fer0.png,x,4,0,0,1,3,2,0,0,0,0".encode("utf-16"), "not UTF-8"),
}
NEW_FAULTS = {
    "empty": (b"", "line 1: expected the columns"),
    "header only": (HEADER.encode(), "no rows"),
    "unknown class": (HEADER.replace("fear", "awe").encode(), "missing: fear; unknown: 'awe'"),
    "class twice": (HEADER.replace("NF", "NF,fear").encode(), "is there twice"),
    "other usage": ((HEADER + "Test,fer0.png,4,0,0,1,3,2,0,0,0,0").encode(), "line 2: Usage 'Test'"),
    "cut short": ((HEADER + "Training,fer0.png,4,0,0").encode(), "line 2: 5 fields, expected 12"),
}


@pytest.mark.parametrize("fault", LABEL_FAULTS)
def test_label_csv_fault(fault: str) -> None:
    data, message = LABEL_FAULTS[fault]
    with pytest.raises(DataError) as raised:
        parse_label_csv(data, "Train/label.csv", 0)
    assert str(raised.value).startswith("Train/label.csv") and message in str(raised.value)


@pytest.mark.parametrize("fault", NEW_FAULTS)
def test_new_csv_fault(fault: str) -> None:
    data, message = NEW_FAULTS[fault]
    with pytest.raises(DataError) as raised:
        parse_new_csv(data, "fer2013new.csv")
    assert str(raised.value).startswith("fer2013new.csv") and message in str(raised.value)


@pytest.mark.parametrize(
    "header, row",
    [
        ("emotion,pixels,Usage", f"0,{PIXELS},PublicTest"),
        ("emotion, Usage, pixels", f"0,PublicTest,{PIXELS}"),
    ],
    ids=["fer2013.csv", "icml_face_data.csv"],
)
def test_pixel_rows(tmp_path: Path, header: str, row: str) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_text(f"{header}\n{row}\n{row}\n")
    rows = list(pixel_rows(path))
    assert [part for part, _ in rows] == [1, 1]
    assert rows[1][1].shape == (48, 48) and rows[1][1].ravel().tolist() == [value % 256 for value in range(48 * 48)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("emotion,pixels\n0,1 2 3\n", "missing: usage"),
        (f"emotion,pixels,Usage\n0,{PIXELS} 7,Training\n", "line 2: 2305 pixels"),
        (f"emotion,pixels,Usage\n0,{PIXELS}\n", "line 2: 2 fields"),
        (f"emotion,pixels,Usage\n0,{PIXELS.replace('255', '256')},Training\n", "from 0 to 255"),
        (f"emotion,pixels,Usage\n0,{PIXELS.replace('255', '9' * 5000)},Training\n", "from 0 to 255"),
        (f"emotion,pixels,Usage\n0,{PIXELS.replace('255', '-1')},Training\n", "from 0 to 255"),
        (f"emotion,pixels,Usage\n0,{PIXELS.replace('255', '25.5')},Training\n", "from 0 to 255"),
        ("emotion,pixels,Usage\n0,,Training\n", "line 2: 0 pixels"),
    ],
    ids=[
        "train.csv of the contest",
        "a pixel too many",
        "cut short",
        "256",
        "huge number",
        "negative",
        "fraction",
        "no pixels",
    ],
)
def test_pixel_fault(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(pixel_rows(path))


CELL = st.one_of(st.integers(-1, 12).map(str), st.sampled_from(["", "fer0.png", " 3", "٣", "1_0", '"', "\n", "\0"]))
NEARLY = st.lists(st.lists(CELL, min_size=11, max_size=13).map(",".join), max_size=4).map("\n".join)
ANY = st.one_of(st.binary(max_size=300), NEARLY.map(str.encode), NEARLY.map(lambda rows: (HEADER + rows).encode()))


@given(data=ANY)
def test_any_bytes_parse_or_raise_data_error(data: bytes) -> None:
    for parse in (lambda: parse_label_csv(data, "f", 0), lambda: parse_new_csv(data, "f")):
        try:
            table = parse()
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
        else:
            assert len(table.names) == len(table.parts) == len(table.votes) > 0
            assert table.votes.shape[1] == 10 and table.votes.sum(axis=1).max() <= 10


@given(data=st.one_of(ANY, ANY.map(b"emotion,pixels,Usage\n".__add__)))
def test_any_pixel_file_parses_or_raises_data_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fer2013.csv")
        path.write_bytes(data)
        with contextlib.suppress(DataError):
            assert all(image.shape == (48, 48) for _, image in pixel_rows(path))


@given(votes=st.lists(st.lists(st.integers(0, 1), min_size=10, max_size=10), min_size=1, max_size=5))
def test_what_is_written_is_read(votes: list[list[int]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([f"fer{row}.png", "(0, 0, 48, 48)", *counts] for row, counts in enumerate(votes))
    assert parse_label_csv(text.getvalue().encode(), "f", 0).votes.tolist() == votes
