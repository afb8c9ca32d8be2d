"""Files that a user brings, with random changes: lists, tables, arrays, containers, images, protocols.

FERBENCH_FUZZ: inputs for each reader."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reliability.fuzzing import fuzz
from reliability.lives import amount

from ferbench.bench.data.preparing import decode
from ferbench.bench.data.preparing.faces import face_boxes
from ferbench.bench.data.reading import pixel_table, textfile, tree
from ferbench.bench.data.sets.adience import folds
from ferbench.bench.data.sets.affectnet import csv as affectnet_csv
from ferbench.bench.data.sets.affectnet import npy as affectnet_npy
from ferbench.bench.data.sets.casia_webface import recordio
from ferbench.bench.data.sets.ckplus import files as ckplus
from ferbench.bench.data.sets.ferplus import csv as ferplus
from ferbench.bench.data.sets.own import csv_table
from ferbench.bench.data.sets.rafdb import lists as rafdb
from ferbench.protocols import cells, load_protocol
from ferbench.protocols.loader import FOLDER

Read = Callable[[bytes], object]


def as_text(parse: Callable[[str], object]) -> Callable[[Path], Read]:
    """Through the project's own decoding of files."""
    return lambda work: lambda data: parse(textfile.decode(data, "file"))


def as_file(parse: Callable[[Path], object]) -> Callable[[Path], Read]:
    def make(work: Path) -> Read:
        def read(data: bytes) -> object:
            (work / "file").write_bytes(data)
            return parse(work / "file")

        return read

    return make


def as_bytes(parse: Read) -> Callable[[Path], Read]:
    return lambda work: parse


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def record(payload: bytes) -> bytes:
    return struct.pack("<II", recordio.MAGIC, len(payload)) + payload + b"\0" * (-len(payload) % 4)


def read_records(path: Path) -> None:
    for offset in (0, 84):
        recordio.read_record(path, offset)
    with path.open("rb") as file:
        recordio.read_labels(file, 0)


def read_image(data: bytes) -> None:
    try:
        decode.header(data)
        decode.decode_image(data, decode.Settings(16, 3, "none", "square", 0.0))
    except decode.BadImage as error:
        assert "\n" not in str(error)


def images() -> list[bytes]:
    kinds = (
        "PNG RGB",
        "PNG L",
        "PNG P",
        "JPEG RGB",
        "JPEG CMYK",
        "BMP RGB",
        "TIFF RGB",
        "WEBP RGB",
        "PNG RGBA",
        "PNG I;16",
    )
    found = []
    for kind in kinds:
        form, mode = kind.split()
        file = io.BytesIO()
        Image.new(mode, (24, 20)).save(file, form)
        found.append(file.getvalue())
    return found


AFFECTNET = (
    b"subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    b"1/a.jpg,0,0,137,137," + b";".join([b"1.5"] * 136) + b",1,0.5,0.2\n"
)
FACES = b"path,x1,y1,x2,y2\na.jpg,1,2,3,4\nb.jpg,,,,\n"
NEW = (
    b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    b"Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0\nPublicTest,,0,0,0,0,0,0,0,0,0,10\n"
)
ADIENCE = (
    b"user_id\toriginal_image\tface_id\tage\tgender\tx\ty\n"
    b"30601258@N03\t10399646885_67c7d20df9_o.jpg\t1\t(25, 32)\tf\t0\t414\n30@N03\ta.jpg\t2\t35\t\t\t\n"
)
RECORDS = record(struct.pack("<IfQQ", 0, 3.0, 1, 2) + b"x" * 50)
RECORDS += record(struct.pack("<IfQQ", 2, 0, 1, 2) + struct.pack("<2f", 5, 6) + b"y" * 9)
READERS: dict[str, tuple[list[bytes], Callable[[Path], Read]]] = {
    "csv list": (
        [b"path,label,part,x1,y1,x2,y2,happy,sad\na/b.jpg,happy,train,1,2,30,40,3,7\nc.png,sad,test,,,,,1,0\n",
         b"a.jpg,happy\nb.jpg,sad\n", b"a.jpg,1,1,2,3,4\n"],
        as_text(lambda text: csv_table.parse_table(text, "f")),
    ),
    "faces.csv": ([FACES], as_text(lambda text: face_boxes.parse_faces(text, "f"))),
    "label.csv": (
        [b'fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0\n'],
        as_bytes(lambda data: ferplus.parse_label_csv(data, "f", 0)),
    ),
    "fer2013new.csv": ([NEW], as_bytes(lambda data: ferplus.parse_new_csv(data, "f"))),
    "fer2013.csv": (
        [b"emotion,pixels,Usage\n0," + b" ".join([b"7"] * 2304) + b",Training\n"],
        as_file(lambda path: list(pixel_table.pixel_rows(path))),
    ),
    "rafdb list": (
        [b"train_00001.jpg 5\ntest_0001.jpg 4\n"], as_text(lambda text: rafdb.parse_list(text, "f", range(1, 8))),
    ),
    "rafdb box": ([b"1.5 2.5 30.0 40\n"], as_text(lambda text: rafdb.parse_box(text, "f"))),
    "rafdb points": (
        [b"1 2\n3 4\n5 6\n7 8\n9 10\n1\n0\n2\n"], as_text(lambda text: rafdb.parse_manual(text, "f")),
    ),
    "adience": ([ADIENCE], as_text(lambda text: folds.parse_fold(text, "f"))),
    "ckplus emotion": ([b"   3.0000000e+00\n"], as_text(lambda text: ckplus.parse_emotion(text, "f"))),
    "ckplus landmarks": (
        [b"\n".join([b"   1.5e+02   2.5e+02"] * 68)], as_text(lambda text: ckplus.parse_landmarks(text, "f")),
    ),
    "affectnet csv": (
        [AFFECTNET, AFFECTNET.split(b"\n", 1)[1]],
        as_file(lambda path: list(affectnet_csv.parse_rows(textfile.csv_file(path), "f"))),
    ),
    "affectnet npy": (
        [saved(np.array("7")), saved(np.arange(136.0)), saved(np.array([["a.jpg", "1"]]))],
        as_bytes(lambda data: affectnet_npy.parse_array(data, "f")),
    ),
    "recordio index": (
        [b"0\t0\n1\t128\n2\t4096\n"], as_text(lambda text: recordio.parse_index(text, "f", 100_000)),
    ),
    "recordio": ([RECORDS], as_file(read_records)),
    "path": (
        [b"a/b/c.jpg", b"C:/x", b"../x", b"a\\b.png"],
        as_bytes(lambda data: tree.clean_path(data.decode("utf-8", "surrogateescape"), "f")),
    ),
    "image": (images(), as_bytes(read_image)),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_data_sets(tmp_path: Path, name: str) -> None:
    seeds, make = READERS[name]
    fuzz(name, seeds, make(tmp_path), amount("FUZZ", 60))


def demo() -> bytes:
    return re.sub(rb"(?m)^#.*\n", b"", (FOLDER / "demo" / "protocol.toml").read_bytes())


def test_a_protocol(tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        (tmp_path / "protocol.toml").write_bytes(data)
        for cell in cells(load_protocol(tmp_path)):
            assert isinstance(cell.id, str)

    more = b'[recipes.other]\nextends="synthetic"\nlr=1\n\n[pretraining.mae]\ndatasets=["synthetic"]\n\n'
    more += b"[presets.cpu]\nepochs=2\n"
    fuzz("protocol.toml", [demo(), demo().replace(b"[presets.cpu]\n", more)], read, amount("FUZZ", 60))


def test_published_numbers(tmp_path: Path) -> None:
    text = demo().replace(b'absent = [{ why = "the demo is nobody\'s paper" }]', b"")
    (tmp_path / "protocol.toml").write_bytes(text)
    rows = [
        f"{row},{column},{metric},50.1,0.3"
        for row in ("vanilla", "fixmatch", "remop")
        for column in ("synthetic-200-20", "synthetic-200-50")
        for metric in ("overall", "mean")
    ]
    seed = ("row,column,metric,mean,std\n" + "\n".join(rows) + "\n").encode()

    def read(data: bytes) -> None:
        (tmp_path / "table1.csv").write_bytes(data)
        load_protocol(tmp_path)

    fuzz("table1.csv", [seed], read, amount("FUZZ", 60))
