"""CK+'s layout, generated, and two re-packs that the reader refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ferbench.bench.data.reading.names import CKPLUS
from ferbench.bench.data.sets.fake import Faker, draw_face, save_face, write_lines

FRAME, FRAMES = (640, 490), 4
CK48 = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")


def official(out: Path, images: int) -> None:
    """`images` labelled sequences of each of the seven emotions, and one sequence without an emotion."""
    codes = [code for _ in range(images) for code in CKPLUS if code > 0]
    for number, code in enumerate([*codes, 0]):
        sequence, first = f"S{number // 3 + 5:03d}/{number % 3 + 1:03d}", 1 + number % 2  # may start at 2
        stem = sequence.replace("/", "_")
        for frame in range(first, first + FRAMES):
            name = f"{stem}_{frame:08d}"
            label = code if frame == first + FRAMES - 1 else 0
            save_face(out / "cohn-kanade-images" / sequence / f"{name}.png", label, 10 * number + frame, FRAME, "L")
            points = [f"   {200 + 3.5 * point:.7e}   {150 + 4.0 * (point % 17):.7e}" for point in range(68)]
            write_lines(out / "Landmarks" / sequence / f"{name}_landmarks.txt", points)
        if code:
            name = f"{stem}_{first + FRAMES - 1:08d}_emotion.txt"
            write_lines(out / "Emotion" / sequence / name, [f"   {code:.7e}"])
    (out / "cohn-kanade-images" / "S005" / ".DS_Store").write_bytes(b"\0\1")


def ck48(out: Path, images: int) -> None:
    """CK+48: three last frames of each sequence at 48 x 48, no neutral ones."""
    for label, name in enumerate(CK48):
        for number in range(images):
            for frame in range(3):
                stem = f"S{number + 10:03d}_{label:03d}_{frame + 15:08d}"
                save_face(out / "CK+48" / name / f"{stem}.png", label, 3 * number + frame, (48, 48), "L")


def ckextended(out: Path, images: int) -> None:
    """ckextended.csv: pixels in a table, with a random split."""
    rows = ["emotion,pixels,Usage"]
    for number in range(8 * images):
        pixels = draw_face(number % 8, number, (48, 48), "L").tobytes()
        rows.append(f"{number % 8},{' '.join(map(str, pixels))},{'Training' if number % 5 else 'PublicTest'}")
    write_lines(out / "ckextended.csv", rows)


LAYOUTS: Mapping[str, Faker] = {"official": official, "ck48": ck48, "ckextended": ckextended}
