"""RAF-DB's layouts, generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ferbench.bench.data.reading.names import RAFDB, RAFDB_COMPOUND
from ferbench.bench.data.sets.fake import Faker, save_face, write_lines

Item = tuple[str, int, int]  # original file name, code, number of the picture


def _items(images: int, codes: Mapping[int, str] = RAFDB) -> Iterator[tuple[str, list[Item]]]:
    """Part and its images: `images` a class in train and a third of that in test."""
    for part, each, digits in (("train", images, 5), ("test", max(images // 3, 1), 4)):
        offset = 0 if part == "train" else 100_000
        yield (
            part,
            [
                (f"{part}_{number + 1:0{digits}d}.jpg", 1 + number % len(codes), offset + number)
                for number in range(each * len(codes))
            ],
        )


def official(out: Path, images: int) -> None:
    """basic/ with the list, aligned images of 100 x 100, the originals with their boxes, and manual landmarks."""
    _tree(out / "basic", images, RAFDB)


def compound(out: Path, images: int) -> None:
    """The same tree under compound/, codes 1 to 11, and basic/ beside it."""
    official(out, images)
    _tree(out / "compound", images, RAFDB_COMPOUND)


def _tree(base: Path, images: int, codes: Mapping[int, str]) -> None:
    lines = []
    for part, items in _items(images, codes):
        for name, code, number in items:
            stem = name.removesuffix(".jpg")
            lines.append(f"{name} {code}")
            save_face(base / "Image" / "aligned" / f"{stem}_aligned.jpg", code, number)
            width, height = 120 + number % 40, 140
            save_face(base / "Image" / "original" / name, code, number, (width, height))
            box = base / "Annotation" / "boundingbox" / f"{stem}_boundingbox.txt"
            write_lines(box, [f"{10.5} {12.25} {width - 10.0} {height - 8.0} "])
            points = [(40, 50), (80, 50), (60, 75), (45, 100), (75, 100)]
            manual = [f"{x}\t{y}" for x, y in points] + [str(number % 3), str(number % 3), str(number % 5)]
            write_lines(base / "Annotation" / "manual" / f"{stem}_manu_attri.txt", manual)
        assert part in ("train", "test")
    (base / "EmoLabel").mkdir()
    (base / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))  # the last line has no end


def kaggle(out: Path, images: int) -> None:
    """DATASET/train/1..7 and DATASET/test/1..7 with aligned images, and two lists."""
    for part, items in _items(images):
        rows = ["image,label"]
        for name, code, number in items:
            aligned = f"{name.removesuffix('.jpg')}_aligned.jpg"
            save_face(out / "DATASET" / part / str(code) / aligned, code, number)
            rows.append(f"{aligned},{code}")
        write_lines(out / f"{part}_labels.csv", rows)


def words(out: Path, images: int) -> None:
    """train/<word>/ and val/<word>/, as several code releases want it."""
    spelt = {"surprise": "Surprise", "fear": "Fear", "happiness": "Happy", "sadness": "Sad", "anger": "Angry"}
    for part, items in _items(images):
        for name, code, number in items:
            word = spelt.get(RAFDB[code], RAFDB[code].capitalize())
            aligned = f"{name.removesuffix('.jpg')}_aligned.jpg"
            save_face(out / ("train" if part == "train" else "val") / word / aligned, code, number)


def lists(out: Path, images: int) -> None:
    """RAF_train_label2.txt and RAF_test_label2.txt beside the images: codes from 0, a third column of coarse labels."""
    for part, items in _items(images):
        for name, code, number in items:
            save_face(out / "Image" / "aligned" / f"{name.removesuffix('.jpg')}_aligned.jpg", code, number)
        lines = [f"{name} {code - 1}" + (f" {code % 3}" if part == "train" else "") for name, code, _ in items]
        write_lines(out / f"RAF_{part}_label2.txt", lines)


LAYOUTS: Mapping[str, Faker] = {
    "official": official, "compound": compound, "kaggle": kaggle, "words": words, "lists": lists,
}  # fmt: skip
