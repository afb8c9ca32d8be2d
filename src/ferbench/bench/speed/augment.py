"""Weak + strong views per second: the batched path beside the per-image one of the released codes.

    python -m ferbench.bench.speed.augment [--csv results/speed.csv] [--threads 2] [--samples 15]

The per-image form is Pillow and torchvision transforms on one image after the other, as in the released codes of
Ada-CM, LEAF and ReMoP: every grey face becomes RGB first; "per-image-grey" keeps one channel to the end. Variants
are timed in turn in one process, on random pictures. One pair = the weak and the strong view of one image.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor
from torchvision import transforms

from ferbench.bench.data.views.augment import ViewRecipe, augment
from ferbench.bench.data.views.randaugment import RANGES
from ferbench.bench.speed.record import SpeedRow, append, measured
from ferbench.kernels.augmentation.geometry import FILL, GREY_FILL

# Side and channels of the stored images, side of the output, batch size.
CASES = ((48, 1, 48, 16), (48, 1, 48, 64), (48, 1, 224, 16), (48, 1, 224, 64), (100, 3, 224, 16), (100, 3, 224, 64))

AFFINE = Image.Transform.AFFINE
PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, v: image,
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "solarize": lambda image, v: ImageOps.solarize(image, v),  # type: ignore[arg-type]
    "autocontrast": lambda image, v: ImageOps.autocontrast(image),
    "equalize": lambda image, v: ImageOps.equalize(image),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "rotate": lambda image, v: image.rotate(v),
    "shear_x": lambda image, v: image.transform(image.size, AFFINE, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda image, v: image.transform(image.size, AFFINE, (1, 0, v * image.width, 0, 1, 0)),
    "translate_y": lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, v * image.height)),
}


def pillow_cutout(image: Image.Image, side: float, x: float, y: float) -> Image.Image:
    """A box of `side` times the width around (x, y), both shares of the image's size, painted grey."""
    length, (width, height) = side * image.width, image.size
    left, top = (int(max(0.0, centre - length / 2)) for centre in (x * width, y * height))
    image = image.copy()
    corners = (left, top, min(width, left + length), min(height, top + length))
    ImageDraw.Draw(image).rectangle(corners, FILL if image.mode == "RGB" else GREY_FILL)
    return image


def pillow_randaugment(image: Image.Image, recipe: ViewRecipe) -> Image.Image:
    """RandAugment and Cutout on one image, drawn from Python's own generator."""
    for name in random.choices(list(RANGES), k=recipe.num_ops):
        image = PILLOW[name](image, random.uniform(*RANGES[name]))
    return pillow_cutout(image, random.uniform(0, recipe.cutout), random.random(), random.random())


def per_image(recipe: ViewRecipe, mode: str) -> Callable[[list[Image.Image]], tuple[Tensor, Tensor]]:
    """The released codes' two views of a list of Pillow images, in Pillow's mode "RGB" or "L"."""
    size = recipe.size
    crop = transforms.RandomCrop(size, padding=recipe.padding)
    weak = transforms.Compose([
        transforms.Resize((size, size)),
        transforms.RandomApply([crop], p=recipe.crop),
        transforms.RandomHorizontalFlip(recipe.flip),
        transforms.ToTensor(),
        transforms.Lambda(lambda tensor: tensor.expand(3, -1, -1)),
        transforms.Normalize(recipe.mean, recipe.std),
    ])  # fmt: skip

    def views(images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        converted = [image.convert(mode) for image in images]
        strong = [weak(pillow_randaugment(image, recipe)) for image in converted]
        return torch.stack([weak(image) for image in converted]), torch.stack(strong)

    return views


def variants(source: int, channels: int, size: int, batch: int) -> dict[str, Callable[[], object]]:
    """What is compared on one case: functions without arguments that make one batch of pairs."""
    recipe = ViewRecipe(size=size, padding=round(size * 8 / 224))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, source, source, channels), generator=generator, dtype=torch.uint8)
    pictures = [Image.fromarray(image.squeeze(2).numpy()) for image in images]
    released, grey = per_image(recipe, "RGB"), per_image(recipe, "L")
    found: dict[str, Callable[[], object]] = {
        "batched": lambda: [augment(images, view, recipe, generator) for view in ("weak", "strong")],
        "per-image": lambda: released(pictures),
    }
    return found if channels == 3 else {**found, "per-image-grey": lambda: grey(pictures)}


def measure(samples: int, command: str) -> list[SpeedRow]:
    """Pairs per second of every variant on every case, `samples` times in turn."""
    rows = []
    for source, channels, size, batch in CASES:
        functions = variants(source, channels, size, batch)
        rates: dict[str, list[float]] = {name: [] for name in functions}
        for repeat in range(samples + 1):
            for name, function in functions.items():
                start = time.perf_counter()
                function()
                if repeat:  # the first round warms up
                    rates[name].append(batch / (time.perf_counter() - start))
        case = f"{source}x{source}x{channels}->{size}, batch {batch}"
        for name, values in rates.items():
            rows.append(measured("augment", name, case, "pairs/s", values, benchmark=measure, command=command))
    return rows


def main() -> None:
    """Measure, print, and add the rows to a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file the rows are added to")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--samples", type=int, default=15, help="batches per variant and case")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    command = f"python -m ferbench.bench.speed.augment --threads {options.threads} --samples {options.samples}"
    rows = measure(options.samples, command)
    for row in rows:
        print(f"{row.case:32} {row.variant:16} {row.median:>8} {row.unit}  ({row.p20} to {row.p80})")
    if options.csv:
        append(rows, options.csv)


if __name__ == "__main__":
    main()
