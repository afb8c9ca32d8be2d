"""AffectNet in both releases and the re-packs, whole and damaged; what is not AffectNet's labels is refused."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferbench.bench.data.faceset import PARTS, DataError, FaceSet
from ferbench.bench.data.preparing.checks.verify import compare_counts
from ferbench.bench.data.reading.names import AFFECTNET, EMOTIONS
from ferbench.bench.data.reading.textfile import csv_rows
from ferbench.bench.data.sets.affectnet import npy as affectnet_npy
from ferbench.bench.data.sets.affectnet.csv import COLUMNS, parse_rows
from ferbench.bench.data.sets.affectnet.npy import parse_array
from ferbench.bench.data.sets.affectnet.reader import scan_affectnet
from ferbench.bench.data.sets.affectnet.rows import COUNTS, Rows, to_listing
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

FakeCopy = Callable[..., Path]
Command = Callable[..., Any]
LAYOUTS = ("csv", "npy", "digits", "words", "leaf")


@pytest.fixture
def drawn_faces(tmp_path: Path) -> Path:
    """A cache of the test's own: what is prepared here must not be found by other tests."""
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The npy release keeps what it read in the cache."""
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path / "cache"))


def opened(root: Path, classes: int = 8, **options: Any) -> FaceSet:
    cache = root.parent / "cache"
    prepare_dataset(f"affectnet{classes}", options, root=root, cache=cache, partial=True)
    return open_dataset(f"affectnet{classes}", options, root=root, cache=cache)


def test_published_counts_add_up() -> None:
    """287,651 and 283,901 training images, 500 a class to validate on."""
    train = {name: counts[0] for name, counts in COUNTS.items()}
    assert sum(train.values()) == 287_651 and sum(train.values()) - train["contempt"] == 283_901
    assert tuple(COUNTS) == EMOTIONS and {counts[1] for counts in COUNTS.values()} == {500}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(fake_copy: FakeCopy, layout: str) -> None:
    """Eight classes in the authors' order whatever the folders are called; validation images are the test set."""
    data = opened(fake_copy("affectnet8", layout))
    assert data.classes == EMOTIONS and data.images.shape == (32, 224, 224, 3)
    assert np.bincount(data.labels[data.train]).tolist() == [3] * 8
    assert np.bincount(data.labels[data.test]).tolist() == [1] * 8
    assert {PARTS[part] for part in data.parts[data.test]} == {"valid"}


@pytest.mark.parametrize("layout", ("npy", "digits", "words", "leaf"))
def test_labels_belong_to_their_images(fake_copy: FakeCopy, layout: str) -> None:
    """The generated picture of an image says its class by its colour: those of one class are alike in every layout."""

    def means(data: FaceSet) -> np.ndarray:
        return np.stack([data.images[data.train[data.labels[data.train] == k]].mean(axis=(0, 1, 2)) for k in range(8)])

    np.testing.assert_allclose(
        means(opened(fake_copy("affectnet8", layout))),
        means(opened(fake_copy("affectnet8", "csv"), crop="none")),
        atol=12,
    )


def test_seven_classes_share_the_prepared_copy(fake_copy: FakeCopy) -> None:
    root = fake_copy("affectnet8", "digits")
    seven, eight = opened(root, classes=7), opened(root)
    assert seven.classes == EMOTIONS[:7] and len(seven.train) == 21 and len(seven.test) == 7
    assert len(list((root.parent / "cache").glob("affectnet-*/images.npy"))) == 1
    assert seven.fingerprint != eight.fingerprint


def test_a_copy_without_contempt(fake_copy: FakeCopy) -> None:
    root = fake_copy("affectnet8", "digits")
    for part in ("train", "val"):
        shutil.rmtree(root / part / "7")
    assert len(opened(root, classes=7).train) == 21
    with pytest.raises(DataError, match="affectnet8: this copy has no contempt images; use affectnet7"):
        opened(root)


def test_csv_release(fake_copy: FakeCopy) -> None:
    """Boxes are corner and size; other codes are left out; validation.csv has no header; suffixes in any case."""
    root = fake_copy("affectnet8", "csv")
    listing = scan_affectnet(root, {"landmarks": False})
    assert listing.uncropped and listing.boxes is not None and listing.landmarks is not None
    row = listing.ids.tolist().index("Manually_Annotated_Images/2/00000001.jpg")
    assert listing.boxes[row].tolist() == [20, 15, 140, 135] and listing.classes[listing.labels[row]] == "happiness"
    np.testing.assert_allclose(listing.landmarks[row], [[56, 57], [104, 57], [80, 81], [62, 111], [98, 111]], atol=0.01)
    assert any(name.endswith(".JPG") for name in listing.ids)
    assert "6 rows without one of the eight expressions (none, uncertain, no face) are left out" in listing.notes
    data = opened(root)
    image = Image.open(root / str(listing.ids[row])).resize(
        (224, 224), Image.Resampling.BILINEAR, box=(20, 15, 140, 135)
    )
    np.testing.assert_array_equal(data.images[data.ids.tolist().index(listing.ids[row])], np.asarray(image))
    assert opened(root, crop="align", size=112).images.shape[1:] == (112, 112, 3)


def test_a_file_named_twice_counts_once(fake_copy: FakeCopy) -> None:
    root = fake_copy("affectnet8", "csv")
    path = root / "Manually_Annotated_file_lists/training.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    listing = scan_affectnet(root, {"landmarks": False})
    assert (
        len(listing.ids) == 32 and "1 rows repeat an image that an earlier row names, and are left out" in listing.notes
    )


def test_rows_without_a_box(fake_copy: FakeCopy) -> None:
    root = fake_copy("affectnet8", "csv")
    path = root / "Manually_Annotated_file_lists/training.csv"
    path.write_text(
        path.read_text()
        .replace(",20,15,120,120,", ",NULL,NULL,NULL,NULL,", 1)
        .replace(",20,15,120,120,", ",20,15,0,0,", 1)
    )
    data = opened(root)
    assert data.boxes is not None and np.isnan(data.boxes).any(axis=1).sum() == 2


def test_npy_release_is_read_once(fake_copy: FakeCopy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the small files say is kept until one of them changes."""
    root = fake_copy("affectnet8", "npy")
    first = scan_affectnet(root, {"landmarks": False})
    assert first.landmarks is None and first.ids[0] == "train_set/images/1.jpg"
    reads: list[Path] = []
    original = affectnet_npy.read_expression
    monkeypatch.setattr(affectnet_npy, "read_expression", lambda path: reads.append(path) or original(path))
    again = scan_affectnet(root, {"landmarks": False})
    assert not reads and (again.labels == first.labels).all()
    np.save(root / "train_set/annotations/1_exp.npy", np.array("7"))
    changed = scan_affectnet(root, {"landmarks": False})
    assert len(reads) == 24 and changed.labels[0] == 7


def test_npy_release_with_landmarks(fake_copy: FakeCopy) -> None:
    listing = scan_affectnet(fake_copy("affectnet8", "npy"), {"landmarks": True})
    assert listing.landmarks is not None
    np.testing.assert_allclose(listing.landmarks[0, 0], [0.3 * 224, 0.35 * 224], atol=0.01)


def test_npy_numbers_without_an_image_and_images_without_a_number(fake_copy: FakeCopy) -> None:
    root = fake_copy("affectnet8", "npy")
    (root / "train_set/images/1.jpg").unlink()
    (root / "train_set/annotations/4_exp.npy").unlink()
    found = prepare_dataset("affectnet8", {}, root=root, cache=root.parent / "cache", partial=True)
    assert "1 x missing image of train: train_set/images/1.jpg" in found.differences
    assert "train_set: 1 images without an annotation are left out" in found.notices


def counted(**changes: int) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Differences, notes, and differences of the listing itself for a copy with the published counts but `changes`."""
    rows = Rows(Path("root"), "csv")
    for code, (name, counts) in enumerate(COUNTS.items()):
        for part, count in (("train", changes.get(name, counts[0])), ("valid", changes.get(f"valid_{name}", 500))):
            rows.paths += [f"{part}/{name}/{number}" for number in range(count or 0)]
            rows.parts += [PARTS.index(part)] * (count or 0)
            rows.codes += [code] * (count or 0)
    listing = to_listing(rows)
    differences, _, notes = compare_counts(listing)
    return differences, notes, listing.differences


@pytest.mark.parametrize(
    ("changes", "notes"),
    [
        ({}, 0),
        ({"happiness": 134_416}, 1),
        ({"contempt": 3_667, "valid_contempt": 499}, 2),
        ({"contempt": 0, "valid_contempt": 0}, 0),
    ],
    ids=["files", "csv", "lost images", "seven"],
)
def test_known_counts(changes: dict[str, int], notes: int) -> None:
    differences, found, whole = counted(**changes)
    assert differences == [] and len(found) == notes and whole == ()


def test_a_part_of_it_is_named() -> None:
    sample = dict.fromkeys(EMOTIONS, 4_694)
    assert counted(**sample)[2] == (
        "this is not the full AffectNet: 287,651 training images expected, found 37,552 "
        "(the number of an 8-class sample on Kaggle with 13 % of the training set)",
    )
    assert counted(**dict.fromkeys(EMOTIONS, 100))[2] == (
        "this is not the full AffectNet: 287,651 training images expected, found 800",
    )


def test_folders_in_alphabetical_order_are_noticed() -> None:
    """A re-pack whose digits number the classes by the alphabet has the right counts for the wrong classes."""
    order = sorted(EMOTIONS)
    moved = {EMOTIONS[place]: COUNTS[name][0] for place, name in enumerate(order)}
    assert all("(classes in another order?)" in line for line in counted(**moved)[0])  # type: ignore[arg-type]


def pickled(root: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (root / "train_set/annotations/1_exp.npy").write_bytes(file.getvalue())


def two_values(root: Path) -> None:
    np.save(root / "train_set/annotations/1_exp.npy", np.array(["1", "2"]))


def no_number(root: Path) -> None:
    np.save(root / "train_set/annotations/1_exp.npy", np.array("happy"))


def large(root: Path) -> None:
    np.save(root / "train_set/annotations/1_exp.npy", np.zeros(20_000))


def cut_short(root: Path) -> None:
    path = root / "train_set/annotations/1_exp.npy"
    path.write_bytes(path.read_bytes()[:-3])


def twice(root: Path) -> None:
    shutil.copy(root / "train_set/annotations/1_exp.npy", root / "train_set/annotations/01_exp.npy")


def no_validation(root: Path) -> None:
    shutil.rmtree(root / "val_set")


def no_annotations(root: Path) -> None:
    for path in (root / "val_set/annotations").iterdir():
        path.unlink()


def short_landmarks(root: Path) -> None:
    np.save(root / "train_set/annotations/1_lnd.npy", np.zeros(10))


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "Manually_Annotated_file_lists/training.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def no_validation_list(root: Path) -> None:
    (root / "Manually_Annotated_file_lists/validation.csv").unlink()


def odd_table(root: Path) -> None:
    np.save(root / "training.npy", np.array(["a.jpg", "b.jpg"]))


BAD: dict[str, tuple[str, Callable[[Path], None] | None, list[str], str]] = {
    "other counts": ("digits", None, [], "this is not the full AffectNet: 287,651 training images expected, found 24"),
    "yolo": ("yolo", None, ["--partial"], "is the YOLO re-pack of a part of AffectNet: 25,262 images"),
    "pseudo-labels": ("pseudo-labels", None, ["--partial"], "holds the predictions of a model, not the annotators'"),
    "pickled objects": ("npy", pickled, ["--partial"], "1_exp.npy: pickled objects, which ferbench never loads"),
    "two values": ("npy", two_values, ["--partial"], "1_exp.npy: 2 values, expected one"),
    "no number": ("npy", no_number, ["--partial"], "expression 'happy' is not a whole number in 0 to 10"),
    "large file": ("npy", large, ["--partial"], "bytes: not one of AffectNet's annotation files"),
    "cut short": ("npy", cut_short, ["--partial"], "1_exp.npy: not a whole .npy file"),
    "a number twice": ("npy", twice, ["--partial"], "two annotation files have the same number"),
    "one set": ("npy", no_validation, ["--partial"], "train_set is there, but not val_set: get both"),
    "no annotations": ("npy", no_annotations, ["--partial"], "no <number>_exp.npy files; copy the folder again"),
    "landmarks": ("npy", short_landmarks, ["--partial", "--option", "landmarks=true"], "1_lnd.npy: 10 numbers"),
    "no landmarks": ("npy", None, ["--partial", "--option", "crop=align"], "crop=align needs landmarks, and"),
    "a path outside": ("csv", replaced("\n2/", "\n../"), ["--partial"], "line 3: '../00000001.jpg' is not a path"),
    "code": ("csv", replaced(",1,0.1,-0.2", ",11,0.1,-0.2"), ["--partial"], "expression '11' is not a whole"),
    "box": ("csv", replaced(",20,15,120,120,", ",20,inf,120,120,"), ["--partial"], "face box 'inf'"),
    "few landmarks": ("csv", replaced(";", ","), ["--partial"], "10 fields, expected 9"),
    "header": ("csv", replaced("expression", "emotion"), ["--partial"], "line 1: expected one column each of"),
    "one list": ("csv", no_validation_list, ["--partial"], "validation.csv is missing, but training.csv is there"),
    "odd table": ("leaf", odd_table, ["--partial"], "training.npy: expected a table of text with file name and code"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_copies(ferbench: Command, fake_copy: FakeCopy, case: str) -> None:
    layout, damage, arguments, message = BAD[case]
    root = fake_copy("affectnet8", layout)
    if damage is not None:
        damage(root)
    done = ferbench("prepare", "affectnet8", "--root", root, *arguments)
    assert done.code == 2 and message in done.error()


def test_nothing_there(ferbench: Command, tmp_path: Path) -> None:
    error = ferbench("prepare", "affectnet7", "--root", tmp_path).error()
    assert "no AffectNet in" in error and "mohammadmahoor.com" in error


def test_report(ferbench: Command, fake_copy: FakeCopy) -> None:
    out = ferbench("prepare", "affectnet7", "--root", fake_copy("affectnet8", "csv"), "--partial").out
    assert "classes: 0=neutral 1=happiness 2=sadness 3=surprise 4=fear 5=disgust 6=anger\n" in out
    assert "stored: size 224, channels 3, crop box" in out and "without a label" in out


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(["1/a.jpg", "5", "1;2", "", '"', "\n", ","]), max_size=30).map(",".join),
    )
)
def test_any_text_is_rows_or_refused(text: str) -> None:
    try:
        found = list(parse_rows(csv_rows(text, "f"), "f"))
    except DataError as error:
        assert str(error).startswith("f line ")
    else:
        assert all(face.code in range(11) for face in found)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(AFFECTNET)), st.floats(-50, 300), st.floats(0.1, 500), st.booleans())
def test_rows_are_read_back(code: int, corner: float, side: float, header: bool) -> None:
    points = ";".join(str(number % 7) for number in range(136))
    text = (",".join(COLUMNS) + "\n") * header + f"3/x.png,{corner},{corner},{side},{side},{points},{code},-2,-2\n"
    (face,) = parse_rows(csv_rows(text, "f"), "f")
    assert (face.path, face.code) == ("3/x.png", code)
    np.testing.assert_allclose(face.box, (corner, corner, corner + side, corner + side))


SCALAR = io.BytesIO()
np.save(SCALAR, np.array("3"))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=5))
def test_any_bytes_are_an_array_or_refused(data: bytes | list[tuple[int, int]]) -> None:
    if not isinstance(data, bytes):
        damaged = bytearray(SCALAR.getvalue())
        for place, value in data:
            damaged[place % len(damaged)] = value
        data = bytes(damaged)
    try:
        assert parse_array(data, "f").dtype.kind in "USiuf"
    except DataError as error:
        assert str(error).startswith("f: ")
