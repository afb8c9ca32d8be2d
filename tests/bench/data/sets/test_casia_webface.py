"""CASIA-WebFace: folders of people, and records read without MXNet."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.textfile import decode
from ferbench.bench.data.sets.casia_webface import fake as fake_casia_webface
from ferbench.bench.data.sets.casia_webface.fake import PEOPLE, pack, write_records
from ferbench.bench.data.sets.casia_webface.reader import scan_casia_webface
from ferbench.bench.data.sets.casia_webface.recordio import MAGIC, Damaged, parse_index, parse_record, read_record
from ferbench.bench.data.sets.fake import draw_face
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

WORD = struct.pack("<I", MAGIC)


@pytest.mark.parametrize("layout", fake_casia_webface.LAYOUTS)
def test_both_forms_are_unlabelled_faces_of_known_people(tmp_path: Path, layout: str) -> None:
    fake_casia_webface.LAYOUTS[layout](tmp_path / "copy", 3)
    listing = scan_casia_webface(tmp_path / "copy", {})
    assert listing.classes == () and set(listing.labels.tolist()) == {-1}
    assert listing.subjects is not None
    first = 45 if layout == "folders" else 0
    assert listing.subjects.tolist() == [first + person for person in range(PEOPLE) for _ in range(3)]
    assert listing.warnings[0].startswith("6 people and 18 images, published are 10,57")
    prepare_dataset("casia_webface", {}, root=tmp_path / "copy", cache=tmp_path / "cache")  # totals only warn
    faces = open_dataset("casia_webface", {}, root=tmp_path / "copy", cache=tmp_path / "cache")
    assert faces.train.tolist() == list(range(18)) and len(faces.test) == 0
    side = 250 if layout == "folders" else 112
    assert faces.images.shape == (18, side, side, 3)
    stored = faces.images[4].astype(int)  # the second of the second person
    assert np.abs(stored - np.asarray(draw_face(1, 1, (side, side)), int)).mean() < 4  # but for JPEG


def test_images_of_records_are_byte_for_byte_what_was_packed(tmp_path: Path) -> None:
    """Also where the image holds the format's magic number, at a word's beginning and elsewhere."""
    images = [b"", b"abc", WORD, b"1234" + WORD + b"5" + WORD + WORD, b"1" + WORD + b"234", WORD * 3 + b"end"]
    for image in images:  # labels in the header or behind it shift the image by eight bytes: still whole words
        for labels in ((3.0,), (5.0, 1.0)):
            write_records(tmp_path, [pack(labels, other) for other in (b"before", image, b"after")])
            size = (tmp_path / "train.rec").stat().st_size
            offsets = parse_index((tmp_path / "train.idx").read_text(), "idx", size)
            record = read_record(tmp_path / "train.rec", offsets[1])
            assert (record.labels, record.image) == (labels, image)
            assert read_record(tmp_path / "train.rec", offsets[2]).image == b"after"


def test_records_are_cut_at_magic_numbers(tmp_path: Path) -> None:
    """Against the format itself: a first piece has flag 1, a last one 3, and no piece holds the number."""
    write_records(tmp_path, [pack((1.0,), b"1234" + WORD + b"5678")])
    data = (tmp_path / "train.rec").read_bytes()
    assert struct.unpack_from("<II", data) == (MAGIC, 1 << 29 | 28)
    assert struct.unpack_from("<II", data, 36) == (MAGIC, 3 << 29 | 4)
    assert data[44:] == b"5678"


def test_an_older_pack_without_a_header_record(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (112, 112)).save(buffer, "JPEG")
    write_records(tmp_path, [pack((float(person),), buffer.getvalue()) for person in (4, 4, 9)])
    listing = scan_casia_webface(tmp_path, {})
    assert listing.ids.tolist() == ["0000000", "0000001", "0000002"]
    assert listing.subjects is not None and listing.subjects.tolist() == [4, 4, 9]


def test_records_cut_short(tmp_path: Path) -> None:
    fake_casia_webface.records(tmp_path, 2)
    path = tmp_path / "faces_webface_112x112" / "train.rec"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train.idx line \d+: offset '\d+' is not a whole number in 0 to"):
        scan_casia_webface(tmp_path, {})


def test_index_of_another_file(tmp_path: Path) -> None:
    fake_casia_webface.records(tmp_path, 2)
    index = tmp_path / "faces_webface_112x112" / "train.idx"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([*lines[:3], f"3\t{int(lines[3].split()[1]) + 4}", *lines[4:]]))
    with pytest.raises(
        DataError, match=r"train.rec: record 3 at byte \d+: no record begins there; do record and index"
    ):
        scan_casia_webface(tmp_path, {})


def test_a_damaged_image_in_a_record_is_named(tmp_path: Path) -> None:
    write_records(tmp_path, [pack((float(person),), b"no jpeg") for person in range(3)])
    with pytest.raises(DataError, match="none of the 3 images looked at is an image"):
        prepare_dataset("casia_webface", {}, root=tmp_path, cache=tmp_path / "cache")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CASIA-WebFace in .*: expected 0000045/001.jpg"):
        scan_casia_webface(tmp_path, {})
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(DataError, match="train.rec without train.idx"):
        scan_casia_webface(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "idx: no lines"),
        ("1 0", "idx line 1: '1 0' is not '<key><TAB><offset>'"),
        ("1\t0\n1\t4", "idx line 2: key 1 is there twice"),
        ("1\t93", "offset '93' is not a whole number in 0 to 91"),
        ("-1\t0", "key '-1' is not a whole number"),
        ("x\t0", "key 'x' is not a whole number"),
    ],
)
def test_damaged_indexes(text: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_index(text, "idx", 100)
    assert expected in str(caught.value)


@given(st.binary(max_size=60) | st.text("0123456789\t\n-.", max_size=40).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_index_or_a_clean_error(data: bytes) -> None:
    try:
        assert all(0 <= offset < 92 for offset in parse_index(decode(data, "idx"), "idx", 100).values())
    except DataError as error:
        assert "idx" in str(error) and "\n" not in str(error)


@given(st.binary(max_size=120), st.integers(0, 100))
@settings(max_examples=80, deadline=None)
def test_any_bytes_are_a_record_or_a_clean_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.rec"
    for content in (data, struct.pack("<II", MAGIC, len(data)) + data, struct.pack("<II", MAGIC, 1 << 29 | 4) + data):
        path.write_bytes(content)
        try:
            read_record(path, offset)
        except OSError as error:
            assert str(error).startswith(f"record at byte {offset}: ")
    try:
        assert len(parse_record(data).image) <= len(data)
    except Damaged:
        pass
