"""One image file to the pixels that are stored, strictly: what is no harmless 8-bit image is refused with a reason."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from ferbench.bench.data.preparing.checks.fingerprint import image_digest
from ferbench.bench.data.preparing.checks.near import thumbnails
from ferbench.bench.data.preparing.geometry import Matrix, alignment, to_square, warp, window_of

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # no format whose decoder starts another program
MOST_BYTES = 2**29  # of an encoded image
MOST_PIXELS = 64_000_000  # a decompression bomb announces more; no camera behind these data sets does
MODES = ("L", "RGB", "P", "RGBA", "LA", "CMYK", "YCbCr", "1", "PA")  # others hold more than 8 bits
GREY_MODES = ("L", "1", "LA")


class BadImage(Exception):
    """An image cannot be used; the message says why, without its name."""


@dataclass(frozen=True)
class Settings:
    """How images become squares of uint8 [size, size, channels]; the words are those of listing.DECODE_OPTIONS.

    size:     pixels a side of the stored square
    channels: 1 grey, 3 RGB
    crop:     none, box or align
    resize:   square, pad or centre_crop
    margin:   around the box, as a share of its sides
    turn:     upright as the file's EXIF orientation says; not where boxes and landmarks are in pixels as stored
    """

    size: int
    channels: int
    crop: str
    resize: str
    margin: float
    turn: bool = True


@dataclass(frozen=True)
class Decoded:
    """An image as stored.

    pixels:              [size, size, channels]
    width, height, mode: of the file, once it is turned
    matrix:              [2, 3] map from file to stored pixels
    digest:              16 bytes that are the same for the same stored pixels, and for no others by accident
    thumbnail:           [256] what near copies are found by
    turned:              whether its EXIF orientation is another than upright, and so heeded or not
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    mode: str
    matrix: Matrix
    digest: bytes
    thumbnail: NDArray[np.uint8]
    turned: bool


@contextmanager
def strict_limits() -> Iterator[None]:
    """Keep Pillow's warnings off the terminal: what is wrong with an image is said once, in the report.

    Its warning of large images is not needed, as larger ones are refused. To be entered before threads are started.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def header(data: bytes | NDArray[np.uint8]) -> tuple[int, int, str]:
    """Width, height and mode of an image, without decoding it. Raises BadImage."""
    if isinstance(data, np.ndarray):
        return data.shape[1], data.shape[0], "L" if data.ndim == 2 else "RGB"
    try:
        with _open(data) as image:
            return image.width, image.height, image.mode
    except Exception as error:
        raise _bad(error) from error


def decode_image(
    data: bytes | NDArray[np.uint8],
    settings: Settings,
    box: NDArray[np.floating] | None = None,
    landmarks: NDArray[np.floating] | None = None,
) -> Decoded:
    """Decode, crop to `box` or align by `landmarks`, and resize. Raises BadImage.

    With crop=box a missing box (None or NaN) means the whole image; with crop=align landmarks that are missing or
    all one mean the box, else the whole image.
    """
    try:
        image, mode, turned = _pixels(data, "L" if settings.channels == 1 else "RGB", settings.turn)
        square, matrix = _square(image, settings, box, landmarks)
        shape = (settings.size, settings.size, settings.channels)
        pixels = np.ascontiguousarray(square, dtype=np.uint8).reshape(shape)
    except Exception as error:
        raise _bad(error) from error
    thumbnail = thumbnails(pixels[None])[0]
    return Decoded(pixels, image.width, image.height, mode, matrix, image_digest(pixels), thumbnail, turned)


def to_rgb(data: bytes | NDArray[np.uint8], *, turn: bool = True) -> Image.Image:
    """The whole image in colour, as detectors and networks want it; turn: as in Settings. Raises BadImage."""
    try:
        return _pixels(data, "RGB", turn)[0]
    except Exception as error:
        raise _bad(error) from error


def _pixels(data: bytes | NDArray[np.uint8], wanted: str, turn: bool) -> tuple[Image.Image, str, bool]:
    """The decoded image in the mode `wanted`, the mode it had, and whether it lies on its side in the file.

    Transparency is dropped, not blended.
    """
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
        return image.convert(wanted), image.mode, False
    with _open(data) as image:
        mode, turned = image.mode, _lies(image)
        image.load()
        upright = ImageOps.exif_transpose(image) if turned and turn else image
        # A palette may hold transparency, which only RGBA can take over without a warning.
        source = upright.convert("RGBA") if mode in ("P", "PA") else upright
        return (source if mode == wanted else source.convert(wanted)), mode, turned


def _lies(image: Image.Image) -> bool:
    """Whether the file says that it is to be turned or mirrored for viewing; a damaged EXIF block says nothing."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:
        return False


def _square(
    image: Image.Image,
    settings: Settings,
    box: NDArray[np.floating] | None,
    landmarks: NDArray[np.floating] | None,
) -> tuple[Image.Image, Matrix]:
    if settings.crop == "align" and landmarks is not None and np.isfinite(landmarks).all():
        try:
            matrix = alignment(landmarks, settings.size)
            return warp(image, matrix, settings.size), matrix
        except (ValueError, np.linalg.LinAlgError):
            pass  # landmarks that are all one point
    window = window_of(None if settings.crop == "none" else box, image.width, image.height, settings.margin)
    return to_square(image, window, settings.size, settings.resize)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("zero bytes")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise BadImage(f"{image.width} x {image.height} pixels, more than ferbench decodes")
    if image.mode not in MODES:
        raise BadImage(f"mode {image.mode}, not 8 bits a channel")
    return image


def _bad(error: Exception) -> Exception:
    """Damaged bytes make Pillow's decoders raise all sorts; only a lack of memory is not the image's fault."""
    if isinstance(error, BadImage | MemoryError):
        return error
    return BadImage(_reason(error))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "not an image" if "cannot identify image file" in text else (text[:80] or type(error).__name__)
