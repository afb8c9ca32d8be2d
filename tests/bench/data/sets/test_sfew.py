"""SFEW: which release a copy is, in every layout, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.preparing.checks.verify import compare_counts
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.data.sets.sfew import fake as fake_sfew
from ferbench.bench.data.sets.sfew.reader import CLASSES, COUNTS, scan_sfew

AUTO = {"release": "auto"}


@pytest.fixture(params=list(fake_sfew.LAYOUTS))
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    fake_sfew.LAYOUTS[request.param](tmp_path / "copy", 3)
    return tmp_path / "copy"


def test_every_layout_gives_its_release(copy: Path) -> None:
    listing = scan_sfew(copy, AUTO)
    frames = (copy / "Test").is_dir()
    assert listing.layout == ("film frames" if frames else "aligned faces") + " in class folders"
    assert listing.uncropped == frames
    assert listing.classes == CLASSES and len(listing.ids) == 7 * (3 + 1)
    for name, part, label in zip(listing.ids, listing.parts, listing.labels, strict=True):
        assert name.startswith(f"{'frames' if frames else 'aligned'}/{PARTS[part]}/{CLASSES[label]}/")
    assert all((listing.root / listing.path(row)).is_file() for row in range(len(listing.ids)))


def test_aligned_faces_are_the_same_set_wherever_they_lie(tmp_path: Path) -> None:
    prints = set()
    for layout in ("aligned", "nested", "plain"):
        fake_sfew.LAYOUTS[layout](tmp_path / layout, 2)
        prepare_dataset("sfew", {}, root=tmp_path / layout, cache=tmp_path / "cache")  # counts only warn
        faces = open_dataset("sfew", {}, root=tmp_path / layout, cache=tmp_path / "cache")
        prints.add(faces.fingerprint)
        assert faces.class_counts(faces.train) == dict.fromkeys(CLASSES, 2)
        assert faces.class_counts(faces.test) == dict.fromkeys(CLASSES, 1)  # the validation part
        assert faces.images.shape[1:] == (224, 224, 3)
    assert len(prints) == 1


def test_where_both_releases_are_there_the_aligned_one_is_read(tmp_path: Path) -> None:
    fake_sfew.frames(tmp_path, 1)
    fake_sfew.aligned(tmp_path, 2)
    assert len(scan_sfew(tmp_path, AUTO).ids) == 7 * 3
    frames = scan_sfew(tmp_path, {"release": "frames"})
    assert len(frames.ids) == 7 * 2 and frames.ids[0].startswith("frames/")


def test_published_totals() -> None:
    assert [[sum(part) for part in COUNTS[release]] for release in ("frames", "aligned")] == [[958, 436], [891, 431]]


def test_other_counts_are_warned_of_and_never_refused(tmp_path: Path) -> None:
    fake_sfew.aligned(tmp_path, 1)
    differences, warnings, _ = compare_counts(scan_sfew(tmp_path, AUTO))
    assert not differences and len(warnings) == 14
    assert "train disgust: 1 images, a list by others says 52" in warnings


@pytest.mark.parametrize(
    ("release", "layout", "expected"),
    [
        ("frames", "plain", "143 x 181 pixels: these are aligned faces; take release=aligned"),
        ("frames", "aligned", "holds the aligned release alone; take release=aligned"),
        ("aligned", "frames", "holds the frames release alone; take release=frames"),
    ],
)
def test_another_release_than_asked_for(tmp_path: Path, release: str, layout: str, expected: str) -> None:
    fake_sfew.LAYOUTS[layout](tmp_path, 1)
    with pytest.raises(DataError, match=expected):
        scan_sfew(tmp_path, {"release": release})


def test_packed_class_folders_want_unpacking(tmp_path: Path) -> None:
    for part in ("Train", "Val"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "Angry.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"Train: Angry.zip must be unpacked first"):
        scan_sfew(tmp_path, AUTO)


def test_a_folder_that_is_no_class_of_sfew(tmp_path: Path) -> None:
    fake_sfew.aligned(tmp_path, 1)
    shutil.copytree(tmp_path / "Train_Aligned_Faces" / "Sad", tmp_path / "Train_Aligned_Faces" / "Contempt")
    with pytest.raises(DataError, match="a folder for contempt, which is no class of SFEW"):
        scan_sfew(tmp_path, AUTO)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no SFEW 2.0 in .*: expected Train_Aligned_Faces/Angry.*EmotiW licence"):
        scan_sfew(tmp_path, AUTO)
    for name in ("Train", "Val"):
        (tmp_path / name / "Angry").mkdir(parents=True)
    with pytest.raises(DataError, match="hold no images"):
        scan_sfew(tmp_path, AUTO)
