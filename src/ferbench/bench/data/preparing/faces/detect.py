"""Face detectors, each imported only when asked for: ferbench itself needs none.

haar   OpenCV's frontal-face cascade, which lies in the wheel of opencv-python-headless 4 (extra `detect`). The image
       gets a grey border of 25 % first: on tight crops the cascade finds little without one. No landmarks.
       Small close-ups of one face each (FERPlus) are enlarged first and searched in finer steps for large faces alone.
mtcnn  Zhang et al., 2016, as facenet-pytorch packs it, weights included. Its pins are older than our dependencies:
       `pip install requests tqdm`, then `pip install --no-deps facenet-pytorch==2.6.0` works.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ferbench.bench.data.faceset import DataError

BORDER = 0.25  # of the image's sides, before the cascade looks
GREY = 127
CASCADE = "haarcascade_frontalface_default.xml"
CLOSE_UP = 4  # times a small close-up is enlarged before a detector looks


@dataclass(frozen=True)
class Face:
    """A detected face: box [4] x1, y1, x2, y2 and landmarks [5, 2] or None, in pixels of the image it was found in."""

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32] | None = None

    @property
    def area(self) -> float:
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


@dataclass(frozen=True)
class Detector:
    """A detector by name and version; `find` takes an RGB image, from any thread, and returns all faces in it."""

    name: str
    version: str
    find: Callable[[Image.Image], list[Face]]


@dataclass(frozen=True)
class Search:
    """How the cascade searches: step between sizes, hits that make a face, smallest face as a share of the image."""

    step: float
    neighbours: int
    smallest: float


SEARCH = Search(1.1, 5, 0.2)
CLOSE_UP_SEARCH = Search(1.05, 3, 0.4)  # finds a face in 83 % of FERPlus; SEARCH in 65 % of a sample, enlarged 77 %


def load_detector(name: str, close_up: bool = False) -> Detector:
    """The detector `haar` or `mtcnn`; close_up: for small images that one face fills. Raises DataError that says what
    to install."""
    if not close_up:
        return _haar(SEARCH) if name == "haar" else _mtcnn()
    return enlarged(_haar(CLOSE_UP_SEARCH) if name == "haar" else _mtcnn(), CLOSE_UP)


def enlarged(detector: Detector, times: int) -> Detector:
    """The detector looking at each image `times` as large; what it finds comes back in the pixels of the image."""

    def find(image: Image.Image) -> list[Face]:
        larger = image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC)
        smaller = np.float32(1 / times)
        return [
            Face(smaller * face.box, None if face.landmarks is None else smaller * face.landmarks)
            for face in detector.find(larger)
        ]

    return Detector(detector.name, f"{detector.version}, enlarged {times} times", find)


def _haar(search: Search) -> Detector:
    install = "pip install 'ferbench[detect]' (opencv-python-headless>=4.10,<5), or give boxes in faces.csv"
    cv2 = _import("cv2", "haar", install)
    path = Path(str(getattr(getattr(cv2, "data", None), "haarcascades", ""))) / CASCADE
    if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
        raise DataError(f"faces=haar: OpenCV {cv2.__version__} has no Haar cascades any more; {install}")
    cv2.setNumThreads(1)
    local = threading.local()  # a cascade must not be used by two threads at once

    def find(image: Image.Image) -> list[Face]:
        if not hasattr(local, "cascade"):
            local.cascade = cv2.CascadeClassifier(str(path))
        left, top = round(BORDER * image.width), round(BORDER * image.height)
        grey = ImageOps.expand(image.convert("L"), (left, top, left, top), fill=GREY)
        smallest = max(int(search.smallest * min(image.size)), 12)
        found = local.cascade.detectMultiScale(
            np.asarray(grey), scaleFactor=search.step, minNeighbors=search.neighbours, minSize=(smallest, smallest)
        )
        corners = [(x - left, y - top, x - left + width, y - top + height) for x, y, width, height in found]
        return [Face(np.array(box, np.float32)) for box in corners]

    return Detector("haar", str(cv2.__version__), find)


def _mtcnn() -> Detector:
    install = "pip install requests tqdm, then pip install --no-deps facenet-pytorch==2.6.0, or give boxes in faces.csv"
    module = _import("facenet_pytorch", "mtcnn", install)
    model = module.MTCNN(keep_all=True, device="cpu")
    lock = threading.Lock()

    def find(image: Image.Image) -> list[Face]:
        try:
            with lock:
                boxes, _, points = model.detect(image.convert("RGB"), landmarks=True)
        except ValueError:  # what it raises for an image smaller than its smallest face
            return []
        if boxes is None:
            return []
        pairs = zip(np.asarray(boxes, np.float32), np.asarray(points, np.float32), strict=True)
        return [Face(box, landmarks) for box, landmarks in pairs]

    return Detector("mtcnn", f"facenet-pytorch {_version('facenet-pytorch')}", find)


def _import(module: str, detector: str, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"faces={detector} cannot be used ({' '.join(str(error).split())}): {install}") from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
