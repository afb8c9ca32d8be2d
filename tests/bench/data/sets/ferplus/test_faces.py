"""FERPlus with face boxes: where they come from, and that nothing else about the data set changes with them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.preparing.faces import face_boxes
from ferbench.bench.data.preparing.faces.detect import Detector, Face
from ferbench.bench.data.sets.ferplus.reader import open_ferplus
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

FakeCopy = Callable[..., Path]


@pytest.fixture
def root(fake_copy: FakeCopy, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)
    copy = fake_copy("ferplus")
    prepare_dataset("ferplus", {}, root=copy, cache=copy.parent / "cache", partial=True)
    return copy


def opened(root: Path, **options: Any) -> FaceSet:
    return open_dataset("ferplus", options, root=root, cache=root.parent / "cache")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Image.Image]:
    """A detector that finds a box in every image but a few; the images it was shown."""
    shown: list[Image.Image] = []

    def find(image: Image.Image) -> list[Face]:
        shown.append(image)
        edge = int(np.asarray(image)[5, 5, 0]) % 8
        return [Face(np.array([edge, 2 * edge, 40, 47], np.float32))] if edge else []

    def load(name: str, close_up: bool) -> Detector:
        assert close_up  # 48 pixels a side
        return Detector(name, "1.0", find)

    monkeypatch.setattr(face_boxes, "load_detector", load)
    return shown


def expected(images: np.ndarray) -> np.ndarray:
    edge = images[:, 5, 5, 0].astype(np.float32) % 8
    boxes = np.stack([edge, 2 * edge, np.full_like(edge, 40), np.full_like(edge, 47)], axis=1)
    boxes[edge == 0] = np.nan
    return boxes


def test_boxes_of_a_detector(root: Path, looks: list[Image.Image]) -> None:
    plain, found = opened(root), opened(root, faces="haar")
    assert plain.boxes is None and "faces" not in plain.options and found.options["faces"] == "haar"
    assert found.boxes is not None and found.boxes.dtype == np.float32
    np.testing.assert_array_equal(found.images, plain.images)  # nothing is cropped
    np.testing.assert_allclose(found.boxes, expected(plain.images), atol=0.01)
    assert len(np.unique(found.boxes[~np.isnan(found.boxes).any(axis=1)], axis=0)) > 2
    assert len(looks) == len(plain.images) and looks[0].mode == "RGB"
    opened(root, faces="haar", classes=7)
    assert len(looks) == len(plain.images)  # each image is looked at once


def test_boxes_are_part_of_the_identity_only_where_asked_for(root: Path, looks: list[Image.Image]) -> None:
    plain = opened(root)
    assert opened(root, faces="none").fingerprint == plain.fingerprint
    assert opened(root, faces="none").options == plain.options
    assert opened(root, faces="haar").fingerprint != plain.fingerprint
    assert not opened(root, faces="none").boxes and plain.options.keys() == {
        "source", "rule", "classes", "train_parts", "test_parts", "dedupe", "placeholder",
    }  # fmt: skip


def test_boxes_follow_the_stored_size(root: Path, looks: list[Image.Image]) -> None:
    own, larger = opened(root, faces="mtcnn"), opened(root, faces="mtcnn", size=96)
    assert own.boxes is not None and larger.boxes is not None and larger.images.shape[1] == 96
    np.testing.assert_allclose(larger.boxes, 2 * own.boxes)


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_boxes_of_the_user(fake_copy: FakeCopy, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)
    copy = fake_copy("ferplus", layout)
    cache = copy.parent / "cache"
    monkeypatch.chdir(copy.parent)
    prepare_dataset("ferplus", {}, root=Path(copy.name), cache=cache, partial=True)
    monkeypatch.chdir("/")  # a root that was given relative to another folder is found all the same
    with pytest.raises(DataError, match=f"faces=csv: no {copy}/faces.csv; write it with a header path,x1,y1,x2,y2"):
        open_dataset("ferplus", {"source": "new_csv", "faces": "csv"}, cache=cache)
    (copy / "faces.csv").write_text("path,x1,y1,x2,y2\nFER2013Train/fer0000001.png,3,4,40,44.5\n")
    data = open_dataset("ferplus", {"source": "new_csv", "faces": "csv"}, cache=cache)
    assert data.boxes is not None
    (row,) = np.flatnonzero(~np.isnan(data.boxes).any(axis=1))
    assert data.ids[row] == "FER2013Train/fer0000001.png" and data.boxes[row].tolist() == [3, 4, 40, 44.5]


def test_preparing_looks_for_faces_and_reports_them(root: Path, looks: list[Image.Image]) -> None:
    seen: list[tuple[int, int]] = []
    report = prepare_dataset(
        "ferplus", {"faces": "haar"}, root=root, cache=root.parent / "cache", partial=True,
        progress=lambda *at: seen.append(at),
    )  # fmt: skip
    assert seen[-1] == (report.images, report.images)
    unknown = int(np.isnan(expected(opened(root).images)).any(axis=1).sum())
    (line,) = [line for line in report.notices if line.startswith("haar 1.0")]
    assert f"one face in {report.images - unknown} images, none in {unknown}, several in 0" in line
    assert "options: " in report.text() and "faces=haar" in report.text()


def test_a_missing_detector_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch, ferbench: Any) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setenv("FERBENCH_CACHE", str(root.parent / "cache"))
    line = ferbench("prepare", "ferplus", "--root", root, "--partial", "--option", "faces=haar").error()
    assert "faces=haar cannot be used" in line and "pip install 'ferbench[detect]'" in line
    assert "valid: none, csv, haar, mtcnn" in ferbench("prepare", "ferplus", "--option", "faces=yolo").error()
    with pytest.raises(DataError, match="faces=haar cannot be used"):
        opened(root, faces="haar")


def test_keyword_of_the_reader(root: Path, looks: list[Image.Image]) -> None:
    report = prepare_dataset("ferplus", {}, root=root, cache=root.parent / "cache", partial=True)
    data = open_ferplus(Path(str(report.folder)), faces="haar")
    assert data.boxes is not None and data.options == opened(root, faces="haar").options
