"""Boxes and landmarks from the user's file or from a detector, cached and resumed; detectors are stubs but for one."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.faces import detect, face_boxes
from ferbench.bench.data.preparing.faces.detect import Detector, Face, load_detector
from ferbench.bench.data.preparing.faces.face_boxes import BOX, POINTS, find_faces, parse_faces, source_key
from ferbench.bench.data.reading.listing import Listing
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

FakeCopy = Callable[..., Path]


@pytest.fixture
def copy(tmp_path: Path) -> Listing:
    """Four pictures of 40 x 30; the last is unreadable."""
    for number in range(3):
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_text("no image")
    ids = np.array([f"{number}.png" for number in range(4)])
    return Listing("four", tmp_path, "flat", ids, np.zeros(4, np.int8), np.zeros(4, np.int64), ("x",))


def found(copy: Listing, faces: str) -> face_boxes.Faces:
    return find_faces(copy, faces, copy.root / "cache", "k" * 64)


def test_users_file(copy: Listing) -> None:
    (copy.root / "faces.csv").write_text("x2,path,x1,y1,Y2\n30,1.png,1,2,20\n,2.png,,,\n9,other.png,1,1,9\n")
    faces = found(copy, "csv")
    assert faces.boxes is not None and faces.landmarks is None
    assert faces.boxes[1].tolist() == [1, 2, 30, 20] and np.isnan(faces.boxes[[0, 2, 3]]).all()
    assert faces.notes == ("faces.csv: 1 paths are no images of this copy, first 'other.png'",)
    before = source_key(copy, "csv")
    (copy.root / "faces.csv").write_text("path,x1,y1,x2,y2\n")
    assert source_key(copy, "csv") != before


def test_users_landmarks(copy: Listing) -> None:
    cells = ",".join(map(str, range(10)))
    (copy.root / "faces.csv").write_text(f"path,x1,y1,x2,y2,{','.join(POINTS)}\n0.png,1,2,30,20,{cells}\n")
    faces = found(copy, "csv")
    assert faces.landmarks is not None and faces.landmarks[0].tolist() == np.arange(10).reshape(5, 2).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one column each of path, x1, y1, x2, y2; wrong: path, x1, y1, x2, y2"),
        ("path,x1,y1,x2\na,1,2,3\n", "wrong: y2"),
        ("path,x1,y1,x2,y2\na,1,2,3\n", "line 2: 4 fields, expected 5"),
        ("path,x1,y1,x2,y2\na,1,2,x,4\n", "line 2: x2 'x' is not a number"),
        ("path,x1,y1,x2,y2\na,3,2,1,4\n", "line 2: a box needs x1 < x2 and y1 < y2, in pixels"),
        ("path,x1,y1,x2,y2\na,3,2,,\n", "line 2: a box needs x1 < x2 and y1 < y2, in pixels"),
        ('path,x1,y1,x2,y2\n"a,3,2,5,6\n', "line 2: unexpected end of data"),
    ],
)
def test_bad_files(copy: Listing, text: str, message: str) -> None:
    (copy.root / "faces.csv").write_text(text)
    with pytest.raises(DataError) as error:
        found(copy, "csv")
    assert message in str(error.value)


def counting_detector(monkeypatch: pytest.MonkeyPatch, version: str = "1.0") -> list[int]:
    """A detector that finds as many faces as the picture is red, the last the largest, and counts its calls."""
    looks: list[int] = []

    def find(image: Image.Image) -> list[Face]:
        looks.append(1)
        faces = np.asarray(image)[0, 0, 0] // 60
        return [Face(np.array([0, 0, 5 + k, 6], np.float32), np.full((5, 2), k, np.float32)) for k in range(faces)]

    monkeypatch.setattr(face_boxes, "load_detector", lambda name, close_up=False: Detector(name, version, find))
    return looks


def test_detections_are_cached_by_version(copy: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = counting_detector(monkeypatch)
    first = found(copy, "haar")
    assert first.source == "haar 1.0" and first.boxes is not None and first.landmarks is not None
    assert np.isnan(first.boxes[[0, 3]]).all() and first.boxes[1:3, 2].tolist() == [5, 6]
    assert first.landmarks[2, 0, 0] == 1
    assert first.notes == ("haar 1.0: one face in 1 images, none in 2, several in 1 (the largest is taken)",)
    again = found(copy, "haar")
    assert len(looks) == 3  # the unreadable image never reaches it
    np.testing.assert_array_equal(again.boxes, first.boxes)
    counting_detector(monkeypatch, "2.0")
    found(copy, "haar")
    assert len(list((copy.root / "cache").glob("faces-four-*"))) == 2


def test_killed_detection_goes_on(copy: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line cut short is looked at again, whole ones are not."""
    looks = counting_detector(monkeypatch)
    expected = found(copy, "haar")
    (path,) = (copy.root / "cache").glob("faces-four-*")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:4])
    looks.clear()
    np.testing.assert_array_equal(found(copy, "haar").boxes, expected.boxes)
    assert len(looks) == 1
    path.write_bytes(b"garbage\n")
    np.testing.assert_array_equal(found(copy, "haar").boxes, expected.boxes)


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))


@pytest.mark.parametrize(("detector", "package"), [("haar", "cv2"), ("mtcnn", "facenet_pytorch")])
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, detector: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DataError, match=rf"faces={detector} cannot be used .*: pip install .*or give boxes in faces.csv"
    ):
        load_detector(detector)


def test_opencv_without_cascades(monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, "cv2", __version__="5.0.0", data=SimpleNamespace())
    with pytest.raises(DataError, match="OpenCV 5.0.0 has no Haar cascades any more; pip install"):
        load_detector("haar")


def test_haar_looks_at_a_padded_grey_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The box comes back in the pixels of the image without its border."""
    seen: list[np.ndarray] = []

    class Cascade:
        def __init__(self, path: str) -> None:
            assert path.endswith(detect.CASCADE)

        def detectMultiScale(self, image: np.ndarray, **_: Any) -> np.ndarray:  # noqa: N802
            seen.append(image)
            return np.array([[12, 9, 20, 15]])

    (tmp_path / detect.CASCADE).touch()
    data = SimpleNamespace(haarcascades=f"{tmp_path}/")
    stub(monkeypatch, "cv2", __version__="4.12", data=data, CascadeClassifier=Cascade, setNumThreads=lambda _: None)
    (face,) = load_detector("haar").find(Image.new("RGB", (40, 20)))
    assert seen[0].shape == (30, 60) and (seen[0][:5] == detect.GREY).all() and (seen[0][5:25, 10:50] == 0).all()
    assert face.box.tolist() == [2, 4, 22, 19] and face.landmarks is None


def test_small_close_ups_are_enlarged_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FERPlus: the cascade sees 4 x 48 pixels and their border, looks for large faces alone, and boxes come back."""
    seen: list[tuple[tuple[int, ...], dict[str, Any]]] = []

    class Cascade:
        def __init__(self, path: str) -> None:
            pass

        def detectMultiScale(self, image: np.ndarray, **search: Any) -> np.ndarray:  # noqa: N802
            seen.append((image.shape, search))
            return np.array([[48 + 8, 48 + 20, 160, 150]])

    (tmp_path / detect.CASCADE).touch()
    data = SimpleNamespace(haarcascades=f"{tmp_path}/")
    stub(monkeypatch, "cv2", __version__="4.12", data=data, CascadeClassifier=Cascade, setNumThreads=lambda _: None)
    detector = load_detector("haar", close_up=True)
    (face,) = detector.find(Image.new("RGB", (48, 48)))
    assert face.box.tolist() == [2, 5, 42, 42.5]
    assert seen == [((288, 288), {"scaleFactor": 1.05, "minNeighbors": 3, "minSize": (76, 76)})]
    assert detector.version != load_detector("haar").version  # so that neither is taken for the other in the cache


def test_landmarks_come_back_in_the_pixels_of_the_image() -> None:
    points = np.arange(10, dtype=np.float32).reshape(5, 2)
    plain = Detector("d", "1", lambda image: [Face(np.array([0, 0, image.width, 8], np.float32), points)])
    (face,) = detect.enlarged(plain, 4).find(Image.new("RGB", (30, 20)))
    assert face.box.tolist() == [0, 0, 30, 2] and face.landmarks is not None
    np.testing.assert_array_equal(face.landmarks, points / 4)


def test_quirks_of_mtcnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """None for no face, ValueError for a small image, arrays of objects, and colour images only."""

    class Model:
        def __init__(self, **_: Any) -> None:
            pass

        def detect(self, image: Image.Image, landmarks: bool) -> Any:
            assert image.mode == "RGB" and landmarks
            if image.width < 20:
                raise ValueError("torch.cat(): expected a non-empty list of Tensors")
            if image.width < 40:
                return None, [None], None
            boxes = np.array([[1.0, 2.0, 9.0, 9.0]], dtype=object)
            return boxes, [0.99], np.ones((1, 5, 2), dtype=object)

    stub(monkeypatch, "facenet_pytorch", MTCNN=Model)
    mtcnn = load_detector("mtcnn")
    assert mtcnn.find(Image.new("L", (10, 10))) == [] == mtcnn.find(Image.new("RGB", (30, 30)))
    (face,) = mtcnn.find(Image.new("L", (50, 50)))
    assert face.box.dtype == np.float32 and face.landmarks is not None and face.landmarks.shape == (5, 2)


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="opencv-python-headless is not installed")
def test_the_real_cascade_runs() -> None:
    """On a drawn face; whether it sees one depends on the version, boxes must lie near it if so."""
    image = Image.new("RGB", (160, 160), (90, 90, 90))
    pen = ImageDraw.Draw(image)
    pen.ellipse((30, 20, 130, 150), fill=(220, 190, 170))
    for x in (60, 100):
        pen.ellipse((x - 10, 62, x + 10, 74), fill=(40, 30, 30))
    pen.ellipse((60, 112, 100, 122), fill=(120, 40, 40))
    for face in load_detector("haar").find(image):
        assert (face.box > -50).all() and (face.box < 210).all()


def test_a_whole_set_cropped_by_the_users_boxes(fake_copy: FakeCopy) -> None:
    root = fake_copy("rafdb")
    base = root / "basic"
    rows = [f"Image/aligned/train_{n:05d}_aligned.jpg,10,10,60,60" for n in range(1, 22)]
    (base / "faces.csv").write_text("\n".join([",".join(("path", *BOX)), *rows]))
    options: dict[str, Any] = {"faces": "csv", "crop": "box", "size": 48}
    report = prepare_dataset("rafdb", options, root=root, cache=root.parent / "cache", partial=True)
    assert report.decoding["boxes from"] == "faces.csv" and report.decoding["default boxes"] == 0.25
    data = open_dataset("rafdb", options, root=root, cache=root.parent / "cache")
    image = Image.open(base / "Image/aligned/train_00001_aligned.jpg")
    cut = image.resize((48, 48), Image.Resampling.BILINEAR, box=(10, 10, 60, 60))
    np.testing.assert_array_equal(data.images[0], np.asarray(cut))
    assert "default boxes 0.25" in report.text()


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=60), st.lists(st.sampled_from(["a", "1", "-2.5", "nan", "1e9", "", '"', "\n", ","]), max_size=20)
)
def test_any_text_is_boxes_or_refused(text: str, cells: list[str]) -> None:
    for content in (text, "path,x1,y1,x2,y2\n" + ",".join(cells)):
        try:
            rows = parse_faces(content, "f")
        except DataError as error:
            assert str(error).startswith("f line ")
        else:
            assert all(np.isnan(values).all() or values[0] < values[2] for values, _ in rows.values())
