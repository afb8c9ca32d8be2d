"""FERPlus's two layouts, generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ferbench.bench.data.reading.pixel_table import SIDE, USAGES
from ferbench.bench.data.sets.fake import Faker, draw_face, save_face, write_lines
from ferbench.bench.data.sets.ferplus.labels import CLASSES, COLUMNS
from ferbench.bench.data.sets.ferplus.source import FOLDERS


def _items(images: int) -> Iterator[tuple[int, str, int, list[int]]]:
    """Part, name, class and ten votes of each image: `images` a class in train, a third of that elsewhere."""
    number = 0
    for part, each in enumerate((images, max(images // 3, 1), max(images // 3, 1))):
        for label in np.tile(np.arange(len(CLASSES)), each).tolist():
            votes = [0] * len(COLUMNS)
            votes[label] = 7 + number % 3
            votes[(label + 1) % len(CLASSES)] = 10 - votes[label]
            yield part, f"fer{number:07d}.png", label, votes
            number += 1


def folders(out: Path, images: int) -> None:
    """A folder of PNGs with a label.csv for each part, and fer2013new.csv."""
    lines: list[list[str]] = [[], [], []]
    for number, (part, name, label, votes) in enumerate(_items(images)):
        save_face(out / FOLDERS[part] / name, label, number, (SIDE, SIDE), "L")
        lines[part].append(f'{name},"(0, 0, 48, 48)",{",".join(map(str, votes))}')
    for part, folder in enumerate(FOLDERS):
        write_lines(out / folder / "label.csv", lines[part])
    _new_csv(out, images)


def table(out: Path, images: int) -> None:
    """fer2013.csv with the pixels and fer2013new.csv with the votes."""
    rows = ["emotion,pixels,Usage"]
    for number, (part, _, label, _) in enumerate(_items(images)):
        pixels = np.asarray(draw_face(label, number, (SIDE, SIDE), "L")).ravel()
        rows.append(f"{label % 7},{' '.join(map(str, pixels.tolist()))},{USAGES[part]}")
    write_lines(out / "fer2013.csv", rows)
    _new_csv(out, images)


def _new_csv(out: Path, images: int) -> None:
    rows = [",".join(["Usage", "Image name", *COLUMNS])]
    rows += [f"{USAGES[part]},{name},{','.join(map(str, votes))}" for part, name, _, votes in _items(images)]
    write_lines(out / "fer2013new.csv", rows)


LAYOUTS: Mapping[str, Faker] = {"folders": folders, "csv": table}
