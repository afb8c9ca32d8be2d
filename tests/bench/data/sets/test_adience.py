"""Adience: fold files, ages that are no group, and folds that keep people apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.reading.textfile import decode
from ferbench.bench.data.sets.adience import fake as fake_adience
from ferbench.bench.data.sets.adience.folds import AGE_GROUPS, HEADER, nearest_group, parse_fold
from ferbench.bench.data.sets.adience.reader import AGES, ROWS, scan_adience
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.data.splits.draw import make_split

DEFAULTS = {"images": "auto", "frontal": False}
HEAD = "\t".join(HEADER) + "\tx\ty\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two faces of each age group and four of none, in five folds."""
    root = tmp_path_factory.mktemp("adience")
    fake_adience.aligned(root, 2)
    return root


@pytest.fixture(scope="module")
def opened(copy: Path) -> Callable[..., FaceSet]:
    cache = copy.parent / f"{copy.name}-cache"
    prepare_dataset("adience", {}, root=copy, cache=cache, partial=True)
    return lambda **options: open_dataset("adience", options, root=copy, cache=cache)


def test_published_totals() -> None:
    assert sum(ROWS) == 19370 and sum(AGES) == 17378


@pytest.mark.parametrize("layout", fake_adience.LAYOUTS)
def test_every_layout(tmp_path: Path, layout: str) -> None:
    fake_adience.LAYOUTS[layout](tmp_path, 1)
    listing = scan_adience(tmp_path, DEFAULTS)
    kind = "faces" if layout == "faces" else "aligned"
    assert listing.layout == f"{kind}/ with fold files" and all(name.startswith(kind) for name in listing.ids)
    assert all((listing.root / listing.path(row)).is_file() for row in range(len(listing.ids)))
    assert sorted(set(listing.columns["folds"].tolist())) == [0, 1, 2, 3, 4]
    assert listing.differences == tuple(
        f"fold {k} has {n} rows, the authors' has {ROWS[k]:,}" for k, n in ((0, 3), (1, 3))
    )
    assert [line.split(" rows")[0] for line in listing.warnings] == ["fold 2 has 2", "fold 3 has 2", "fold 4 has 2"]


def test_both_kinds_of_images_are_two_sets(tmp_path: Path) -> None:
    fake_adience.faces(tmp_path, 1)
    fake_adience.aligned(tmp_path, 1)
    names = {kind: scan_adience(tmp_path, {**DEFAULTS, "images": kind}).ids.tolist() for kind in ("aligned", "faces")}
    assert scan_adience(tmp_path, DEFAULTS).ids.tolist() == names["aligned"]
    assert [name.removeprefix("aligned/") for name in names["aligned"]] == [
        name.removeprefix("faces/") for name in names["faces"]
    ]


def test_gender_or_age_from_one_prepared_copy(opened: Callable[..., FaceSet]) -> None:
    gender, age = opened(), opened(task="age")
    assert gender.classes == ("female", "male") and age.classes == tuple(AGE_GROUPS)
    assert len(gender.labels) == len(age.labels) == 20
    # Every sixth is "u"; of the twenty the third, ninth and fifteenth.
    assert gender.class_counts(gender.train) == {"female": 7, "male": 10}
    assert age.class_counts(age.train) == dict.fromkeys(AGE_GROUPS, 2)
    assert len(gender.test) == len(age.test) == 0
    assert gender.fingerprint != age.fingerprint


def test_strays_may_join_the_nearest_group(opened: Callable[..., FaceSet]) -> None:
    counts = (faces := opened(task="age", strays="nearest")).class_counts(faces.train)
    assert counts == {**dict.fromkeys(AGE_GROUPS, 2), "38-43": 4}  # 35 and (38, 48)


def test_one_fold_may_be_the_test_part(opened: Callable[..., FaceSet]) -> None:
    whole, faces = opened(), opened(test_fold=2)
    assert faces.folds is not None and faces.subjects is not None
    assert set(faces.folds[faces.test]) == {2} and set(faces.folds[faces.train]) == {0, 1, 3, 4}
    assert sorted([*faces.train, *faces.test]) == whole.train.tolist()
    assert not set(faces.subjects[faces.train]) & set(faces.subjects[faces.test])
    with pytest.raises(DataError, match="'test_fold' for adience must be 0 to 4, or -1 for none, not 5"):
        opened(test_fold=5)


def test_kfold_splits_take_the_authors_folds(opened: Callable[..., FaceSet]) -> None:
    faces = opened()
    assert faces.folds is not None
    for fold in range(5):
        split = make_split(faces, "kfold", {"folds": 5, "fold": fold + 1, "fraction": 1.0, "own_folds": True}, 1)
        assert split.test.tolist() == [i for i in faces.train if faces.folds[i] == fold]
        assert sorted([*split.labelled, *split.test]) == faces.train.tolist()


@pytest.mark.parametrize(
    ("age", "group"),
    [
        ("35", "38-43"), ("38-48", "38-43"), ("38-42", "38-43"), ("27-32", "25-32"), ("8-23", "15-20"), ("2", "0-2"),
        ("3", "0-2"), ("13", "8-12"), ("22", "15-20"), ("23", "25-32"), ("29", "25-32"), ("34", "25-32"),
        ("36", "38-43"), ("42", "38-43"), ("45", "38-43"), ("46", "48-53"), ("55", "48-53"), ("58", "60-100"),
        ("", ""), ("8-12", "8-12"), ("120", "60-100"),
    ],
)  # fmt: skip
def test_nearest_groups(age: str, group: str) -> None:
    """By hand: smallest distance to a group's years, then to its middle, then the younger."""
    assert nearest_group(age) == group


def row(user: str = "1@N00", image: str = "a.jpg", face: str = "7", age: str = "(0, 2)", gender: str = "f") -> str:
    return "\t".join((user, image, face, age, gender, "1", "2")) + "\r\n"


def test_rows_as_they_are_written() -> None:
    text = HEAD + row() + row(age="None", gender="") + row(age="(38,  48)") + row(age="35", gender="u") + row(age="")
    faces = parse_fold(text, "fold")
    assert [face.age for face in faces] == ["0-2", "", "38-48", "35", ""]
    assert [face.gender for face in faces] == ["f", "", "f", "u", "f"]
    assert faces[0].name == "7.a.jpg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "fold line 1: expected the columns user_id, original_image, face_id, age, gender"),
        (HEAD.replace("\t", " ") + row(), "expected the columns"),
        (HEAD, "no rows"),
        (HEAD + "1@N00\n", "fold line 2: 1 fields, expected 7; is the file cut short"),
        (HEAD + row() + row(user=""), "fold line 3: "),
        (HEAD + row(age="young"), "age 'young' is neither"),
        (HEAD + row(age="(0, 2"), "age '(0, 2' is neither"),
        (HEAD + row(gender="x"), "gender 'x' is none of f, m, u"),
        (HEAD + row(user=".."), "is not a path inside"),
        (HEAD + row(image="../../etc/passwd"), "is not a path inside"),
        (HEAD + row(image="sub/a.jpg"), "may not hold a /"),
        (HEAD + row().replace("\r", "\textra\tmore\r"), "9 fields, expected 7"),
    ],
    ids=["empty", "blanks", "header", "short", "user", "word", "open", "gender", "parent", "escape", "slash", "long"],
)
def test_damaged_fold_files(text: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_fold(text, "fold")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@given(st.binary(max_size=80).map(lambda data: HEAD.encode() + data) | st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_rows_or_a_clean_error(data: bytes) -> None:
    try:
        for face in parse_fold(decode(data, "fold"), "fold"):
            assert (
                face.user and ".." not in f"{face.user}/{face.name}".split("/") and nearest_group(face.age) is not None
            )
    except DataError as error:
        assert "fold" in str(error) and "\n" not in str(error)


def write_folds(root: Path, rows: list[str]) -> None:
    (root / "aligned").mkdir(parents=True)
    for fold, text in enumerate(rows):
        (root / f"fold_{fold}_data.txt").write_text(HEAD + text)


def test_people_in_two_folds_are_a_difference(tmp_path: Path) -> None:
    write_folds(tmp_path, [row(user=f"{fold}@N", image=f"{fold}.jpg") for fold in range(4)] + [row(user="0@N")])
    assert "1 people are in more than one fold, first 0@N" in scan_adience(tmp_path, DEFAULTS).differences


@pytest.mark.parametrize(("gender", "repeated", "kept"), [("f", "aside", 5), ("m", "aside", 4), ("m", "first", 5)])
def test_an_image_that_comes_twice(tmp_path: Path, gender: str, repeated: str, kept: int) -> None:
    """It counts once where its rows agree, and else not at all, or as its first row says."""
    write_folds(
        tmp_path, [row(user=f"{fold}@N") for fold in range(4)] + [row(user="4@N") + row(user="4@N", gender=gender)]
    )
    listing = scan_adience(tmp_path, {**DEFAULTS, "repeated": repeated})
    assert len(listing.ids) == kept and listing.columns["gender"].tolist() == ["f"] * kept
    assert listing.notes == ("1 rows repeat an image that an earlier row names, and are left out",)
    named = [line for line in listing.warnings if "1 images are listed with different labels or parts, 4@N/" in line]
    assert len(named) == (gender == "m")


def test_what_is_missing_is_named(tmp_path: Path, ferbench: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="no Adience in .*fold_0_data.txt to fold_4_data.txt"):
        scan_adience(tmp_path, DEFAULTS)
    write_folds(tmp_path, [row(user=f"{fold}@N") for fold in range(5)])
    (tmp_path / "aligned").rmdir()
    with pytest.raises(DataError, match="has fold files but no aligned/ or faces/"):
        scan_adience(tmp_path, DEFAULTS)
    (tmp_path / "fold_3_data.txt").unlink()
    done = ferbench("prepare", "adience", "--root", tmp_path)
    assert done.code == 2 and "has fold_0_data.txt but not fold_3_data.txt: get all five" in done.error()


def test_subjects_follow_users(copy: Path) -> None:
    listing = scan_adience(copy, DEFAULTS)
    users = np.array([name.split("/")[1] for name in listing.ids])
    assert listing.subjects is not None
    for user in np.unique(users):
        assert len(np.unique(listing.subjects[users == user])) == 1
    assert len(np.unique(listing.subjects)) == len(np.unique(users))
