"""Which images are labelled: the papers' class counts, and splits that are the same everywhere and always."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.splits.counts import long_tailed_counts, requested_counts
from ferbench.bench.data.splits.draw import PARTS, make_split
from ferbench.bench.data.splits.files import read_split, write_split

MakeFaces = Callable[..., FaceSet]

RAFDB = dict(surprise=1290, fear=281, disgust=717, happiness=4772, sadness=1982, anger=705, neutral=2524)
RAFDB_ORDER = ("happiness", "neutral", "sadness", "surprise", "disgust", "anger", "fear")
CKPLUS = dict(neutral=327, surprise=83, happiness=69, disgust=59, anger=45, sadness=28, fear=25)
# FERPlus training images by fer2013new.csv: under the majority rule contempt and disgust have 119 each.
FERPLUS_TIE = dict(
    neutral=8740, happiness=7287, surprise=3149, sadness=3014, anger=2098, disgust=119, fear=532, contempt=119
)
FERPLUS_ORDER = ("neutral", "happiness", "surprise", "sadness", "anger", "fear", "contempt", "disgust")


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("n1", "gamma", "counts", "total"),
    [
        (2000, 50, (2000, 1042, 542, 282, 147, 76, 40), 4129),
        (2000, 150, (2000, 867, 376, 163, 70, 30, 13), 3519),
        (500, 50, (500, 260, 135, 70, 36, 19, 10), 1030),
        (500, 150, (500, 216, 94, 40, 17, 7, 3), 877),
    ],
)
def test_long_tailed_rafdb_counts_of_remop(n1: int, gamma: float, counts: tuple[int, ...], total: int) -> None:
    found = long_tailed_counts(RAFDB, n1, gamma)
    assert tuple(found[name] for name in RAFDB_ORDER) == counts
    assert sum(found.values()) == total
    assert not [name for name in RAFDB if found[name] > RAFDB[name]]


@pytest.mark.parametrize(
    ("n1", "counts", "total"),
    [(4000, (4000, 1955, 955, 467, 228, 111, 54, 26), 7796), (1000, (1000, 488, 238, 116, 57, 27, 13, 6), 1945)],
)
def test_long_tailed_ferplus_counts_break_a_tie_by_name(n1: int, counts: tuple[int, ...], total: int) -> None:
    found = long_tailed_counts(FERPLUS_TIE, n1, 150)
    assert tuple(found[name] for name in FERPLUS_ORDER) == counts  # contempt before disgust, 119 images each
    assert sum(found.values()) == total
    assert long_tailed_counts(dict(reversed(FERPLUS_TIE.items())), n1, 150) == found


@given(n1=st.integers(1, 5000), gamma=st.integers(1, 200), classes=st.integers(2, 9))
@settings(max_examples=300, deadline=None)
def test_long_tailed_is_the_exact_integer_part(n1: int, gamma: int, classes: int) -> None:
    """N_k^(K-1) * gamma^(k-1) <= n1^(K-1) < (N_k + 1)^(K-1) * gamma^(k-1), in whole numbers."""
    found = long_tailed_counts({f"{k}": 10 - k for k in range(classes)}, n1, gamma)
    for k in range(classes):
        count, last = found[f"{k}"], classes - 1
        assert count**last * gamma**k <= n1**last < (count + 1) ** last * gamma**k


@pytest.mark.parametrize(
    ("fraction", "total"), [(0.01, 123), (0.05, 613), (0.1, 1226), (0.25, 3067)], ids=lambda value: f"{value:g}"
)
def test_fraction_rafdb_counts_of_ssfer(fraction: float, total: int) -> None:
    found = requested_counts("fraction", {"fraction": fraction}, RAFDB)
    assert sum(found.values()) == total
    if fraction == 0.05:
        assert found == dict(surprise=64, fear=14, disgust=36, happiness=239, sadness=99, anger=35, neutral=126)


def test_fraction_rounds_half_to_even_and_takes_at_least_one() -> None:
    sizes = {"a": 25, "b": 35, "c": 4, "d": 10}
    assert requested_counts("fraction", {"fraction": 0.1}, sizes) == {"a": 2, "b": 4, "c": 1, "d": 1}


@pytest.mark.parametrize(
    ("total", "fear", "others"), [(100, 10, 15), (400, 40, 60), (1000, 100, 150), (2000, 200, 300), (4000, 250, 625)]
)
def test_balanced_with_fewer_of_fear_as_adacm(total: int, fear: int, others: int) -> None:
    found = requested_counts("balanced", {"per_class": others, "exceptions": {"fear": fear}}, RAFDB)
    assert sum(found.values()) == total
    assert found == dict.fromkeys(RAFDB, others) | {"fear": fear}


def test_full_takes_everything(make_faces: MakeFaces) -> None:
    faces = make_faces()
    split = make_split(faces, "full", {}, 1)
    assert split.labelled.tolist() == faces.train.tolist()
    assert len(split.unlabelled) == 0


@pytest.mark.parametrize(
    ("n1", "short"),
    [
        (2000, "neutral 2000/327, surprise 867/83, happiness 376/69, disgust 163/59, anger 70/45, sadness 30/28"),
        (500, "neutral 500/327, surprise 216/83, happiness 94/69"),
    ],
)
def test_too_few_images_lists_every_class_that_is_short(make_faces: MakeFaces, n1: int, short: str) -> None:
    faces = make_faces(CKPLUS, CKPLUS, name="ckplus", size=2)
    text = message(lambda: make_split(faces, "long_tailed", {"n1": n1, "gamma": 150}, 1))
    assert f"(asked/there): {short};" in text
    assert "ckplus" in text


def test_a_class_left_without_a_label_is_refused(make_faces: MakeFaces) -> None:
    text = message(lambda: make_split(make_faces(), "long_tailed", {"n1": 20, "gamma": 150}, 1))
    assert "leaves no label for anger" in text


@pytest.mark.parametrize(
    ("recipe", "parameters", "expected"),
    [
        ("long_tail", {}, "unknown split recipe 'long_tail'; valid: full, long_tailed, balanced, fraction, total"),
        ("long_tailed", {"n1": 10}, "split long_tailed: needs 'gamma'"),
        (
            "long_tailed",
            {"n1": 10, "gama": 2},
            "does not take 'gama' (takes n1, gamma, validation, noise, overlap, parts, part)",
        ),
        ("long_tailed", {"n1": 2.5, "gamma": 2}, "n1 must be a whole number from 1, not 2.5"),
        ("long_tailed", {"n1": float("inf"), "gamma": 2}, "n1 must be a whole number from 1, not inf"),
        ("long_tailed", {"n1": 10, "gamma": 0}, "gamma must be at least 1, not 0"),
        ("balanced", {"per_class": 0}, "per_class must be a whole number from 1, not 0"),
        (
            "balanced",
            {"per_class": 3, "exceptions": {"fear": 2}},
            "excepts 'fear', which is no class (joy, calm, anger",
        ),
        ("balanced", {"per_class": 3, "exceptions": 2}, "exceptions must give counts by class, not 2"),
        ("balanced", {"per_class": 3, "exceptions": {"joy": 0}}, "excepts 'joy' with 0, which is no whole number"),
        ("full", {"exceptions": {"joy": 2}}, "does not take 'exceptions'"),
        ("full", {"noise": 1.0}, "noise must be from 0 to below 1, not 1.0"),
        ("full", {"overlap": 2}, "overlap must be true or false, not 2"),
        ("total", {"labels": 2}, "leaves no label for joy, calm, anger"),
        ("adacm", {"labels": 100}, "it is a rule for 7 classes with fear among them, not for joy, calm, anger"),
        ("kfold", {"folds": 1, "fraction": 0.5}, "folds must be a whole number from 2, not 1"),
        ("kfold", {"folds": 5, "fraction": 0.5, "fold": 6}, "there is no fold 6 of 5; they count from 1"),
        ("kfold", {"folds": 55, "fraction": 0.5}, "54 training images are too few for 55 folds"),
        ("kfold", {"folds": 5, "fraction": 0.5, "own_folds": True}, "comes without folds of its own"),
        ("fraction", {"fraction": 1.5}, "fraction must be above 0 and at most 1, not 1.5"),
        ("fraction", {"fraction": float("nan")}, "fraction must be above 0 and at most 1, not nan"),
        ("full", {"parts": 2}, "takes parts and part together"),
        ("full", {"parts": 2, "part": 3}, "has no part 3 of 2"),
        ("full", {"validation": 1.0}, "validation must be from 0 to below 1, not 1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "none",
)
def test_wrong_parameters_are_named(
    make_faces: MakeFaces, recipe: str, parameters: dict[str, Any], expected: str
) -> None:
    assert expected in message(lambda: make_split(make_faces(), recipe, parameters, 1))


def test_parts_are_disjoint_and_cover_the_training_images(make_faces: MakeFaces) -> None:
    faces = make_faces()
    split = make_split(faces, "balanced", {"per_class": 6, "exceptions": {"anger": 3}, "validation": 0.5}, 1)
    parts = [set(getattr(split, part).tolist()) for part in PARTS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(faces.labels)
    assert set.union(*parts[:3]) == set(faces.train.tolist())
    assert parts[3] == set(faces.test.tolist())
    assert faces.class_counts(split.labelled) == {"joy": 3, "calm": 3, "anger": 1}
    assert faces.class_counts(split.validation) == {"joy": 3, "calm": 3, "anger": 2}  # round(1.5) is 2
    assert split.requested == {"joy": 6, "calm": 6, "anger": 3}
    assert split.available == {"joy": 24, "calm": 18, "anger": 12}


def test_validation_never_takes_a_class_s_last_label(make_faces: MakeFaces) -> None:
    faces = make_faces()
    split = make_split(faces, "balanced", {"per_class": 1, "validation": 0.9}, 1)
    assert faces.class_counts(split.labelled) == {"joy": 1, "calm": 1, "anger": 1}


def test_images_come_in_the_order_of_their_hash(make_faces: MakeFaces) -> None:
    """Against a plain restatement of the rule: the `per_class` smallest SHA-256 of "seed/path" of each class."""
    faces = make_faces()
    split = make_split(faces, "balanced", {"per_class": 5}, 11)
    expected = []
    for code in range(3):
        paths = [str(faces.ids[i]) for i in faces.train if faces.labels[i] == code]
        expected += sorted(paths, key=lambda path: hashlib.sha256(f"11/{path}".encode()).hexdigest())[:5]
    assert sorted(faces.ids[split.labelled]) == sorted(expected)


FINGERPRINT = "a2f12ee79bef73a0bcf71ac0acddb460c3346dea0fd6f7ec20d9a46086102776"


def test_fingerprint_never_changes(make_faces: MakeFaces) -> None:
    """A literal: records of earlier versions stay comparable only as long as it holds."""
    split = make_split(make_faces(), "long_tailed", {"n1": 12, "gamma": 4, "validation": 0.25}, 1)
    assert split.fingerprint == FINGERPRINT


def test_fingerprint_tells_seeds_recipes_and_labels_apart(make_faces: MakeFaces) -> None:
    faces = make_faces()
    labels = faces.labels.copy()
    chosen = make_split(faces, "full", {}, 1).labelled[0]
    labels[chosen] = (labels[chosen] + 1) % 3
    prints = {
        make_split(faces, "balanced", {"per_class": 5}, 1).fingerprint,
        make_split(faces, "balanced", {"per_class": 5}, 2).fingerprint,
        make_split(faces, "balanced", {"per_class": 6}, 1).fingerprint,
        make_split(faces, "balanced", {"per_class": 5, "validation": 0.2}, 1).fingerprint,
        make_split(faces, "full", {}, 1).fingerprint,
        make_split(dataclasses.replace(faces, labels=labels), "full", {}, 1).fingerprint,
    }
    assert len(prints) == 6


def test_a_split_does_not_depend_on_the_order_of_files(make_faces: MakeFaces) -> None:
    faces = make_faces()
    shuffled = make_faces(order=np.random.default_rng(0).permutation(len(faces.labels)).tolist())
    ours = make_split(faces, "balanced", {"per_class": 7, "validation": 0.3}, 4)
    theirs = make_split(shuffled, "balanced", {"per_class": 7, "validation": 0.3}, 4)
    for part in PARTS:
        first, second = faces.ids[getattr(ours, part)], shuffled.ids[getattr(theirs, part)]
        assert sorted(first.tolist()) == sorted(second.tolist()), part


@given(small=st.integers(2, 11), more=st.integers(0, 10), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_larger_labelled_set_contains_the_smaller(make_faces: MakeFaces, small: int, more: int, seed: int) -> None:
    faces = make_faces()
    less = make_split(faces, "long_tailed", {"n1": small, "gamma": 2}, seed)
    larger = make_split(faces, "long_tailed", {"n1": small + more, "gamma": 2}, seed)
    assert set(less.labelled.tolist()) <= set(larger.labelled.tolist())


def test_overlapping_train_and_test_images_are_refused(make_faces: MakeFaces) -> None:
    faces = make_faces()
    leaky = dataclasses.replace(faces, test=np.append(faces.test, faces.train[0]))
    assert "overlap" in message(lambda: make_split(leaky, "full", {}, 1))


@pytest.fixture
def written(make_faces: MakeFaces, tmp_path: Path) -> Path:
    faces = make_faces()
    parameters = {"per_class": 6, "exceptions": {"anger": 4}, "validation": 0.5}
    write_split(make_split(faces, "balanced", parameters, 5), faces, tmp_path / "split.json")
    return tmp_path / "split.json"


def test_write_and_read_give_the_same_split(make_faces: MakeFaces, written: Path) -> None:
    faces = make_faces()
    parameters = {"per_class": 6, "exceptions": {"anger": 4}, "validation": 0.5}
    drawn, back = make_split(faces, "balanced", parameters, 5), read_split(written, faces)
    for field in dataclasses.fields(drawn):
        np.testing.assert_equal(getattr(back, field.name), getattr(drawn, field.name), field.name)
    assert [path.name for path in written.parent.iterdir()] == ["split.json"]


def test_a_file_of_another_data_set_is_refused(make_faces: MakeFaces, written: Path) -> None:
    fewer = make_faces({"joy": 10, "calm": 10, "anger": 10}, {"joy": 2})
    assert "of its images are not in tiny, first" in message(lambda: read_split(written, fewer))
    rescaled = make_faces(size=20)
    assert "under other options; draw it again" in message(lambda: read_split(written, rescaled))


def test_changed_labels_are_refused(make_faces: MakeFaces, written: Path) -> None:
    faces = make_faces()
    labels = faces.labels.copy()
    labels[read_split(written, faces).labelled[0]] ^= 1
    assert "labels or lists differ" in message(lambda: read_split(written, dataclasses.replace(faces, labels=labels)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "labelled": 3}),
        lambda text: json.dumps({**json.loads(text), "requested": 3}),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "validation"}),
    ],
    ids=["truncated", "a list", "labelled is a number", "requested is a number", "no validation"],
)
def test_a_damaged_split_file_is_refused(make_faces: MakeFaces, written: Path, damage: Callable[[str], str]) -> None:
    written.write_text(damage(written.read_text()))
    text = message(lambda: read_split(written, make_faces()))
    assert str(written) in text and "not a readable split file" in text


def test_an_image_listed_twice_is_refused(make_faces: MakeFaces, written: Path) -> None:
    document = json.loads(written.read_text())
    document["unlabelled"].append(document["labelled"][0])
    written.write_text(json.dumps(document))
    assert "overlap" in message(lambda: read_split(written, make_faces()))


@pytest.mark.skipif("FERBENCH_FERPLUS_ROOT" not in os.environ, reason="needs a copy of FERPlus")
@pytest.mark.slow
def test_remop_splits_of_the_real_ferplus(tmp_path_factory: pytest.TempPathFactory) -> None:
    from ferbench.bench.data.sets.readers import open_dataset

    options = {"source": "new_csv", "rule": "argmax10"}
    faces = open_dataset("ferplus", options, cache=tmp_path_factory.mktemp("cache"))
    for n1, total, counts in (
        (1000, 1945, (1000, 488, 238, 116, 57, 27, 13, 6)),
        (4000, 7796, (4000, 1955, 955, 467, 228, 111, 54, 26)),
    ):
        split = make_split(faces, "long_tailed", {"n1": n1, "gamma": 150}, 1)
        assert len(split.labelled) == total
        assert len(split.unlabelled) == len(faces.train) - total
        found = faces.class_counts(split.labelled)
        sizes = faces.class_counts(faces.train)
        order = sorted(sizes, key=lambda name: (-sizes[name], name))
        assert tuple(found[name] for name in order) == counts
