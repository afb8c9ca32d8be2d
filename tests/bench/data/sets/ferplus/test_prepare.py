"""FERPlus from files to face set on copies of eleven random images, in both layouts, whole and damaged."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.sets.ferplus import prepare as ferplus_prepare
from ferbench.bench.data.sets.ferplus.labels import CLASSES, COLUMNS
from ferbench.bench.data.sets.readers import READERS, open_dataset, prepare_dataset
from ferbench.validation import resolve_options

FOLDERS = ("FER2013Train", "FER2013Valid", "FER2013Test")
USAGES = ("Training", "PublicTest", "PrivateTest")
# part, number, votes as {column: count}, number of the image whose pixels it shares
IMAGES: tuple[tuple[int, int, dict[str, int], int], ...] = (
    (0, 0, {"neutral": 10}, 0),
    (0, 1, {"happiness": 8, "surprise": 1, "anger": 1}, 1),
    (0, 2, {"contempt": 9, "neutral": 1}, 2),
    (0, 3, {"neutral": 4, "sadness": 3, "fear": 3}, 3),
    (0, 4, {"NF": 10}, 4),
    (0, 5, {"sadness": 9}, 0),
    (1, 6, {"surprise": 7, "contempt": 3}, 6),
    (1, 7, {"unknown": 9, "fear": 1}, 7),
    (2, 8, {"anger": 6, "contempt": 4}, 1),
    (2, 9, {"fear": 10}, 9),
    (2, 10, {"fear": 10}, 9),
)


def name(number: int) -> str:
    return f"fer{number:07d}.png"


def counts(votes: dict[str, int]) -> list[int]:
    return [votes.get(column, 0) for column in COLUMNS]


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (48, 48), dtype=np.uint8)


def rows() -> list[tuple[int, str, list[int], int]]:
    """fer2013new.csv: the images, one row without a name in train, and a second row for the name of image 9."""
    table = [(part, name(number), counts(votes), twin) for part, number, votes, twin in IMAGES]
    table.insert(2, (0, "", counts({"NF": 10}), 90))
    return [*table, (2, name(9), counts({"NF": 10}), 91)]


def write_new_csv(root: Path) -> None:
    with (root / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *COLUMNS])
        writer.writerows([USAGES[part], label, *votes] for part, label, votes, _ in rows())


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A copy with PNGs, label.csv in each folder and fer2013new.csv."""
    root = tmp_path / "folders"
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    for part, number, votes, twin in IMAGES:
        Image.fromarray(pixels(twin)).save(root / FOLDERS[part] / name(number))
        with (root / FOLDERS[part] / "label.csv").open("a", newline="") as file:
            csv.writer(file).writerow([name(number), "(0, 0, 48, 48)", *counts(votes)])
    write_new_csv(root)
    return root


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A copy with fer2013.csv and fer2013new.csv."""
    root = tmp_path / "table"
    root.mkdir()
    write_new_csv(root)
    with (root / "fer2013.csv").open("w", newline="") as file:
        csv.writer(file).writerow(["emotion", "pixels", "Usage"])
        for part, _, _, twin in rows():
            csv.writer(file).writerow([0, " ".join(map(str, pixels(twin).ravel())), USAGES[part]])
    return root


def opened(root: Path, **options: str | int) -> FaceSet:
    cache = root.parent / "cache"
    prepare_dataset("ferplus", {}, root=root, cache=cache, partial=True)
    return open_dataset("ferplus", options, root=root, cache=cache)


def test_face_set(folders: Path) -> None:
    data = opened(folders)
    assert data.classes == CLASSES and data.images.shape == (11, 48, 48, 1) and data.boxes is None
    assert data.ids.tolist() == [f"{FOLDERS[part]}/{name(number)}" for part, number, _, _ in IMAGES]
    for row, (_, _, _, twin) in enumerate(IMAGES):
        np.testing.assert_array_equal(data.images[row, :, :, 0], pixels(twin))
    assert data.parts.tolist() == [part for part, *_ in IMAGES]
    assert data.labels.tolist() == [0, 1, 7, -1, -1, 3, 2, -1, 4, 6, 6]
    assert data.train.tolist() == [0, 1, 2, 5] and data.test.tolist() == [8, 9, 10]
    assert data.votes is not None and data.votes[8].tolist() == [0, 0, 0, 0, 6, 0, 0, 4]


def test_layouts_give_the_same_face_set(folders: Path, table: Path) -> None:
    """Names are joined by row; the nameless row and the second of a name, with other pixels and votes, are left out."""
    one, other = opened(folders, source="new_csv"), opened(table, source="new_csv")
    np.testing.assert_array_equal(one.images, other.images)
    assert one.fingerprint == other.fingerprint


def test_icml_header(table: Path) -> None:
    expected = opened(table, source="new_csv").fingerprint
    lines = list(csv.reader((table / "fer2013.csv").open()))[1:]
    (table / "fer2013.csv").unlink()
    with (table / "icml_face_data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["emotion", " Usage", " pixels"], *([row[0], row[2], row[1]] for row in lines)])
    assert opened(table, source="new_csv").fingerprint == expected


def test_repository_layout(folders: Path) -> None:
    """In a clone of the labels' repository the folders lie in data/, fer2013new.csv beside it."""
    expected = opened(folders).fingerprint
    (folders / "data").mkdir()
    for folder in FOLDERS:
        (folders / folder).rename(folders / "data" / folder)
    assert opened(folders).fingerprint == expected


OPTIONS: tuple[tuple[dict[str, str | int], list[int], list[int]], ...] = (
    ({"classes": 7}, [0, 1, 5], [8, 9, 10]),
    ({"rule": "argmax10"}, [0, 1, 2, 3, 5], [8, 9, 10]),
    ({"rule": "argmax8"}, [0, 1, 2, 3, 5], [8, 9, 10]),
    ({"train_parts": "train+valid"}, [0, 1, 2, 5, 6], [8, 9, 10]),
    ({"test_parts": "valid+test"}, [0, 1, 2, 5], [6, 8, 9, 10]),
    ({"dedupe": "within"}, [0, 1, 2], [8, 9]),
    ({"dedupe": "cross"}, [0, 2], [8, 9]),
)


@pytest.mark.parametrize("options, train, test", OPTIONS, ids=lambda value: str(value) if type(value) is dict else "")
def test_options(folders: Path, options: dict[str, str | int], train: list[int], test: list[int]) -> None:
    data = opened(folders, **options)
    assert data.train.tolist() == train and data.test.tolist() == test
    assert data.options == resolve_options("ferplus", READERS["ferplus"].options, options, DataError)
    assert data.fingerprint != opened(folders).fingerprint


@pytest.mark.parametrize(
    "rule, shares", [("probability", [0.7, 0.3]), ("crossentropy", [0.7, 0.3]), ("multi_target", [1, 1])]
)
def test_targets(folders: Path, rule: str, shares: list[float]) -> None:
    """Surprise 7, contempt 3: both count; with seven classes contempt's share goes to surprise."""
    eight, seven = (opened(folders, rule=rule, classes=classes).votes for classes in (8, 7))
    assert eight is not None and eight[6].tolist() == pytest.approx([0, 0, shares[0], 0, 0, 0, 0, shares[1]])
    assert seven is not None and seven[6].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert eight[2].tolist() == [0] * 7 + [1] and seven[2].tolist() == [0] * 7


def test_placeholder(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ferplus_prepare, "PLACEHOLDER", f"FER2013Test/{name(9)}")
    monkeypatch.setattr(ferplus_prepare, "PLACEHOLDER_SHA256", hashlib.sha256(pixels(9).tobytes()).hexdigest())
    assert opened(folders).labels[9] == -1 and opened(folders).test.tolist() == [8, 10]
    assert opened(folders, placeholder="keep").test.tolist() == [8, 9, 10]
    report = prepare_dataset("ferplus", {}, root=folders, cache=folders.parent / "cache", partial=True)
    assert any("warning sign" in notice for notice in report.notices)


def test_second_preparation_decodes_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folders.parent / "cache"
    seen: list[tuple[int, int]] = []
    prepare_dataset("ferplus", {}, root=folders, cache=cache, partial=True, progress=lambda *at: seen.append(at))
    assert seen == [(11, 11)]
    monkeypatch.setattr(ferplus_prepare, "decode_pngs", None)
    assert prepare_dataset("ferplus", {}, root=folders, cache=cache, partial=True).cached


@pytest.mark.parametrize("change", ["touched", "label changed", "cache damaged"])
def test_changed_copy_is_decoded_again(folders: Path, change: str) -> None:
    cache = folders.parent / "cache"
    first = prepare_dataset("ferplus", {}, root=folders, cache=cache, partial=True)
    image, labels = folders / FOLDERS[0] / name(3), folders / FOLDERS[0] / "label.csv"
    if change == "touched":
        os.utime(image, (0, 0))
    elif change == "label changed":
        labels.write_text(labels.read_text().replace("10", "9"))
    else:
        (Path(str(first.folder)) / "index.npz").write_bytes(b"")
    again = prepare_dataset("ferplus", {}, root=folders, cache=cache, partial=True)
    assert not again.cached and (again.folder == first.folder) == (change == "cache damaged")


def test_report(folders: Path) -> None:
    report = prepare_dataset(
        "ferplus", {"rule": "majority"}, root=folders, cache=folders.parent / "cache", partial=True
    )
    text = report.text()
    assert "classes: 0=neutral 1=happiness 2=surprise 3=sadness 4=anger 5=disgust 6=fear 7=contempt" in text
    assert {row.name: row.found for row in report.counts}["fear"] == (0, 0, 2)
    assert "2 [86]" in text and "NOT a known version" in text and str(report.folder) in text
    assert (
        "3 groups of pixel-identical images, 3 redundant images; 1 test and 0 valid images equal a train image" in text
    )
    assert "under these options 1 of 3 test images" in text and "2 groups carry conflicting labels" in text
    assert "new_csv: 1 rows name no image" in text and "7/2/4 named rows" not in text and "6/2/4 named rows" in text
    assert report.fingerprint in text and json.loads(json.dumps(report.json()))["train"] == 4


def replace_votes(root: Path, order: list[int]) -> None:
    for folder in FOLDERS:
        path = root / folder / "label.csv"
        lines = list(csv.reader(path.open()))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([row[0], row[1], *(row[2 + column] for column in order)] for row in lines)


def repaint(root: Path, size: int, mode: str) -> None:
    Image.new(mode, (size, size)).save(root / FOLDERS[1] / name(6))


def remove(pattern: str) -> Callable[[Path], None]:
    def remove_from(root: Path) -> None:
        for path in root.glob(pattern):
            path.unlink()

    return remove_from


def overwrite(data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / FOLDERS[0] / name(1)).write_bytes(data)


SCRAMBLED = [6, 3, 1, 0, 2, 4, 5, 9, 7, 8]
FAULTS: dict[str, tuple[Callable[[Path], object], bool, str]] = {  # what breaks it, accepting partial copies?, message
    "root gone": (shutil.rmtree, True, "no such folder"),
    "no images": (remove("*/*.png"), True, "no FERPlus images in"),
    "no labels": (remove("**/*.csv"), True, "no label files in"),
    "one label file gone": (remove("FER2013Valid/label.csv"), True, "FER2013Valid/label.csv missing"),
    "folder missing": (lambda root: shutil.rmtree(root / FOLDERS[2]), True, "FER2013Test/label.csv missing"),
    "image missing": (remove("*/fer0000001.png"), False, "1 x missing image of train: FER2013Train/fer0000001"),
    "image empty": (overwrite(b""), True, "1 x zero-byte image: FER2013Train/fer0000001.png"),
    "image no PNG": (overwrite(b"GIF8"), True, "1 x damaged image: FER2013Train/fer0000001.png"),
    "image cut": (lambda root: os.truncate(root / FOLDERS[0] / name(1), 900), True, "1 x damaged image: FER2013Train"),
    "image large": (lambda root: repaint(root, 224, "L"), True, "fer0000006.png is 224x224 L"),
    "image in colour": (lambda root: repaint(root, 48, "RGB"), True, "fer0000006.png is 48x48 RGB"),
    "columns in another order": (lambda root: replace_votes(root, SCRAMBLED), True, "its columns must be"),
    "names of another copy": (lambda root: rename(root), True, "name none of its 11 images"),
    "other counts": (lambda root: None, False, "label_csv majority train neutral: 1 rows, published 8,733"),
}


def rename(root: Path) -> None:
    for path in root.glob("*/*.png"):
        path.rename(path.with_name("x" + path.name))


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_folders(folders: Path, fault: str) -> None:
    break_it, even_partial, message = FAULTS[fault]
    break_it(folders)
    with pytest.raises(DataError) as raised:
        prepare_dataset("ferplus", {}, root=folders, cache=folders.parent / "cache", partial=even_partial)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_partial_copy(folders: Path) -> None:
    (folders / FOLDERS[0] / name(1)).unlink()
    shutil.copy(folders / FOLDERS[0] / name(2), folders / FOLDERS[0] / "stray.png")
    report = prepare_dataset("ferplus", {}, root=folders, cache=folders.parent / "cache", partial=True)
    assert report.images == 10 and report.differences[0] == "1 x missing image of train: FER2013Train/fer0000001.png"
    assert "1 x image that no label file names, left out: FER2013Train/stray.png" in report.notices


TABLE_FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "rows missing": (lambda text: "\r\n".join(text.split("\r\n")[:-3]), "fer2013new.csv is longer"),
    "rows too many": (lambda text: text + text.split("\r\n")[-2], "fer2013.csv is longer"),
    "order changed": (lambda text: text.replace("Training", "PublicTest", 1), "row 1 is PublicTest, in fer2013new.csv"),
    "cut in a row": (lambda text: text[:-700], "is the file cut short"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_fault_in_table(table: Path, fault: str) -> None:
    break_it, message = TABLE_FAULTS[fault]
    path = table / "fer2013.csv"
    path.write_bytes(break_it(path.read_bytes().decode()).encode())
    with pytest.raises(DataError, match=message):
        opened(table)
    assert not list((table.parent / "cache").glob("ferplus*"))


def test_table_without_names(table: Path) -> None:
    (table / "fer2013new.csv").unlink()
    with pytest.raises(DataError, match="put fer2013new.csv from https"):
        opened(table)


def test_table_has_no_label_csv(table: Path) -> None:
    with pytest.raises(DataError, match="source=label_csv needs label.csv of each folder.*choose source=new_csv"):
        opened(table, source="label_csv")
    report = prepare_dataset("ferplus", {}, root=table, cache=table.parent / "cache", partial=True)
    assert report.options["source"] == "new_csv"


def test_another_size(folders: Path) -> None:
    """A resized copy, made once; the option at its default leaves options and fingerprint as they were before it."""
    own, large = opened(folders), opened(folders, size=64)
    assert large.images.shape == (11, 64, 64, 1) and large.options["size"] == 64
    expected = Image.fromarray(pixels(0)).resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(large.images[0, :, :, 0], np.asarray(expected))
    assert "size" not in own.options and opened(folders, size=0).fingerprint == own.fingerprint != large.fingerprint
    assert len(list((folders.parent / "cache").glob("ferplus-*-64px"))) == 1
    with pytest.raises(DataError, match="option 'size' for ferplus must be 0 or 16 to 512, not 5"):
        opened(folders, size=5)
