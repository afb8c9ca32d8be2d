"""The user's files after they were prepared: what changed is noticed by the next command that opens the set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.sets.fake import save_face
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

FakeCopy = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    rows = ["path,label,part"]
    for label, word in enumerate(("neutral", "happy", "sad")):
        for number in range(6):
            save_face(root / "images" / f"{label}_{number}.png", label, number)
            rows.append(f"images/{label}_{number}.png,{word},{'train' if number < 4 else 'test'}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


def prepared(dataset: str, root: Path) -> Path:
    prepare_dataset(dataset, {}, root=root, cache=root.parent / "cache", partial=True)
    return root


def reopened(dataset: str, root: Path, by_root: bool = True) -> None:
    open_dataset(dataset, {}, root=root if by_root else None, cache=root.parent / "cache")


def mend(root: Path) -> None:
    path = root / "labels.csv"
    path.write_text(path.read_text().replace("0_3.png,neutral", "0_3.png,happy"))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "labels mended": (mend, "labels.csv has other content"),
    "labels gone": (lambda root: (root / "labels.csv").unlink(), "labels.csv is gone"),
    "an image added": (lambda root: save_face(root / "images/new.png", 0, 77), "images/ has 19 images, not 18"),
    "an image removed": (lambda root: (root / "images/0_0.png").unlink(), "images/ has 17 images, not 18"),
    "an image renamed": (
        lambda root: (root / "images/0_0.png").rename(root / "images/9_9.png"),
        "images/ has other names",
    ),
    "the folder moved": (lambda root: (root / "images").rename(root / "pictures"), "images/ has 0 images, not 18"),
}


@pytest.mark.parametrize("by_root", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_one_line(table: Path, change: str, by_root: bool) -> None:
    prepared("csv", table)
    reopened("csv", table, by_root)
    CHANGES[change][0](table)
    with pytest.raises(DataError) as caught:
        reopened("csv", table, by_root)
    assert CHANGES[change][1] in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"run `ferbench prepare csv --root {table}`")


def test_mended_labels_count_once_they_are_prepared(table: Path) -> None:
    prepared("csv", table)
    before = open_dataset("csv", {}, root=table, cache=table.parent / "cache")
    mend(table)
    prepared("csv", table)
    after = open_dataset("csv", {}, root=table, cache=table.parent / "cache")
    assert before.class_counts(before.train)["happiness"] == 4 and after.class_counts(after.train)["happiness"] == 5
    assert before.fingerprint != after.fingerprint and before.pixels == after.pixels


@pytest.mark.parametrize("what", ["touched", "other files", "elsewhere", "gone"])
def test_what_is_no_change(table: Path, what: str) -> None:
    """A label file that was only touched, files that are no images, images elsewhere; a copy gone as a whole."""
    prepared("csv", table)
    if what == "touched":
        os.utime(table / "labels.csv", (1, 1))
    elif what == "other files":
        (table / "images" / "notes.txt").write_text("x")
    elif what == "elsewhere":
        save_face(table / "results" / "plot.png", 0, 1)
    else:
        shutil.rmtree(table)
    reopened("csv", table)


def test_a_new_class_folder_is_noticed(fake_copy: FakeCopy) -> None:
    root = prepared("folder", fake_copy("folder"))
    shutil.copytree(root / "train" / "Fear", root / "train" / "Contempt")
    with pytest.raises(DataError, match="train/Contempt/ has 3 images, not 0"):
        reopened("folder", root)


@pytest.mark.parametrize("by_root", [True, False])
def test_ferplus(fake_copy: FakeCopy, by_root: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)
    root = prepared("ferplus", fake_copy("ferplus"))
    reopened("ferplus", root, by_root)
    path = root / "FER2013Train" / "label.csv"
    path.write_text(path.read_text().replace("10", "9", 1))
    with pytest.raises(DataError, match="FER2013Train/label.csv has other content.*prepare ferplus"):
        reopened("ferplus", root, by_root)
    prepared("ferplus", root)
    sorted((root / "FER2013Valid").glob("*.png"))[0].unlink()
    with pytest.raises(DataError, match="FER2013Valid/ has .* images, not"):
        reopened("ferplus", root, by_root)


def test_noise_lists_and_annotations_are_label_files(fake_copy: FakeCopy) -> None:
    root = fake_copy("ckplus")
    prepared("ckplus", root)
    path = sorted(root.rglob("*_emotion.txt"))[0]
    path.write_text("   1.0000000e+00\n" if "1.0" not in path.read_text() else "   3.0000000e+00\n")
    with pytest.raises(DataError, match="_emotion.txt has other content"):
        reopened("ckplus", root)
