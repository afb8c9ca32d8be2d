"""One way from a cell, a code or a folder's name to a label, for every reader."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ferbench.validation import Option

# What tables write where an image has no label: CuriousAI's and scikit-learn's -1, pandas' and SQL's words.
NO_LABEL = frozenset(("", "-1", "nan", "none", "null", "na", "n/a", "<na>", "?", "unlabelled", "unlabeled"))
_FLOAT = re.compile(r"(-?\d{1,18})\.0+", re.ASCII)  # a column of codes with a gap in it is one of floats to pandas
REPEATED = Option(
    "aside",
    "an image listed twice with different labels or parts: set aside, or as its first row says",
    ("aside", "first"),
    late=True,
)


def plain(cell: str) -> str:
    """A cell without blanks around it, in Unicode's composed form, and 3 for 3.0."""
    text = unicodedata.normalize("NFC", cell).strip()
    match = _FLOAT.fullmatch(text)
    return match[1] if match else text


def label_word(cell: str) -> str:
    """The label in a cell, as it is written; "" where the cell says that there is none."""
    word = plain(cell)
    return "" if word.casefold() in NO_LABEL else word


def folded(word: str) -> str:
    """What two spellings of one word have in common: letter case and Unicode form do not count."""
    return unicodedata.normalize("NFC", plain(word).casefold())


@dataclass(frozen=True)
class Once:
    """Rows of a table that count; `notes` and `warnings` say what became of those that repeat an image."""

    rows: list[int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def once(images: Sequence[str], said: Sequence[Hashable], repeated: object, where: str) -> Once:
    """One row per image: its first where all rows of it say the same, none where they do not (unless `repeated` is
    "first").

    images: the image of each row; said: label, part and what else must agree; where: names the table in the lines
    """
    first: dict[str, int] = {}
    again = 0
    differing: dict[str, None] = {}
    for row, image in enumerate(images):
        if first.setdefault(image, row) != row:
            again += 1
            if said[row] != said[first[image]]:
                differing[image] = None
    left_out = differing if repeated != "first" else {}
    rows = [row for image, row in first.items() if image not in left_out]
    notes = (f"{again:,} rows repeat an image that an earlier row names, and are left out",) * bool(again)
    named = ", ".join(list(differing)[:3]) + (f" and {len(differing) - 3:,} more" if len(differing) > 3 else "")
    done = "the first row of each counts" if repeated == "first" else "set aside; repeated=first takes the first row"
    line = f"{where}: {len(differing):,} images are listed with different labels or parts, {named}: {done}"
    return Once(rows, notes, (line,) if differing else ())
