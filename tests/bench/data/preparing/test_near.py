"""Near copies: one picture mirrored, saved again or resized is found; other pictures, however alike, are not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ferbench.bench.data.preparing.checks import near
from ferbench.bench.data.preparing.checks.near import ALIKE, near_copies, thumbnails
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset

SIZE = 48


def picture(number: int, size: int = SIZE, mode: str = "L") -> Image.Image:
    """Soft blobs that differ for every number, as faces differ in their lower frequencies."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(20, 235, (7, 7), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC).convert(mode)


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert(image.mode)


CHANGES = {
    "mirrored": ImageOps.mirror,
    "saved again": lambda image: saved_again(image, 60),
    "mirrored and saved again": lambda image: saved_again(ImageOps.mirror(image), 70),
    "smaller and back": lambda image: image.resize((30, 30)).resize((SIZE, SIZE)),
    "brighter": lambda image: image.point(lambda value: min(value * 0.8 + 40, 255)),
    "cut by half a pixel": lambda image: image.resize((SIZE, SIZE), box=(0.5, 0.5, SIZE - 0.5, SIZE - 0.5)),
}


def groups(images: list[Image.Image], usable: list[bool] | None = None) -> list[int]:
    stored = np.stack([np.asarray(image) for image in images])
    stored = stored[..., None] if stored.ndim == 3 else stored
    count = np.arange(len(images))
    return near_copies(thumbnails(stored), count, np.array(usable or [True] * len(images))).tolist()


@pytest.mark.parametrize("change", CHANGES)
def test_one_picture_in_another_form(change: str) -> None:
    """Among 60 other pictures each of ten is found with its other form, and nothing else is joined."""
    images = [picture(number) for number in range(60)]
    assert groups([*images, *map(CHANGES[change], images[:10])]) == [*range(60), *range(10)]


@pytest.mark.parametrize("size", [16, 40, 48, 100, 224, 512])
def test_any_size_in_grey_or_colour(size: int) -> None:
    for mode in ("L", "RGB"):
        images = [picture(number, size, mode) for number in range(8)]
        assert groups([*images, ImageOps.mirror(images[3])]) == [*range(8), 3]


def test_thumbnails_are_means_of_cells() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), dtype=np.uint8)
    slow = [
        [image[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean() for y in range(16) for x in range(16)] for image in images
    ]
    assert np.abs(thumbnails(images) - np.array(slow)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("all_pairs", [4096, 0])
def test_against_all_pairs(all_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow comparison of all pairs finds 100 noisy copies among 700 pictures; so do both ways of looking."""
    monkeypatch.setattr(near, "ALL_PAIRS", all_pairs)
    rng = np.random.default_rng(1)
    images = [np.asarray(picture(number)).astype(float) for number in range(600)]
    images += [
        (image if k % 2 else image[:, ::-1]) + rng.normal(0, 6, image.shape) for k, image in enumerate(images[:100])
    ]
    thumbs = thumbnails(np.clip(images, 0, 255).astype(np.uint8)[..., None])
    unit = thumbs - thumbs.mean(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    mirrored = unit.reshape(-1, 16, 16)[:, :, ::-1].reshape(len(unit), -1)
    alike = np.maximum(unit @ unit.T, unit @ mirrored.T) >= ALIKE
    expected = [int(np.flatnonzero(row)[0]) for row in alike]
    assert expected == [*range(600), *range(100)]
    found = near_copies(thumbs, np.arange(700), np.ones(700, bool))
    assert found[:600].tolist() == expected[:600] and set(found[600:] - np.arange(100)) <= {0, 600}
    assert (found == expected).mean() == 1 if all_pairs else (found == expected)[600:].mean() >= 0.9


def test_flat_and_unreadable_images_are_copies_of_nothing() -> None:
    black, grey = Image.new("L", (SIZE, SIZE)), Image.new("L", (SIZE, SIZE), 128)
    assert groups([black, grey, picture(1), black]) == [0, 1, 2, 3]
    assert groups([picture(1), picture(1), picture(1)], [True, False, True]) == [0, 1, 0]


def test_identical_pixels_stay_together_and_copies_of_copies_join() -> None:
    thumbs = thumbnails(np.stack([np.asarray(picture(k)) for k in (1, 2, 1, 2)])[..., None])
    assert near_copies(thumbs, np.array([0, 1, 2, 1]), np.ones(4, bool)).tolist() == [0, 1, 0, 1]
    assert near_copies(np.zeros((3, 256), np.uint8), np.array([0, 0, 2]), np.ones(3, bool)).tolist() == [0, 0, 2]


@pytest.fixture
def augmented(tmp_path: Path) -> Path:
    """Class folders whose train/ also holds the test images, mirrored and saved again."""
    for part, first in (("train", 0), ("test", 50)):
        for number in range(first, first + 8):
            folder = tmp_path / "copy" / part / ("happy", "sad")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture(number, mode="RGB").save(folder / f"{number}.jpg", quality=95)
    for path in sorted((tmp_path / "copy" / "test").rglob("*.jpg")):
        with Image.open(path) as image:
            folder = tmp_path / "copy" / "train" / path.parent.name
            ImageOps.mirror(image).save(folder / f"{path.stem}_flip.jpg", quality=95)
            image.save(folder / f"{path.stem}_again.jpg", quality=85)
    return tmp_path / "copy"


def test_test_images_mirrored_in_train_are_reported_and_dropped(augmented: Path) -> None:
    cache = augmented.parent / "cache"
    report = prepare_dataset("folder", {}, root=augmented, cache=cache)
    assert "no two images are pixel-identical" in report.notices
    text = report.text()
    assert "8 groups of near copies" in text and "24 different images in them" in text
    assert "8 of 8 test images have a copy or near copy in the training set, 8 of them not pixel by pixel" in text
    assert "test/happy/50.jpg like train/happy/50_again.jpg" in text and "dedupe=near removes them" in text
    sizes = {
        how: len(open_dataset("folder", {"dedupe": how}, root=augmented, cache=cache).train)
        for how in ("cross", "near")
    }
    assert sizes == {"cross": 24, "near": 8}
    clean = open_dataset("folder", {"dedupe": "near"}, root=augmented, cache=cache)
    assert {str(name).partition("/")[0] for name in clean.ids[clean.test]} == {"test"} and len(clean.test) == 8
