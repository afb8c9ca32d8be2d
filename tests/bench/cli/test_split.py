"""`ferbench split`: the table it prints, the file it writes, and what it says about copies."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.splits.draw import make_split
from ferbench.bench.data.splits.report import split_text

MakeFaces = Callable[..., FaceSet]
Ferbench = Callable[..., Any]
TINY = ("--data-option", "scale=0.01", "--data-option", "size=16")


def row(text: str, name: str) -> list[int]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return [int(cell.replace(",", "")) for cell in line.removeprefix(name).split()]


def test_the_table_counts_every_part(make_faces: MakeFaces) -> None:
    faces = make_faces()
    text = split_text(make_split(faces, "balanced", {"per_class": 6, "validation": 0.5}, 2), faces)
    assert re.search(r"^tiny: split balanced per_class=6 validation=0.5, seed 2$", text, re.MULTILINE)
    assert re.search(r"requested +labelled +unlabelled +validation +test +available", text)
    assert row(text, "joy") == [6, 3, 18, 3, 9, 24]
    assert row(text, "all") == [18, 9, 36, 9, 20, 54]
    assert "no path is in two parts" in text and "no image is, pixel for pixel, in two parts" in text


def test_copies_overlap_and_wrong_labels_are_told(make_faces: MakeFaces) -> None:
    faces = make_faces()
    images = faces.images.copy()
    images[faces.test[:2]] = images[faces.train[0]]
    faces = dataclasses.replace(faces, images=images)
    text = split_text(make_split(faces, "full", {"noise": 0.5, "overlap": True}, 1), faces)
    assert "2 test images are pixel for pixel among the labelled ones" in text
    assert "labelled images are among the unlabelled ones as well (54)" in text
    assert "27 of 54 labels are taught wrong" in text


def test_near_copies_across_parts_are_told(make_faces: MakeFaces) -> None:
    """Two test images show what labelled ones show, one of them pixel by pixel; where none does, that is said too."""
    faces = make_faces()
    alone = np.arange(len(faces.labels))
    clean = dataclasses.replace(faces, same_pixels=alone, near_copies=alone)
    split = make_split(clean, "full", {}, 1)
    assert "no image is a near copy (mirrored, saved again) of one in another part" in split_text(split, clean)
    same, near = alone.copy(), alone.copy()
    same[faces.test[0]] = near[faces.test[0]] = faces.train[3]
    near[faces.test[1]] = faces.train[4]
    text = split_text(split, dataclasses.replace(faces, same_pixels=same, near_copies=near))
    assert "1 test images are pixel for pixel among the labelled ones" in text
    assert "1 more test images are near copies (mirrored, saved again) of labelled ones" in text
    assert "near cop" not in split_text(split, faces)


def test_people_in_training_and_test_images_are_counted(make_faces: MakeFaces) -> None:
    faces = make_faces()
    people = np.arange(len(faces.labels)) % 30
    people[faces.test[:5]] = [100, 101, -1, -1, -1]
    faces = dataclasses.replace(faces, subjects=people)
    text = split_text(make_split(faces, "full", {}, 1), faces)
    assert f"{len(set(people[faces.test[5:]]))} of 17 people in the test images are in training images as well" in text


def test_images_without_a_label_have_a_line(make_faces: MakeFaces) -> None:
    faces = make_faces()
    labels = faces.labels.copy()
    labels[faces.train[:10]] = -1
    faces = dataclasses.replace(faces, labels=labels)
    text = split_text(make_split(faces, "full", {}, 1), faces)
    assert row(text, "no label") == [0, 0, 10, 0, 0, 0]
    assert row(text, "all") == [44, 44, 10, 0, 20, 44]


def test_the_command_prints_and_writes(ferbench: Ferbench, tmp_path: Path) -> None:
    done = ferbench("split", "synthetic", "balanced:per_class=2,happiness=5", "--seed", 3, *TINY, "--out", "s.json")
    assert done.code == 0 and "wrote s.json" in done.out
    assert row(done.out, "happiness")[:2] == [5, 5] and row(done.out, "fear")[:2] == [2, 2]
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["parameters"] == {"per_class": 2, "exceptions": {"happiness": 5}} and document["seed"] == 3
    again = ferbench("split", "synthetic", "s.json", *TINY)
    fingerprint = re.findall(r"^fingerprint (\w+)$", done.out, re.MULTILINE)
    assert fingerprint and fingerprint == re.findall(r"^fingerprint (\w+)$", again.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nothing", "full"), "unknown data set 'nothing'"),
        (("synthetic", "half", *TINY), "unknown split recipe 'half'; valid: full, long_tailed, balanced"),
        (("synthetic", "balanced:per_class=many", *TINY), "--split: per_class must be a number, not 'many'"),
        (("synthetic", "balanced:per_class", *TINY), "per_class: write it as NAME=VALUE"),
        (("synthetic", "balanced:per_class=30", *TINY), "too few training images for split balanced"),
        (("synthetic", "full:happiness=3", *TINY), "split full: does not take 'exceptions'"),
        (
            ("synthetic", "full", *TINY, "--out", "/dev/null/s.json"),
            "File exists; name another file for the split",
        ),
    ],
    ids=["data set", "kind", "no number", "no value", "short", "exception", "out"],
)
def test_mistakes_are_one_line(ferbench: Ferbench, arguments: tuple[str, ...], expected: str) -> None:
    done = ferbench("split", *arguments)
    assert done.code == 2 and expected in done.error()
