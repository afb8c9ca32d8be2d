"""Face detectors, each imported only when asked for: ferbench itself needs none.

haar   OpenCV's frontal-face cascade, which lies in the wheel of opencv-python-headless 4 (extra `detect`). The image
       gets a grey border of 25 % first: on tight crops the cascade finds little without one. No landmarks.
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


def load_detector(name: str) -> Detector:
    """The detector `haar` or `mtcnn`. Raises DataError that says what to install."""
    return {"haar": _haar, "mtcnn": _mtcnn}[name]()


def _haar() -> Detector:
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
        smallest = max(min(image.size) // 5, 12)
        found = local.cascade.detectMultiScale(
            np.asarray(grey), scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest)
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
