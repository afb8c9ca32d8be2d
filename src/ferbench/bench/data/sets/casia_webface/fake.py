"""CASIA-WebFace's two forms, generated."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from ferbench.bench.data.sets.casia_webface.recordio import MAGIC
from ferbench.bench.data.sets.fake import Faker, draw_face, save_face, write_lines

PEOPLE = 6


def folders(out: Path, images: int) -> None:
    """0000045/001.jpg and so on: `images` of each person."""
    for person in range(PEOPLE):
        for number in range(images):
            save_face(
                out / "CASIA-WebFace" / f"{45 + person:07d}" / f"{number + 1:03d}.jpg", person, number, (250, 250)
            )


def records(out: Path, images: int) -> None:
    """train.rec, train.idx and property as face recognition has them: images, then a record per person."""
    total = PEOPLE * images
    payloads = [pack((float(total + 1), float(total + 1 + PEOPLE)), b"")]
    for person in range(PEOPLE):
        for number in range(images):
            buffer = io.BytesIO()
            draw_face(person, number, (112, 112)).save(buffer, "JPEG")
            payloads.append(pack((float(person),), buffer.getvalue()))
    payloads += [pack((float(1 + p * images), float(1 + (p + 1) * images)), b"") for p in range(PEOPLE)]
    write_records(out / "faces_webface_112x112", payloads)
    write_lines(out / "faces_webface_112x112" / "property", [f"{PEOPLE},112,112"])


def pack(labels: Sequence[float], image: bytes) -> bytes:
    """The payload of a record; a single label stands in the header."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], 0, 0) + image
    return struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0.0, 0, 0, *labels) + image


def write_records(folder: Path, payloads: Sequence[bytes]) -> None:
    """train.rec and train.idx with these payloads, each cut at every magic number in it that begins a word."""
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    with (folder / "train.rec").open("wb") as file:
        for key, payload in enumerate(payloads):
            index.append(f"{key}\t{file.tell()}")
            pieces = _pieces(payload)
            for number, piece in enumerate(pieces):
                flag = 0 if len(pieces) == 1 else 1 if number == 0 else 3 if number == len(pieces) - 1 else 2
                file.write(struct.pack("<II", MAGIC, flag << 29 | len(piece)) + piece + b"\0" * (-len(piece) % 4))
    write_lines(folder / "train.idx", index)


def _pieces(payload: bytes) -> list[bytes]:
    magic, pieces, start = struct.pack("<I", MAGIC), [], 0
    for place in range(0, len(payload) - 3, 4):
        if payload[place : place + 4] == magic:
            pieces.append(payload[start:place])
            start = place + 4
    return [*pieces, payload[start:]]


LAYOUTS: Mapping[str, Faker] = {"folders": folders, "records": records}
