"""The form in which a listing's images are stored: size, channels and crop, as asked for or as the images have them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.decode import GREY_MODES, MOST_BYTES, BadImage, Settings, header, strict_limits
from ferbench.bench.data.preparing.faces.face_boxes import Faces
from ferbench.bench.data.reading.listing import Listing, Options
from ferbench.bench.files import FileError, read_bytes

SAMPLE = 256  # headers that decide on the stored size and channels
NEARLY_ALL = 0.99  # share of them that must have one size for the images to keep it
LARGEST_OWN = 256  # pixels a side up to which images keep their own size
OTHER_SIZE = 224  # pixels a side of images that do not share one size
SMALLEST, LARGEST = 16, 512


def check_options(dataset: str, decoding: Options) -> None:
    size, margin = decoding["size"], decoding["margin"]
    if size != 0 and not SMALLEST <= int(size) <= LARGEST:
        raise DataError(f"option 'size' for {dataset} must be 0 or {SMALLEST} to {LARGEST}, not {size}")
    if not 0 <= int(margin) <= 200:
        raise DataError(f"option 'margin' for {dataset} must be from 0 to 200, not {margin}")
    if decoding["crop"] in ("box", "align") and decoding["faces"] == "none":
        raise DataError(f"option 'crop'={decoding['crop']} for {dataset} needs boxes: faces=none gives none")


def choose_crop(listing: Listing, decoding: Options, faces: Faces) -> str:
    """The crop to make: none, box or align. Raises DataError where what it needs is not known."""
    crop, source = str(decoding["crop"]), decoding["faces"]
    if crop == "auto":
        return "box" if listing.uncropped and faces.boxes is not None else "none"
    if crop == "box" and faces.boxes is None:
        raise DataError(f"{listing.dataset}: crop=box, but this copy ({listing.layout}) has no boxes; see option faces")
    if crop == "align" and faces.landmarks is None:
        raise DataError(f"{listing.dataset}: crop=align needs landmarks, and faces={source} gives none for this copy")
    return crop


def crop_warning(listing: Listing, crop: str) -> list[str]:
    """A line where faces are smaller in the picture than the papers have them."""
    if crop != "none" or not listing.uncropped:
        return []
    return ["the images show more than the face and are not cropped; see options crop and faces"]


def choose_settings(listing: Listing, decoding: Options, crop: str) -> tuple[Settings, bool]:
    """Size and channels as asked for, else as a sample of the images has them; whether the size is their own."""
    rows = np.unique(np.linspace(0, len(listing.ids) - 1, SAMPLE).astype(np.int64))
    shapes, grey = Counter[tuple[int, int]](), True
    with strict_limits():
        for row in map(int, rows):
            try:
                width, height, mode = header(read_image(listing, row))
            except BadImage:
                continue
            shapes[width, height] += 1
            grey &= mode in GREY_MODES
    if not shapes:
        raise DataError(f"{listing.root}: none of the {len(rows)} images looked at is an image ferbench can read")
    (width, height), count = shapes.most_common(1)[0]
    shared = count >= NEARLY_ALL * shapes.total() and width == height and SMALLEST <= width <= LARGEST_OWN
    own = shared and crop == "none"
    size = int(decoding["size"]) or (width if own else OTHER_SIZE)
    channels = {"grey": 1, "rgb": 3, "auto": 1 if grey else 3}[str(decoding["channels"])]
    chosen = Settings(size, channels, crop, str(decoding["resize"]), int(decoding["margin"]) / 100, listing.upright)
    return chosen, own and size == width


def read_image(listing: Listing, row: int) -> bytes | NDArray[np.uint8]:
    """Encoded bytes or decoded pixels of one image. Raises BadImage where the file cannot be read."""
    try:
        return listing.read(row) if listing.read else read_bytes(listing.root / listing.path(row), MOST_BYTES)
    except OSError as error:
        raise BadImage(error.strerror or str(error)) from error
    except FileError as error:
        raise BadImage(str(error)) from error
