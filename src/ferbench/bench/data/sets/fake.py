"""Tiny generated copies of data sets, in each layout ferbench knows: to try commands out, and for the tests.

Nothing in them comes from a real data set but the names of files and folders and the form of the label files. The
"faces" are coloured shapes: a class has a colour and a shape of its own, so that a method can learn to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ferbench.bench.data.faceset import DataError

Faker = Callable[[Path, int], None]  # fills an empty folder, with so many training images per class
MOST = 10_000

_COLOURS = (
    (200, 60, 60), (60, 160, 70), (70, 90, 200), (220, 190, 60), (160, 70, 180), (60, 180, 190), (230, 130, 50),
    (130, 130, 130), (110, 60, 20), (180, 220, 160), (240, 160, 200),
)  # fmt: skip


def draw_face(label: int, number: int, size: tuple[int, int] = (100, 100), mode: str = "RGB") -> Image.Image:
    """A picture of class `label`, the same for the same arguments and another for every `number`."""
    width, height = size
    rng = np.random.default_rng((label, number))
    low = Image.fromarray(rng.integers(60, 120, (4, 4, 3), dtype=np.uint8))
    image = low.resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    red, green, blue = _COLOURS[label % len(_COLOURS)]
    left, top = rng.uniform(0.1, 0.3) * width, rng.uniform(0.1, 0.3) * height
    right, bottom = left + 0.6 * width, top + 0.6 * height
    (pen.ellipse, pen.rectangle)[label % 2]((left, top, right, bottom), fill=(red, green, blue))
    middle = top + (0.2 + 0.08 * label % 0.5) * height
    pen.line((left, middle, right, middle), fill=(250, 250, 250), width=max(width // 20, 1))
    return image.convert(mode)


def save_face(path: Path, label: int, number: int, size: tuple[int, int] = (100, 100), mode: str = "RGB") -> None:
    """Write `draw_face` to `path`, in the format of its suffix, making the folder where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_face(label, number, size, mode).save(path)


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a text file, making the folder where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def make_fake(known: Mapping[str, Mapping[str, Faker]], dataset: str, out: Path, images: int, layout: str) -> str:
    """Generate `dataset` at `out` in `layout` ("": the first) and return the layout's name. Raises DataError."""
    if dataset not in known:
        raise DataError(f"no fake of {dataset!r}; data sets: {', '.join(known)}")
    layouts = known[dataset]
    chosen = layout or next(iter(layouts))
    if chosen not in layouts:
        raise DataError(f"{dataset} has no layout {chosen!r}; layouts: {', '.join(layouts)}")
    if not 1 <= images <= MOST:
        raise DataError(f"--images must be 1 to {MOST:,}, not {images}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there and not an empty folder: name a new one")
    out.mkdir(parents=True, exist_ok=True)
    layouts[chosen](out, images)
    return chosen
