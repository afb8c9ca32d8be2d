"""FERPlus's name and options: what lists and checks read without what prepares or opens it."""

from __future__ import annotations

from ferbench.bench.data.reading.listing import DEDUPE
from ferbench.bench.data.sets.ferplus.labels import RULES
from ferbench.bench.data.sets.ferplus.source import SOURCES
from ferbench.validation import Option

NAME = "ferplus"
_FACES = ("none", "csv", "haar", "mtcnn")  # as other readers have them, which have "dataset" besides
_PARTS = ("train", "valid", "test", "train+valid", "train+test", "valid+test", "train+valid+test")
OPTIONS = {
    "source": Option("label_csv", "votes from label.csv of each folder, or from fer2013new.csv", SOURCES),
    "rule": Option("majority", "from votes to a label", tuple(RULES)),
    "classes": Option(8, "8, or 7 to leave out contempt", (8, 7)),
    "train_parts": Option("train", "official parts to train on", _PARTS),
    "test_parts": Option("test", "official parts to test on", _PARTS),
    "dedupe": DEDUPE,
    "placeholder": Option("drop", "FER2013Test/fer0033120.png, a warning sign labelled neutral", ("drop", "keep")),
    "size": Option(0, "pixels a side of a resized copy, 16 to 512; 0: the images' own 48", late=True),
    "faces": Option(
        "none", "face boxes for FaceMix, from faces.csv in the root or from a detector; nothing is cropped", _FACES,
        late=True,
    ),
}  # fmt: skip
