"""FER2013's layouts, generated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ferbench.bench.data.reading.names import FER2013
from ferbench.bench.data.sets.fake import Faker, draw_face, save_face, write_lines

USAGES = (("Training", 1, 0), ("PublicTest", 3, 100_000), ("PrivateTest", 3, 200_000))  # one in so many, first number


def table(out: Path, images: int) -> None:
    """fer2013.csv: a row of pixels per face."""
    rows = ["emotion,pixels,Usage"]
    for usage, one_in, first in USAGES:
        for code in FER2013:
            for number in range(first, first + max(images // one_in, 1)):
                pixels = draw_face(code, number, (48, 48), "L").tobytes()
                rows.append(f"{code},{' '.join(map(str, pixels))},{usage}")
    write_lines(out / "fer2013.csv", rows)


def folders(out: Path, images: int) -> None:
    """train/ and test/ with class folders in words, as a re-pack has them."""
    words = {0: "angry", 1: "disgust", 2: "fear", 3: "happy", 4: "sad", 5: "surprise", 6: "neutral"}
    for part, each, first in (("train", images, 0), ("test", max(images // 3, 1), 100_000)):
        for label, name in words.items():
            for number in range(first, first + each):
                save_face(out / part / name / f"{part}_{number}.jpg", label, number, (48, 48), "L")


LAYOUTS: Mapping[str, Faker] = {"table": table, "folders": folders}
