"""Class folders and unlabelled images of a user's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.names import EMOTIONS, canonical
from ferbench.bench.data.sets.own import fake as fake_own
from ferbench.bench.data.sets.own.faces import scan_faces
from ferbench.bench.data.sets.own.folder import scan_folder
from ferbench.bench.data.sets.own.free_classes import CODES, order_classes
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

NO_CODES = {"codes": "none"}


def test_words_become_canonical_names_in_a_fixed_order(tmp_path: Path) -> None:
    fake_own.folder(tmp_path, 3)
    (tmp_path / "train" / "Happiness").rename(tmp_path / "train" / "JOY")
    (tmp_path / "test" / "Anger").rename(tmp_path / "test" / "angry")
    listing = scan_folder(tmp_path, NO_CODES)
    assert listing.classes == EMOTIONS[:7] and listing.layout == "class folders in parts"
    for row, (part, label) in enumerate(zip(listing.parts, listing.labels, strict=True)):
        folder, word, _ = listing.path(row).split("/")
        assert (folder, canonical(word)) == (PARTS[part], listing.classes[label])
    assert [int((listing.parts == part).sum()) for part in range(3)] == [21, 7, 7]


def test_without_parts_everything_is_for_training(tmp_path: Path) -> None:
    fake_own.flat(tmp_path, 2)
    listing = scan_folder(tmp_path, NO_CODES)
    assert set(listing.parts.tolist()) == {0} and listing.layout == "class folders"
    assert listing.notes == ("no test part: choose a kfold split, or test on another data set",)


def test_a_validation_part_may_serve_as_the_test_part(tmp_path: Path) -> None:
    fake_own.folder(tmp_path, 3)
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "valid").rename(tmp_path / "Val")
    assert "choose test_parts=valid, or a kfold split" in scan_folder(tmp_path, NO_CODES).notes[0]
    prepare_dataset("folder", {}, root=tmp_path, cache=tmp_path / "cache")
    faces = open_dataset("folder", {"test_parts": "valid"}, root=tmp_path, cache=tmp_path / "cache")
    assert (len(faces.train), len(faces.test)) == (21, 7)


def test_numbers_mean_what_codes_says(tmp_path: Path) -> None:
    fake_own.digits(tmp_path, 2)
    plain = scan_folder(tmp_path, NO_CODES)
    assert plain.classes == tuple("0123456") and "say what they mean with the option codes" in plain.warnings[0]
    coded = scan_folder(tmp_path, {"codes": "affectnet"})
    assert coded.classes == EMOTIONS[:7] and coded.warnings == ()
    assert coded.labels.tolist() == plain.labels.tolist()
    turned = scan_folder(tmp_path, {"codes": "fer2013"})
    assert turned.classes == ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    with pytest.raises(DataError, match="'0' is none of the codes 1=surprise, 2=fear"):
        scan_folder(tmp_path, {"codes": "rafdb"})


def test_images_may_lie_deeper(tmp_path: Path) -> None:
    fake_own.flat(tmp_path, 2)
    (tmp_path / "anger" / "more" / "album").mkdir(parents=True)
    shutil.move(tmp_path / "anger" / "00001.png", tmp_path / "anger" / "more" / "album" / "x.png")
    assert "anger/more/album/x.png" in scan_folder(tmp_path, NO_CODES).ids


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda root: None, "no class folders in .*: expected train/<class>/ and test/<class>/, or <class>/"),
        (lambda root: (root / "a.zip").write_text("x"), "a.zip must be unpacked first"),
        (lambda root: (root / "test" / "anger").mkdir(parents=True), "has test but no folder train"),
        (lambda root: fake_own.flat(root, 1) or fake_own.flat(root / "flat", 1), None),
    ],
    ids=["empty", "packed", "test alone", "nested"],
)
def test_folders_that_do_not_do(tmp_path: Path, make: Callable[[Path], Any], expected: str | None) -> None:
    make(tmp_path)
    if expected is None:  # a folder among the classes that is no class is one by its name: told of, not guessed at
        assert "not all classes are expressions" in scan_folder(tmp_path, NO_CODES).warnings[0]
        return
    with pytest.raises(DataError, match=expected):
        scan_folder(tmp_path, NO_CODES)


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    fake_own.flat(tmp_path, 1)
    shutil.copytree(tmp_path / "happiness", tmp_path / "Joy")
    with pytest.raises(DataError, match="'Joy' and 'happiness' of one part are both happiness; rename one"):
        scan_folder(tmp_path, NO_CODES)


def test_people_are_no_classes(tmp_path: Path) -> None:
    for person in range(1001):
        (tmp_path / f"person{person}").mkdir()
        (tmp_path / f"person{person}" / "a.jpg").touch()
    with pytest.raises(DataError, match="1,001 classes; are these people. Then read it as `faces`"):
        scan_folder(tmp_path, NO_CODES)


def test_links_out_of_the_folder_are_refused(tmp_path: Path, ferbench: Callable[..., Any]) -> None:
    fake_own.flat(tmp_path / "copy", 1)
    fake_own.flat(tmp_path / "elsewhere", 1)
    (tmp_path / "copy" / "anger" / "link.png").symlink_to(tmp_path / "elsewhere" / "anger" / "00000.png")
    done = ferbench("prepare", "folder", "--root", tmp_path / "copy")
    assert done.code == 2 and "link.png is a link to" in done.error()


def test_the_command_line_prints_the_order_of_the_classes(tmp_path: Path, ferbench: Callable[..., Any]) -> None:
    fake_own.folder(tmp_path / "copy", 1)
    done = ferbench("prepare", "folder", "--root", tmp_path / "copy")
    assert done.code == 0
    assert "classes: 0=neutral 1=happiness 2=sadness 3=surprise 4=fear 5=disgust 6=anger" in done.out


WORDS = st.sampled_from(["Happy", "sad", "3", "07", "10", "Anger", "boredom", "", "a\nb", "x" * 61]) | st.text(
    max_size=5
)


@given(st.sets(WORDS, min_size=1, max_size=6), st.sampled_from(sorted(CODES)))
@settings(max_examples=150, deadline=None)
def test_any_words_are_classes_or_a_clean_error(words: set[str], codes: str) -> None:
    try:
        classes = order_classes(words, codes, "here")
    except DataError as error:
        assert str(error).startswith("here: ") and "\n" not in str(error)
        return
    assert set(classes.of) == words and set(classes.of.values()) == set(range(len(classes.names)))
    assert len(set(classes.names)) == len(classes.names)


def test_order_does_not_hang_on_the_spelling() -> None:
    assert order_classes(["Sad", "happy"], "none", "here").names == ("happiness", "sadness")
    assert order_classes(["10", "9", "2"], "none", "here").names == ("2", "9", "10")
    assert order_classes(["b", "a", "sad"], "none", "here").names == ("a", "b", "sad")
    assert order_classes(["3", "1"], "rafdb", "here").names == ("surprise", "disgust")


def test_faces_of_any_folders_are_unlabelled(tmp_path: Path) -> None:
    fake_own.faces(tmp_path / "copy", 2)
    listing = scan_faces(tmp_path / "copy", {"most": 0})
    assert len(listing.ids) == 14 and listing.classes == ()
    assert listing.ids.tolist() == sorted(listing.ids.tolist())
    prepare_dataset("faces", {"size": 32}, root=tmp_path / "copy", cache=tmp_path / "cache")
    faces = open_dataset("faces", {"size": 32}, root=tmp_path / "copy", cache=tmp_path / "cache")
    assert faces.images.shape == (14, 32, 32, 3) and len(faces.train) == 14 and set(faces.labels) == {-1}


def test_only_so_many_faces_are_taken(tmp_path: Path) -> None:
    fake_own.faces(tmp_path, 2)
    everything, some = (scan_faces(tmp_path, {"most": most}) for most in (0, 5))
    assert some.ids.tolist() == everything.ids[:5].tolist() and some.notes == ("the first 5 images by path",)
    with pytest.raises(DataError, match="'most' for faces must be 0 .all. or more, not -1"):
        scan_faces(tmp_path, {"most": -1})


def test_no_faces(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no images in .*: expected image files in any folders"):
        scan_faces(tmp_path, {"most": 0})


def test_other_pixels_under_the_same_names_are_another_data_set(tmp_path: Path) -> None:
    prints = []
    for name, mirrored in (("first", False), ("second", False), ("third", True)):
        root = tmp_path / name
        fake_own.folder(root, 2)
        if mirrored:
            image = next((root / "train").rglob("*.*"))
            with Image.open(image) as picture:
                flipped = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
            flipped.save(image)
        prepare_dataset("folder", {}, root=root, cache=tmp_path / "cache")
        prints.append(open_dataset("folder", {}, root=root, cache=tmp_path / "cache").identity())
    assert prints[0] == prints[1] != prints[2]
