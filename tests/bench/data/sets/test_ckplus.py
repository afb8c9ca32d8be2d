"""CK+: the 636-image protocol from the authors' tree, and the re-packs that cannot give it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.checks.verify import compare_counts
from ferbench.bench.data.reading.names import CKPLUS
from ferbench.bench.data.reading.textfile import decode
from ferbench.bench.data.sets.ckplus import fake as fake_ckplus
from ferbench.bench.data.sets.ckplus.files import hulls, parse_emotion, parse_landmarks
from ferbench.bench.data.sets.ckplus.reader import CLASSES, SEQUENCES, scan_ckplus
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

DEFAULTS = {"neutral_from": "all_327", "use": "test"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of each of seven emotions, one without; every other one starts at frame 2."""
    root = tmp_path_factory.mktemp("ckplus")
    fake_ckplus.official(root, 2)
    return root


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """As many sequences and people as published, of two empty image files each: enough for a scan."""
    emotions = [name for name, count in SEQUENCES.items() for _ in range(count)] + [""] * (593 - 327)
    codes = {name: code for code, name in CKPLUS.items()}
    for number, name in enumerate(emotions):
        sequence = f"S{number % 123 + 5:03d}/{number // 123 + 1:03d}"
        images, labels = tmp_path / "cohn-kanade-images" / sequence, tmp_path / "Emotion" / sequence
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for frame in (3, 17):
            (images / f"{sequence.replace('/', '_')}_{frame:08d}.png").touch()
        if name:
            (labels / f"{sequence.replace('/', '_')}_00000017_emotion.txt").write_text(f"   {codes[name]:.7e}\n")
    return tmp_path


@pytest.mark.parametrize(("neutral_from", "total", "neutral"), [("all_327", 636, 327), ("non_contempt_309", 618, 309)])
def test_the_published_tree_gives_the_papers_636_images(
    full: Path, neutral_from: str, total: int, neutral: int
) -> None:
    listing = scan_ckplus(full, {**DEFAULTS, "neutral_from": neutral_from})
    counts = {name: int((listing.labels == code).sum()) for code, name in enumerate(listing.classes)}
    others = {name: count for name, count in SEQUENCES.items() if name != "contempt"}
    assert counts == {**others, "neutral": neutral} and len(listing.ids) == total
    assert (listing.differences, listing.warnings) == ((), ())
    assert compare_counts(listing) == ([], [], [])


def test_first_and_last_frames_by_their_order(copy: Path) -> None:
    listing = scan_ckplus(copy, DEFAULTS)
    assert listing.classes == CLASSES
    labels = dict(zip(listing.ids.tolist(), listing.labels.tolist(), strict=True))
    # Sequence 0 is anger from frame 1 to 4; sequence 1 is contempt from frame 2 to 5.
    assert labels["S005/001/S005_001_00000001.png"] == CLASSES.index("neutral")
    assert labels["S005/001/S005_001_00000004.png"] == CLASSES.index("anger")
    assert labels["S005/002/S005_002_00000002.png"] == CLASSES.index("neutral")
    assert "S005/002/S005_002_00000005.png" not in labels
    assert len(labels) == 14 + 12
    assert listing.subjects is not None and set(listing.subjects.tolist()) == {5, 6, 7, 8, 9}
    assert listing.warnings == ("15 sequences, the paper says 593", "5 people, the paper says 123")


def test_faces_are_cut_out_by_their_landmarks(copy: Path, tmp_path: Path) -> None:
    listing = scan_ckplus(copy, DEFAULTS)
    assert listing.landmarks is not None and listing.boxes is not None
    assert listing.landmarks.shape == (26, 68, 2) and listing.boxes[0].tolist() == [200, 150, 434.5, 214]
    report = prepare_dataset("ckplus", {}, root=copy, cache=tmp_path)
    assert report.decoding is not None and report.decoding["crop"] == "box"
    faces = open_dataset("ckplus", {}, root=copy, cache=tmp_path)
    assert (len(faces.train), len(faces.test)) == (0, 26)
    assert faces.images.shape == (26, 224, 224, 1)
    kept = open_dataset("ckplus", {"use": "train"}, cache=tmp_path)  # found again where it lay
    assert (len(kept.train), len(kept.test)) == (26, 0)


def test_a_copy_without_landmarks_is_read_whole(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "Landmarks")
    listing = scan_ckplus(tmp_path / "copy", DEFAULTS)
    assert listing.landmarks is None and listing.boxes is None and listing.uncropped


def test_archives_unpacked_one_into_the_other(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(
        copy / "cohn-kanade-images", tmp_path / "CK+" / "extended-cohn-kanade-images" / "cohn-kanade-images"
    )
    shutil.copytree(copy / "Emotion", tmp_path / "CK+" / "Emotion_labels" / "Emotion")
    listing = scan_ckplus(tmp_path, DEFAULTS)
    assert listing.ids.tolist() == scan_ckplus(copy, DEFAULTS).ids.tolist()
    assert all((listing.root / listing.path(row)).is_file() for row in range(len(listing.ids)))


def test_sequences_that_lack_images_are_differences(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "cohn-kanade-images" / "S005" / "001")
    for path in sorted((tmp_path / "copy" / "cohn-kanade-images" / "S005" / "003").glob("*.png"))[1:]:
        path.unlink()
    listing = scan_ckplus(tmp_path / "copy", DEFAULTS)
    assert listing.differences == (
        "sequence S005/001 has an emotion and 0 images",
        "sequence S005/003 has an emotion and 1 images",
    )
    with pytest.raises(DataError, match="is not the published ckplus: sequence S005/001 .* --partial"):
        prepare_dataset("ckplus", {}, root=tmp_path / "copy", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("ck48", "three frames of each sequence and no neutral"), ("ckextended", "same people in several parts")],
)
def test_repacks_are_refused_with_a_reason(
    ferbench: Callable[..., Any], tmp_path: Path, layout: str, expected: str
) -> None:
    fake_ckplus.LAYOUTS[layout](tmp_path / "copy", 1)
    done = ferbench("prepare", "ckplus", "--root", tmp_path / "copy")
    assert done.code == 2 and expected in done.error() and "signed agreement" in done.error()


def test_images_without_emotions(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy / "cohn-kanade-images", tmp_path / "cohn-kanade-images")
    with pytest.raises(DataError, match="cohn-kanade-images without the folder Emotion"):
        scan_ckplus(tmp_path, DEFAULTS)
    with pytest.raises(DataError, match=r"no CK\+ in .*expected cohn-kanade-images/S005/001"):
        scan_ckplus(tmp_path / "cohn-kanade-images", DEFAULTS)


def test_two_emotion_files_of_one_sequence(copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path / "copy")
    (tmp_path / "copy" / "Emotion" / "S005" / "001" / "again_emotion.txt").write_text("1")
    with pytest.raises(DataError, match="2 emotion files, expected one"):
        scan_ckplus(tmp_path / "copy", DEFAULTS)


@pytest.mark.parametrize("code", range(1, 8))
def test_emotions_by_code(code: int) -> None:
    assert parse_emotion(f"   {code:.7e}\n", "file") == CKPLUS[code]


@pytest.mark.parametrize("text", ["", "0", "8", "2.5", "nan", "-1", "1 2", "1\n2", "happy", "1e400"])
def test_emotions_that_are_none(text: str) -> None:
    with pytest.raises(DataError, match="file"):
        parse_emotion(text, "file")


@given(st.binary(max_size=60) | st.floats(-9, 9).map(lambda value: str(value).encode()))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_emotion_or_a_clean_error(data: bytes) -> None:
    try:
        assert parse_emotion(decode(data, "file"), "file") in SEQUENCES
    except DataError as error:
        assert "file" in str(error) and "\n" not in str(error)


LINE = st.text("0123456789.e+- x", max_size=12)


@given(st.lists(LINE, min_size=66, max_size=69) | st.lists(st.just(" 1.5 2.5e1"), min_size=67, max_size=69))
@settings(max_examples=100, deadline=None)
def test_any_lines_are_landmarks_or_a_clean_error(rows: list[str]) -> None:
    try:
        points = np.array(parse_landmarks("\n".join(rows), "file"))
        assert points.shape == (68, 2) and np.isfinite(points).all()
    except DataError as error:
        assert "file" in str(error) and "\n" not in str(error)


def test_hulls() -> None:
    points = np.array([[[3, 9], [7, 2], [5, 5]], [[np.nan] * 2] * 3], np.float32)
    np.testing.assert_array_equal(hulls(points), [[3, 2, 7, 9], [np.nan] * 4])
