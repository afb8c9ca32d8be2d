"""FER2013 with its own labels, from the table of pixels and from class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.checks.verify import compare_counts
from ferbench.bench.data.reading.names import FER2013
from ferbench.bench.data.sets.fake import draw_face
from ferbench.bench.data.sets.fer2013 import fake as fake_fer2013
from ferbench.bench.data.sets.fer2013.pixels import read_images
from ferbench.bench.data.sets.fer2013.reader import PRIVATE, PUBLIC, TRAIN, scan_fer2013
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset


def test_published_totals() -> None:
    assert [sum(part) for part in (TRAIN, PUBLIC, PRIVATE)] == [28709, 3589, 3589]


def test_the_table_in_its_own_order(tmp_path: Path) -> None:
    fake_fer2013.table(tmp_path, 3)
    listing = scan_fer2013(tmp_path, {})
    assert listing.classes == tuple(FER2013.values())
    assert listing.labels.tolist() == [code for code in range(7) for _ in range(3)] + 2 * list(range(7))
    assert listing.parts.tolist() == 21 * [0] + 7 * [1] + 7 * [2]
    assert listing.read is not None
    np.testing.assert_array_equal(listing.read(4), np.asarray(draw_face(1, 1, (48, 48), "L")))
    prepare_dataset("fer2013", {}, root=tmp_path, cache=tmp_path / "cache", partial=True)
    faces = open_dataset("fer2013", {"test_parts": "valid+test"}, cache=tmp_path / "cache")
    assert faces.images.shape == (35, 48, 48, 1) and (len(faces.train), len(faces.test)) == (21, 14)
    np.testing.assert_array_equal(faces.images[4, :, :, 0], listing.read(4))


def test_another_order_of_columns_with_blanks(tmp_path: Path) -> None:
    fake_fer2013.table(tmp_path, 1)
    rows = [line.split(",") for line in (tmp_path / "fer2013.csv").read_text().splitlines()]
    text = "".join(f"{emotion}, {usage}, {pixels}\n" for emotion, pixels, usage in rows)
    (tmp_path / "icml_face_data.csv").write_text(text)
    before = scan_fer2013(tmp_path, {})
    (tmp_path / "fer2013.csv").unlink()
    after = scan_fer2013(tmp_path, {})
    assert after.layout == "pixels in icml_face_data.csv"
    assert (after.labels.tolist(), after.parts.tolist()) == (before.labels.tolist(), before.parts.tolist())


def test_class_folders_have_both_test_parts_in_one(tmp_path: Path) -> None:
    fake_fer2013.folders(tmp_path, 3)
    listing = scan_fer2013(tmp_path, {})
    assert set(listing.parts.tolist()) == {0, 2} and len(listing.ids) == 28
    assert listing.notes == ("PublicTest and PrivateTest are one test part in this re-pack",)
    differences, warnings, _ = compare_counts(listing)
    assert len(differences) == len(warnings) == 7
    assert "train anger: 3 images, the contest says 3,995" in differences
    assert "test anger: 1 images, a list by others says 958" in warnings


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "no FER2013 in .*: expected fer2013.csv"),
        ({"train.csv": "emotion,pixels\n"}, "the contest's files without test labels; get fer2013.csv"),
        ({"fer2013.csv": "emotion,pixels,Usage\n"}, "no rows"),
        ({"fer2013.csv": "Usage,pixels\nTraining," + "0 " * 2304 + "\n"}, "no column emotion"),
        (
            {"fer2013.csv": "emotion,pixels,Usage\n7," + "0 " * 2304 + ",Training\n"},
            "emotion '7' is not a whole number",
        ),
        ({"fer2013.csv": "emotion,pixels,Usage\n1," + "0 " * 2303 + ",Training\n"}, "2303 pixels, expected 2304"),
        ({"fer2013.csv": "emotion,pixels,Usage\n1," + "0 " * 2304 + ",Half\n"}, "Usage 'Half' is none of"),
    ],
    ids=["nothing", "contest", "header", "no emotion", "code", "pixels", "usage"],
)
def test_copies_that_do_not_do(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=expected):
        scan_fer2013(tmp_path, {})


@given(
    st.binary(max_size=40).map(lambda data: b"emotion,pixels,Usage\n" + data)
    | st.binary(max_size=40)
    | st.lists(st.sampled_from(["emotion", "pixels", "Usage", "3", "9", "Training", "0 " * 2304, '"']), max_size=8).map(
        lambda cells: ("emotion,Usage,pixels\n" + ",".join(cells)).encode()
    )
)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_table_or_a_clean_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    try:
        labels, parts, images = read_images(path)
        assert len(labels) == len(parts) == len(images) > 0
    except DataError as error:
        assert "any.csv" in str(error) and "\n" not in str(error)


def test_a_folder_that_is_no_class(tmp_path: Path) -> None:
    fake_fer2013.folders(tmp_path, 1)
    (tmp_path / "train" / "contempt").mkdir()
    with pytest.raises(DataError, match="a folder for contempt, which is no class of FER2013"):
        scan_fer2013(tmp_path, {})
