"""Folds, wrong labels and overlap: what a split does besides counting."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.splits.draw import PARTS, make_split, with_taught_labels
from ferbench.bench.data.splits.files import read_split, write_split

MakeFaces = Callable[..., FaceSet]
FOLDED = {"folds": 3, "fraction": 0.5}


def test_folds_are_scikit_learn_s_over_the_sorted_paths(make_faces: MakeFaces) -> None:
    faces = make_faces()
    paths = sorted(faces.ids[faces.train].tolist())
    expected = [sorted(paths[i] for i in held) for _, held in KFold(3, shuffle=True, random_state=42).split(paths)]
    found = [sorted(faces.ids[make_split(faces, "kfold", FOLDED | {"fold": fold}, 9).test]) for fold in (1, 2, 3)]
    assert found == expected


def test_folds_take_turns_and_never_touch_the_official_test_images(make_faces: MakeFaces) -> None:
    faces = make_faces()
    splits = [make_split(faces, "kfold", FOLDED, seed) for seed in (1, 2, 3)]
    tested = np.concatenate([split.test for split in splits])
    assert sorted(tested) == faces.train.tolist()
    for split in splits:
        rest = np.concatenate([split.labelled, split.unlabelled])
        assert sorted(rest) == sorted(set(faces.train) - set(split.test))
        sizes = faces.class_counts(rest)
        assert split.available == sizes
        assert faces.class_counts(split.labelled) == {name: round(size / 2) for name, size in sizes.items()}
    assert make_split(faces, "kfold", FOLDED, 4).test.tolist() == splits[0].test.tolist()


def test_fold_seed_shuffles_otherwise(make_faces: MakeFaces) -> None:
    faces = make_faces()
    one, other = (make_split(faces, "kfold", FOLDED | {"fold": 1, "fold_seed": seed}, 1) for seed in (42, 7))
    assert one.test.tolist() == make_split(faces, "kfold", FOLDED | {"fold": 1}, 5).test.tolist()
    assert one.test.tolist() != other.test.tolist()


@pytest.mark.parametrize("parameters", [{"fraction": 0.5}, {"fraction": 0.5, "noise": 0.3}])
def test_parts_make_up_the_labelled_images(make_faces: MakeFaces, parameters: dict[str, float]) -> None:
    """Every part has its share of each class; what it leaves out is unlabelled, the rest is taught as before."""
    faces = make_faces(train={"a": 60, "b": 24, "c": 13}, test={"a": 5})
    whole = make_split(faces, "fraction", parameters, 3)
    held = []
    for part in (1, 2, 3):
        split = make_split(faces, "fraction", {**parameters, "parts": 3, "part": part}, 3)
        held.append(np.setdiff1d(whole.labelled, split.labelled))
        assert set(held[-1]) <= set(split.unlabelled) and set(whole.unlabelled) <= set(split.unlabelled)
        assert split.taught.tolist() == whole.taught[np.isin(whole.labelled, split.labelled)].tolist()
        assert split.fingerprint != whole.fingerprint and split.test.tolist() == whole.test.tolist()
        for code in range(3):
            share = (faces.labels[whole.labelled] == code).sum() / 3
            assert abs((faces.labels[held[-1]] == code).sum() - share) < 1
    assert sorted(np.concatenate(held)) == whole.labelled.tolist()


def test_own_folds_keep_people_apart(make_faces: MakeFaces) -> None:
    faces = make_faces()
    folds = np.arange(len(faces.labels)) % 3 + 10
    folded = dataclasses.replace(faces, folds=folds)
    split = make_split(folded, "kfold", FOLDED | {"fold": 2, "own_folds": True}, 1)
    assert split.test.tolist() == [i for i in faces.train if folds[i] == 11]
    with pytest.raises(DataError, match="tiny comes in 3 folds of its own, not 5"):
        make_split(folded, "kfold", {"folds": 5, "fraction": 0.5, "own_folds": True}, 1)


def test_overlap_leaves_labelled_images_among_the_unlabelled(make_faces: MakeFaces) -> None:
    faces = make_faces()
    plain = make_split(faces, "balanced", {"per_class": 6, "validation": 0.5}, 1)
    both = make_split(faces, "balanced", {"per_class": 6, "validation": 0.5, "overlap": True}, 1)
    for part in ("labelled", "validation", "test"):
        assert getattr(both, part).tolist() == getattr(plain, part).tolist()
    assert sorted(both.unlabelled) == sorted([*plain.unlabelled, *plain.labelled])


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.99])
def test_noise_flips_its_share_of_the_taught_labels_alone(make_faces: MakeFaces, noise: float) -> None:
    faces = make_faces()
    clean = make_split(faces, "fraction", {"fraction": 0.9}, 1)
    noisy = make_split(faces, "fraction", {"fraction": 0.9, "noise": noise}, 1)
    for part in PARTS:
        assert getattr(noisy, part).tolist() == getattr(clean, part).tolist()
    wrong = noisy.taught != faces.labels[noisy.labelled]
    assert wrong.sum() == round(noise * len(noisy.labelled))
    assert noisy.fingerprint != clean.fingerprint
    changed = with_taught_labels(faces, noisy)
    assert changed.labels[noisy.labelled].tolist() == noisy.taught.tolist()
    others = np.setdiff1d(np.arange(len(faces.labels)), noisy.labelled)
    assert changed.labels[others].tolist() == faces.labels[others].tolist()
    assert with_taught_labels(faces, clean) is faces


def test_wrong_labels_are_spread_over_the_other_classes(make_faces: MakeFaces) -> None:
    """Of 2,000 flips each of the two other classes takes a half within five standard deviations (112)."""
    faces = make_faces({"joy": 2000, "calm": 300, "anger": 300}, {"joy": 1}, size=1)
    split = make_split(faces, "full", {"noise": 0.5}, 1)
    own = faces.labels[split.labelled]
    flipped = split.taught[(own == 0) & (split.taught != 0)]
    assert abs((flipped == 1).sum() - len(flipped) / 2) < 5 * np.sqrt(len(flipped)) / 2


def test_more_noise_contains_less_and_a_seed_has_its_own(make_faces: MakeFaces) -> None:
    faces = make_faces()
    less, more, other = (
        make_split(faces, "full", {"noise": noise}, seed).taught for noise, seed in ((0.1, 1), (0.3, 1), (0.1, 2))
    )
    own = faces.labels[faces.train]
    assert (more[less != own] == less[less != own]).all()
    assert less.tolist() != other.tolist()


@pytest.mark.parametrize("parameters", [{"noise": 0.3}, {"overlap": True}, {"noise": 0.2, "overlap": True}])
def test_files_keep_wrong_labels_and_overlap(
    make_faces: MakeFaces, tmp_path: Path, parameters: dict[str, float | int]
) -> None:
    faces = make_faces()
    drawn = make_split(faces, "balanced", {"per_class": 7, **parameters}, 3)
    write_split(drawn, faces, tmp_path / "split.json")
    back = read_split(tmp_path / "split.json", faces)
    for field in dataclasses.fields(drawn):
        np.testing.assert_equal(getattr(back, field.name), getattr(drawn, field.name), field.name)
    document = json.loads((tmp_path / "split.json").read_text())
    assert ("flipped" in document) == ("noise" in parameters)


def test_wrong_labels_of_an_unknown_class_are_refused(make_faces: MakeFaces, tmp_path: Path) -> None:
    faces = make_faces()
    write_split(make_split(faces, "full", {"noise": 0.1}, 3), faces, tmp_path / "split.json")
    document = json.loads((tmp_path / "split.json").read_text())
    document["flipped"] = dict.fromkeys(document["flipped"], "boredom")
    (tmp_path / "split.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="not a readable split file"):
        read_split(tmp_path / "split.json", faces)


def test_images_without_a_label_are_unlabelled_ones(make_faces: MakeFaces) -> None:
    faces = make_faces()
    labels = faces.labels.copy()
    labels[faces.train[:10]] = -1
    split = make_split(dataclasses.replace(faces, labels=labels), "full", {}, 1)
    assert split.unlabelled.tolist() == faces.train[:10].tolist()
    assert split.labelled.tolist() == faces.train[10:].tolist()


def test_folds_hold_no_images_without_a_label(make_faces: MakeFaces) -> None:
    faces = make_faces()
    labels = faces.labels.copy()
    labels[faces.train[:10]] = -1
    faces = dataclasses.replace(faces, labels=labels)
    splits = [make_split(faces, "kfold", FOLDED, seed) for seed in (1, 2, 3)]
    assert sorted(np.concatenate([split.test for split in splits])) == faces.train[10:].tolist()
    assert all(set(faces.train[:10]) <= set(split.unlabelled) for split in splits)


def test_a_set_without_classes_has_nothing_to_draw_from(make_faces: MakeFaces) -> None:
    faces = dataclasses.replace(make_faces(), classes=())
    with pytest.raises(DataError, match="tiny has no labels to draw from: it can only serve as unlabelled images"):
        make_split(faces, "full", {}, 1)
