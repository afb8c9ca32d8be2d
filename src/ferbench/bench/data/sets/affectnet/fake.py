"""AffectNet's layouts, generated: the two releases, and the re-packs that are read or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ferbench.bench.data.reading.names import AFFECTNET
from ferbench.bench.data.sets.affectnet.csv import COLUMNS, IMAGES, LISTS
from ferbench.bench.data.sets.fake import Faker, save_face, write_lines

CROPPED = (224, 224)


def _items(images: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Part, and code and number of each of its images: `images` a class in train and a third of that in valid."""
    for part, each in (("train", images), ("valid", max(images // 3, 1))):
        offset = 0 if part == "train" else 100_000
        yield part, [(number % 8, offset + number) for number in range(8 * each)]


def _landmarks(left: float, top: float, side: float) -> list[float]:
    """68 points in a square; only eyes, nose and corners of the mouth are where they should be."""
    points = np.tile([0.5, 0.6], (68, 1))
    points[36:42], points[42:48], points[30], points[48], points[54] = (
        (0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.8), (0.65, 0.8),
    )  # fmt: skip
    return (np.array([left, top]) + side * points).ravel().round(2).tolist()


def csv_release(out: Path, images: int) -> None:
    """Original images with a face box each, rows of other codes too, validation.csv without a header."""
    for part, name in (("train", "training.csv"), ("valid", "validation.csv")):
        rows = [",".join(COLUMNS)] if part == "train" else []
        items = dict(_items(images))[part]
        for code, number in [*items, *((code, 200_000 + code) for code in (8, 9, 10))]:
            path = f"{number % 4 + 1}/{number:08x}.{'JPG' if number % 3 == 0 else 'jpg'}"
            width, height = 160 + number % 30, 150
            if code < 8:
                save_face(out / IMAGES / path, code, number, (width, height))
            box = (-2, 10, 130, 130) if number % 5 == 0 else (20, 15, 120, 120)
            points = ";".join(map(str, _landmarks(box[0], box[1], 120)))
            expression = [str(code), "-2", "-2"] if code > 7 else [str(code), "0.1", "-0.2"]
            rows.append(",".join([path, *map(str, box), points, *expression]))
        write_lines(out / LISTS / name, rows)


def npy_release(out: Path, images: int) -> None:
    """Cropped images with four .npy files each, in numbers with gaps."""
    for part, items in _items(images):
        folder = out / ("train_set" if part == "train" else "val_set")
        (folder / "annotations").mkdir(parents=True)
        for code, number in items:
            name = str(3 * number + 1)
            save_face(folder / "images" / f"{name}.jpg", code, number, CROPPED)
            values = {"exp": np.array(str(code)), "val": np.array("0.25"), "aro": np.array("-0.5")}
            for kind, value in (values | {"lnd": np.array(_landmarks(0, 0, 224))}).items():
                np.save(folder / "annotations" / f"{name}_{kind}.npy", value)


def digits(out: Path, images: int) -> None:
    """train/0..7 and val/0..7."""
    for part, items in _items(images):
        for code, number in items:
            folder = out / ("train" if part == "train" else "val") / str(code)
            save_face(folder / f"image{number:07d}.jpg", code, number, CROPPED)


def words(out: Path, images: int) -> None:
    """train/<word>/ and val/<word>/, in the words of several code releases."""
    spelt = {"happiness": "happy", "sadness": "sad", "anger": "angry"}
    for part, items in _items(images):
        for code, number in items:
            folder = out / ("train" if part == "train" else "val") / spelt.get(AFFECTNET[code], AFFECTNET[code])
            save_face(folder / f"image{number:07d}.jpg", code, number, CROPPED)


def leaf_arrays(out: Path, images: int) -> None:
    """training.npy and validation.npy beside align/."""
    for part, items in _items(images):
        table = [(f"image{number:07d}.jpg", str(code)) for code, number in items]
        for (name, _), (code, number) in zip(table, items, strict=True):
            save_face(out / "align" / name, code, number, CROPPED)
        np.save(out / ("training.npy" if part == "train" else "validation.npy"), np.array(table))


def yolo(out: Path, images: int) -> None:
    """The YOLO re-pack, which is refused."""
    for part, items in _items(images):
        for code, number in items:
            folder = out / "YOLO_format" / part
            save_face(folder / "images" / f"{number}.png", code, number, (96, 96))
            write_lines(folder / "labels" / f"{number}.txt", [f"{code} 0.5 0.5 1.0 1.0"])


def pseudo_labels(out: Path, images: int) -> None:
    """The re-pack with a model's labels, which is refused."""
    rows = [",pth,label,relFCs"]
    for code, number in dict(_items(images))["train"]:
        save_face(out / AFFECTNET[code] / f"{number}.jpg", code, number, (96, 96))
        rows.append(f"{number},{AFFECTNET[code]}/{number}.jpg,{AFFECTNET[code]},0.8")
    write_lines(out / "labels.csv", rows)


LAYOUTS: Mapping[str, Faker] = {
    "csv": csv_release, "npy": npy_release, "digits": digits, "words": words, "leaf": leaf_arrays, "yolo": yolo,
    "pseudo-labels": pseudo_labels,
}  # fmt: skip
