"""Single images: every mode that occurs, and everything that is refused instead of being decoded."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ferbench.bench.data.preparing.decode import BadImage, Settings, decode_image, header, strict_limits, to_rgb

PLAIN = Settings(size=12, channels=3, crop="none", resize="square", margin=0.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_pixels_of_the_own_size_are_kept() -> None:
    decoded = decode_image(encoded(Image.fromarray(PIXELS)), PLAIN)
    np.testing.assert_array_equal(decoded.pixels, PIXELS)
    assert (decoded.width, decoded.height, decoded.mode) == (12, 12, "RGB")


@pytest.mark.parametrize("form", ["JPEG", "BMP", "TIFF", "WEBP"])
def test_formats(form: str) -> None:
    decoded = decode_image(encoded(Image.fromarray(PIXELS), form, quality=95), PLAIN)
    assert np.abs(decoded.pixels.astype(int) - PIXELS).mean() < 60  # noise is hard on JPEG


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_become_grey_or_colour(mode: str, channels: int) -> None:
    image = Image.new("RGB", (12, 12), (255, 255, 255)).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    decoded = decode_image(data, Settings(12, channels, "none", "square", 0.0))
    assert decoded.pixels.shape == (12, 12, channels) and decoded.mode == mode
    assert (decoded.pixels >= 253).all()


def test_arrays_are_images_as_well() -> None:
    np.testing.assert_array_equal(decode_image(PIXELS, PLAIN).pixels, PIXELS)
    grey = decode_image(PIXELS[..., 0], PLAIN)
    assert grey.mode == "L" and (grey.pixels == PIXELS[..., :1]).all()
    assert header(PIXELS[..., 0]) == (12, 12, "L")


def test_equal_digests_mean_equal_pixels() -> None:
    one, same = (decode_image(encoded(Image.fromarray(PIXELS), form), PLAIN).digest for form in ("PNG", "BMP"))
    other = PIXELS.copy()
    other[3, 4, 1] ^= 1
    assert one == same != decode_image(other, PLAIN).digest


def test_box_and_landmarks() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:40] = 255
    data = encoded(Image.fromarray(image))
    box = np.array([20, 10, 40, 30], np.float32)
    inside = decode_image(data, Settings(16, 3, "box", "square", 0.0), box).pixels
    assert (inside[1:-1, 1:-1] == 255).all()  # the filter looks one pixel beyond the box
    assert not (decode_image(data, Settings(16, 3, "box", "square", 0.5), box).pixels == 255).all()
    whole = decode_image(data, Settings(16, 3, "none", "square", 0.0), box).pixels
    np.testing.assert_array_equal(whole, decode_image(data, Settings(16, 3, "none", "square", 0.0)).pixels)
    one_point = np.ones((5, 2), np.float32)
    fallen_back = decode_image(data, Settings(16, 3, "align", "square", 0.0), box, one_point)
    np.testing.assert_array_equal(fallen_back.pixels, inside)


def bomb() -> bytes:
    """A PNG of a few bytes that announces 60,000 x 60,000 pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(100))}
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


REFUSED = {
    "nothing": (b"", "zero bytes"),
    "text": (b"<html>403 Forbidden</html>", "not an image"),
    "cut short": (encoded(Image.fromarray(PIXELS))[:120], "truncated"),
    "16 bits": (encoded(Image.fromarray(np.full((12, 12), 40_000, np.uint16))), "mode I;16, not 8 bits"),
    "bomb": (bomb(), "pixels"),
    "other format": (encoded(Image.fromarray(PIXELS), "GIF"), "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n", "not an image"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    data, reason = REFUSED[case]
    with strict_limits(), pytest.raises(BadImage, match=reason):
        decode_image(data, PLAIN)


def test_large_but_legal_images_of_pillow_are_refused_too() -> None:
    """Pillow only warns from 89 million pixels on, and refuses from 179 million."""
    data = encoded(Image.new("1", (11_000, 9_000)))
    with strict_limits(), pytest.raises(BadImage, match="11000 x 9000 pixels"):
        header(data)


SAMPLES = [encoded(Image.fromarray(PIXELS), form) for form in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
def test_damaged_bytes_are_an_image_or_refused(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    for decode in (lambda: decode_image(bytes(damaged), PLAIN).pixels, lambda: np.asarray(to_rgb(bytes(damaged)))):
        try:
            with strict_limits():
                pixels = decode()
        except BadImage as error:
            assert "\n" not in str(error)
        else:
            assert pixels.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_heeded(orientation: int) -> None:
    """Every orientation brings the marked corner of a picture back to the top left; `turn=False` leaves the file."""
    upright = np.zeros((32, 24, 3), np.uint8)
    upright[:8, :8] = 255
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = Image.fromarray(upright)
    stored = image if orientation == 1 else image.transpose(back[orientation])
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored.save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(to_rgb(file.getvalue())), upright)
    np.testing.assert_array_equal(np.asarray(to_rgb(file.getvalue(), turn=False)), np.asarray(stored))
    assert decode_image(file.getvalue(), Settings(16, 3, "none", "square", 0.0)).turned == (orientation != 1)


def test_a_damaged_exif_block_says_nothing() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(file, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    with strict_limits():
        assert to_rgb(file.getvalue()).size == (16, 16)
