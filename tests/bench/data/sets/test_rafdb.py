"""RAF-DB in every layout people have it in, whole and damaged."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.reading.names import RAFDB, RAFDB_COMPOUND
from ferbench.bench.data.sets.rafdb.lists import check_against_folders, parse_box, parse_list, parse_manual
from ferbench.bench.data.sets.rafdb.reader import scan_rafdb
from ferbench.bench.data.sets.rafdb.rows import COUNTS
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.data.splits.draw import make_split

FakeCopy = Callable[..., Path]
Command = Callable[..., Any]
LAYOUTS = ("official", "kaggle", "words", "lists")


@pytest.fixture
def drawn_faces(tmp_path: Path) -> Path:
    """A cache of the test's own: what is prepared here must not be found by other tests."""
    return tmp_path / "cache"


def opened(root: Path, **options: Any) -> FaceSet:
    cache = root.parent / "cache"
    prepare_dataset("rafdb", options, root=root, cache=cache, partial=True)
    return open_dataset("rafdb", options, root=root, cache=cache)


def test_published_counts_add_up() -> None:
    """The totals all five papers print: 12,271 and 3,068."""
    assert tuple(map(sum, zip(*COUNTS.values(), strict=True))) == (12_271, 0, 3_068)
    assert tuple(COUNTS) == tuple(RAFDB.values())


def test_official_tree(fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb")
    data = opened(root)
    assert data.classes == ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    assert data.images.shape == (28, 100, 100, 3) and len(data.train) == 21 and len(data.test) == 7
    rows = dict(line.split() for line in (root / "basic/EmoLabel/list_patition_label.txt").read_text().splitlines())
    assert sorted(rows) == sorted(data.ids)
    for row, name in enumerate(data.ids):
        assert data.classes[data.labels[row]] == RAFDB[int(rows[name])]
        aligned = Image.open(root / "basic/Image/aligned" / f"{name.removesuffix('.jpg')}_aligned.jpg")
        np.testing.assert_array_equal(data.images[row], np.asarray(aligned))
    assert opened(root / "basic").fingerprint == data.fingerprint


def test_every_layout_gives_the_same_set_and_the_same_splits(fake_copy: FakeCopy) -> None:
    sets = [opened(fake_copy("rafdb", layout)) for layout in LAYOUTS]
    assert len({data.fingerprint for data in sets}) == 1
    assert len({make_split(data, "balanced", {"per_class": 2}, 5).fingerprint for data in sets}) == 1
    for data in sets[1:]:
        np.testing.assert_array_equal(data.images, sets[0].images)


def test_compound(fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb", "compound")
    data = opened(root, labels="compound")
    assert data.classes == tuple(RAFDB_COMPOUND.values()) and len(data.classes) == 11
    assert np.bincount(data.labels[data.train]).tolist() == [3] * 11
    assert opened(root).classes[0] == "surprise"


def test_a_tree_without_its_name_is_told_by_its_codes(fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb", "compound")
    (root / "compound").rename(root / "tree")
    assert len(opened(root / "tree", labels="compound").classes) == 11


def test_original_images_keep_boxes_and_landmarks_with_their_image(fake_copy: FakeCopy) -> None:
    """Boxes lie in files named after the images; the list is in another order than the sorted set."""
    root = fake_copy("rafdb")
    path = root / "basic/EmoLabel/list_patition_label.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    (root / "basic/Annotation/boundingbox/train_00001_boundingbox.txt").write_text("1 2 31 42\n")
    listing = scan_rafdb(root, {"labels": "basic", "images": "original"})
    assert listing.boxes is not None and listing.landmarks is not None and listing.uncropped
    assert listing.ids[0] == "train_00001.jpg" and listing.boxes[0].tolist() == [1, 2, 31, 42]
    assert listing.boxes[1].tolist() == [10.5, 12.25, 111.0, 132.0]
    assert listing.landmarks[0].tolist() == [[40, 50], [80, 50], [60, 75], [45, 100], [75, 100]]
    data = opened(root, images="original")
    assert data.images.shape[1:] == (224, 224, 3) and data.boxes is not None
    np.testing.assert_allclose(data.boxes[0], [0, 0, 224, 224], atol=0.01)  # cut out: the box is the whole
    aligned = opened(root, images="original", crop="align", size=112)
    assert aligned.images.shape[1:] == (112, 112, 3)


def test_noise_lists(fake_copy: FakeCopy) -> None:
    """EAC's lists change training labels alone, whatever they say of the test set."""
    root = fake_copy("rafdb")
    lines = (root / "basic/EmoLabel/list_patition_label.txt").read_text().splitlines()
    noisy = [f"{name} {1 + int(code) % 7}" if number % 4 == 0 else f"{name} {code}"
             for number, (name, code) in enumerate(line.split() for line in lines)]  # fmt: skip
    (root / "basic/EmoLabel/noise01.txt").write_text("\n".join(noisy))
    clean, changed = opened(root), opened(root, noise="noise01")
    assert (clean.labels != changed.labels)[clean.train].sum() == 6
    assert (clean.labels == changed.labels)[clean.test].all()
    assert changed.fingerprint != clean.fingerprint
    with pytest.raises(DataError, match=r"noise=noise02 needs EmoLabel/noise02.txt"):
        opened(root, noise="noise02")


def test_names_in_folders_with_other_names_are_paths(fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb", "words")
    first = sorted((root / "train/Happy").iterdir())[0]
    first.rename(first.with_name("IMG 1.jpg"))
    assert "train/Happy/IMG 1.jpg" in opened(root).ids


def test_images_moved_between_parts_are_noticed(fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb", "kaggle")
    first = sorted((root / "DATASET/test/4").iterdir())[0]
    shutil.move(first, root / "DATASET/train/4" / first.name)
    found = prepare_dataset("rafdb", {}, root=root, cache=root.parent / "cache", partial=True)
    assert (
        f"1 images are in another part than their names say, first {first.name.replace('_aligned', '')}"
        in found.differences
    )


def test_the_list_of_a_repack_is_held_against_its_folders(fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb", "kaggle")
    rows = list(csv.reader((root / "train_labels.csv").open()))
    rows[3][1] = "7"
    with (root / "train_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = prepare_dataset("rafdb", {}, root=root, cache=root.parent / "cache", partial=True)
    assert any("1 labels in" in line and "are not those of the folders" in line for line in found.differences)


def break_code(root: Path) -> None:
    path = root / "basic/EmoLabel/list_patition_label.txt"
    path.write_text(path.read_text().replace("train_00003.jpg 3", "train_00003.jpg 9"))


def break_line(root: Path) -> None:
    path = root / "basic/EmoLabel/list_patition_label.txt"
    path.write_text(path.read_text().replace("train_00003.jpg 3", "../train_00003.jpg 3"))


def break_prefix(root: Path) -> None:
    path = root / "basic/EmoLabel/list_patition_label.txt"
    path.write_text(path.read_text().replace("train_00003.jpg 3", "val_00003.jpg 3"))


def break_bytes(root: Path) -> None:
    (root / "basic/EmoLabel/list_patition_label.txt").write_bytes(b"train_00001.jpg 1\ntrain_\xff\xfe.jpg 2\n")


def empty_list(root: Path) -> None:
    (root / "basic/EmoLabel/list_patition_label.txt").write_text("\n \n")


def no_images(root: Path) -> None:
    shutil.rmtree(root / "basic/Image")


def one_image_less(root: Path) -> None:
    (root / "basic/Image/aligned/train_00004_aligned.jpg").unlink()


def one_broken_image(root: Path) -> None:
    (root / "basic/Image/aligned/train_00004_aligned.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")


def broken_box(root: Path) -> None:
    (root / "basic/Annotation/boundingbox/test_0001_boundingbox.txt").write_text("1 2 3")


def broken_landmarks(root: Path) -> None:
    (root / "basic/Annotation/manual/test_0001_manu_attri.txt").write_text("1 2\n3 nan\n1 1\n2 2\n3 3\n")


BAD = {
    "other counts": (None, [], "train surprise: 3 images, the authors' list says 1,290"),
    "unknown code": (break_code, ["--partial"], "line 3: code '9' is not a whole number in 1 to 7"),
    "a path": (break_line, ["--partial"], "line 3: '../train_00003.jpg 3' is not '<name>.jpg <code>'"),
    "a third part": (break_prefix, ["--partial"], "'val_00003.jpg' starts with neither train_ nor test_"),
    "other bytes": (break_bytes, ["--partial"], "line 2: not UTF-8 text"),
    "empty list": (empty_list, ["--partial"], "list_patition_label.txt: no lines; copy the file again"),
    "no images": (no_images, ["--partial"], "none of the 28 listed images is there"),
    "missing image": (one_image_less, [], "1 x missing image of train: Image/aligned/train_00004_aligned.jpg"),
    "broken box": (broken_box, ["--option", "images=original"], "test_0001_boundingbox.txt: 3 numbers, expected x1 y1"),
    "broken landmarks": (broken_landmarks, ["--option", "images=original"], "line 2: landmark 'nan' is not a number"),
    "no compound": (None, ["--option", "labels=compound"], "no compound RAF-DB in"),
    "unknown option": (None, ["--option", "label=basic"], "rafdb: unknown option 'label'; did you mean 'labels'?"),
    "unknown choice": (
        None,
        ["--option", "resize=fit"],
        "rafdb.resize: 'fit' is not known; valid: square, pad, centre_crop",
    ),
    "no such noise": (None, ["--partial", "--option", "noise=noise01"], "needs EmoLabel/noise01.txt in the copy"),
    "no boxes": (None, ["--partial", "--option", "crop=box"], "crop=box, but this copy (official tree, basic, aligned"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_copies(ferbench: Command, fake_copy: FakeCopy, case: str) -> None:
    damage, arguments, message = BAD[case]
    root = fake_copy("rafdb")
    if damage is not None:
        damage(root)
    done = ferbench("prepare", "rafdb", "--root", root, *arguments)
    assert done.code == 2 and message in done.error()


def test_a_broken_image_is_left_out_with_partial(ferbench: Command, fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb")
    one_broken_image(root)
    done = ferbench("prepare", "rafdb", "--root", root, "--partial")
    assert done.code == 0 and "28 images; train 20, test 7" in done.out
    assert "unreadable: Image/aligned/train_00004_aligned.jpg (" in done.out


FOLDERS = {
    "nothing there": ([], "no RAF-DB in {root}: expected basic/EmoLabel/list_patition_label.txt"),
    "an archive": (["basic.zip"], "basic.zip must be unpacked first (ferbench unpacks nothing)"),
    "parquet": (["data/train-0.parquet"], "is a parquet mirror of RAF-DB: not the authors' files"),
    "unknown class": (["train/1/a.jpg", "train/9/b.jpg", "test/1/c.jpg"], "folder '9' is no class of this data set"),
    "words and digits": (["train/1/a.jpg", "train/happy/b.jpg", "test/1/c.jpg"], "class folders with digits and with"),
    "one class twice": (["train/happy/a.jpg", "train/Joy/b.jpg", "test/sad/c.jpg"], "are both happiness"),
    "lists without images": (["RAF_train_label2.txt", "RAF_test_label2.txt"], "lies neither beside it nor in Image"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_folders(ferbench: Command, tmp_path: Path, case: str) -> None:
    files, message = FOLDERS[case]
    root = tmp_path / "root"
    root.mkdir()
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("train_00001.jpg 0\n")
    done = ferbench("prepare", "rafdb", "--root", root, "--partial")
    assert done.code == 2 and message.format(root=root) in done.error()
    assert "whdeng" in done.error() or "class" in case or "words" in case or "lists" in case


def test_no_root(ferbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERBENCH_RAFDB_ROOT", raising=False)
    assert "rafdb needs your copy of the files: run `ferbench prepare rafdb" in ferbench("prepare", "rafdb").error()
    assert "no such folder: nowhere" in ferbench("prepare", "rafdb", "--root", "nowhere").error()


def test_fake_then_prepare_then_reproduce(ferbench: Command, tmp_path: Path) -> None:
    """The commands of a first try: 15 labels a class, 10 of fear, as Ada-CM's smallest column wants."""
    assert ferbench("fake", "rafdb", "fake-rafdb", "--images", "20").code == 0
    assert ferbench("prepare", "rafdb", "--root", "fake-rafdb", "--partial").code == 0
    done = ferbench("reproduce", "adacm/2", "--preset", "cpu", "--column", "rafdb-100", "--seeds", "1", "--dry-run")
    assert done.code == 0 and "rafdb-adacm-100-fixmatch" in done.out and "too few" not in done.out


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=80), st.from_regex(r"(train_\d{5}\.jpg [0-9 ]{0,4}\n){0,4}")))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    for parse in (
        lambda: parse_list(text, "f", range(1, 8)),
        lambda: parse_box(text, "f"),
        lambda: parse_manual(text, "f"),
    ):
        try:
            found = parse()
        except DataError as error:
            assert str(error).startswith("f") and "\n" not in str(error).split(": ", 1)[0]
        else:
            assert len(found) >= 1


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.lists(st.sampled_from(["a.jpg", "1", "7", "8", "", '"', "\n", ","]), max_size=12))
def test_any_text_is_a_repacks_list_or_refused(text: str, cells: list[str]) -> None:
    for content in (text, "image,label\n" + ",".join(cells)):
        try:
            found = check_against_folders(content, "f", {"a.jpg": 0})
        except DataError as error:
            assert str(error).startswith("f line ")
        else:
            assert len(found) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 99_999), st.integers(1, 7), st.none() | st.integers(0, 2)), min_size=1))
def test_lists_are_read_back(rows: list[tuple[int, int, int | None]]) -> None:
    text = "\r\n".join(
        f"train_{n:05d}.jpg {code}" + ("" if coarse is None else f" {coarse}") for n, code, coarse in rows
    )
    assert [(row.name, row.code) for row in parse_list(text, "f", range(1, 8))] == [
        (f"train_{n:05d}.jpg", code) for n, code, _ in rows
    ]
