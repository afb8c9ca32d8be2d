"""Images of your own listed in a table: path, label, and what else is known of each.

With a header, in any order and case: path, label; perhaps part (train, valid, test), x1, y1, x2, y2 (the face box in
pixels of the image), subject, and a column of votes per class, named after it. Without a header: path, label, and
perhaps the box. An image without a label has an empty cell: in the training part it is an unlabelled one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.listing import ListedSet, Listing, Options
from ferbench.bench.data.reading.names import canonical
from ferbench.bench.data.reading.textfile import csv_rows, note, number, text_of
from ferbench.bench.data.reading.tree import clean_path
from ferbench.bench.data.sets.own.free_classes import CODES_OPTION, Classes, order_classes
from ferbench.validation import Option

NAME = "csv"
ACCESS = "a data set of your own: a table with the columns path and label beside the images"
BOX = ("x1", "y1", "x2", "y2")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "image", "file", "filename", "image_name"),
    "label": ("label", "class", "emotion", "expression"),
    "part": ("part", "split", "usage"),
    "subject": ("subject", "person", "identity"),
    **{side: (side,) for side in BOX},
}
PART_WORDS: Mapping[str, str] = {
    "": "train", "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
    "publictest": "valid", "test": "test", "testing": "test", "privatetest": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """The table, column by column. votes: by class as written in the header; boxes: NaN where a row has none."""

    paths: list[str]
    labels: list[str]
    parts: list[int]
    subjects: list[str] | None
    boxes: NDArray[np.float32] | None
    votes: Mapping[str, list[float]]


def parse_table(text: str, where: str) -> Rows:
    """The table in `text`. Raises DataError with the line for anything that is not as the module says."""
    table = list(csv_rows(text, where))
    if not table:
        raise DataError(f"{where}: no rows; copy the file again")
    columns, votes = _columns([cell.casefold() for cell in table[0][1]], where)
    body = table[1:] if _is_header(table[0][1]) else table
    width = len(table[0][1])
    for line, cells in body:
        if len(cells) != width:
            raise DataError(f"{where} line {line}: {len(cells)} fields, expected {width}")
    if not body:
        raise DataError(f"{where}: a header and no rows")

    def column(name: str) -> list[str]:
        return [cells[columns[name]] for _, cells in body] if name in columns else [""] * len(body)

    return Rows(
        paths=[clean_path(path, f"{where} line {line}") for (line, _), path in zip(body, column("path"), strict=True)],
        labels=column("label"),
        parts=[_part(word, f"{where} line {line}") for (line, _), word in zip(body, column("part"), strict=True)],
        subjects=column("subject") if "subject" in columns else None,
        boxes=_boxes(body, columns, where) if "x1" in columns else None,
        votes={name: [_votes(cells[place], where, line) for line, cells in body] for name, place in votes.items()},
    )


def _is_header(cells: Sequence[str]) -> bool:
    return any(cell.casefold() in COLUMNS["path"] for cell in cells)


def _columns(first: Sequence[str], where: str) -> tuple[dict[str, int], dict[str, int]]:
    """Positions of the known columns, and of votes by class, from the table's first row."""
    if not _is_header(first):
        names = ("path", "label", *BOX)
        if len(first) not in (2, len(names)):
            raise DataError(
                f"{where} line 1: {len(first)} fields and no header; expected path,label or path,label,{','.join(BOX)}"
            )
        return {name: place for place, name in enumerate(names[: len(first)])}, {}
    known = {spelling: name for name, spellings in COLUMNS.items() for spelling in spellings}
    columns: dict[str, int] = {}
    votes: dict[str, int] = {}
    for place, word in enumerate(first):
        name, into = (known[word], columns) if word in known else (word, votes)
        if not name or name in into:
            what = f"column {name[:40]!r} is there twice" if name else f"column {place + 1} has no name"
            raise DataError(f"{where} line 1: {what}")
        into[name] = place
    lost = [name for name in ("path", "label") if name not in columns]
    boxed = [side for side in BOX if side in columns]
    lost += [side for side in BOX if boxed and side not in columns]
    if lost:
        raise DataError(f"{where} line 1: no column {', '.join(lost)}")
    return columns, votes


def _part(word: str, where: str) -> int:
    if word.casefold() not in PART_WORDS:
        raise DataError(f"{where}: part {word[:40]!r} is none of {', '.join(PARTS)}")
    return PARTS.index(PART_WORDS[word.casefold()])


def _boxes(body: list[tuple[int, list[str]]], columns: Mapping[str, int], where: str) -> NDArray[np.float32]:
    boxes = np.full((len(body), 4), np.nan, np.float32)
    for row, (line, cells) in enumerate(body):
        sides = [cells[columns[side]] for side in BOX]
        if any(sides):
            boxes[row] = [number(cell, where, line, "box") for cell in sides]
            if not (boxes[row, 0] < boxes[row, 2] and boxes[row, 1] < boxes[row, 3]):
                raise DataError(f"{where} line {line}: box {', '.join(sides)[:60]} has no area (x1, y1, x2, y2)")
    return boxes


def _votes(cell: str, where: str, line: int) -> float:
    value = number(cell or "0", where, line, "votes")
    if value < 0:
        raise DataError(f"{where} line {line}: votes {cell[:40]!r} are below 0")
    return value


def scan_csv(root: Path, options: Options) -> Listing:
    """The table in the folder `root`; options: file (its name) and codes. Raises DataError."""
    path = root / clean_path(str(options["file"]), "option 'file' for csv")
    if not path.is_file():
        raise DataError(f"no such table: {path}; name it with the option file=NAME.csv, relative to the root")
    rows = parse_table(text_of(path), str(path))
    words = {word for word in rows.labels if word}
    if not words:
        raise DataError(f"{path}: no row has a label; images without labels are read as `faces`")
    classes = order_classes(words, str(options["codes"]), str(path))
    people = {person: code for code, person in enumerate(sorted(set(rows.subjects or ()) - {""}))}
    return Listing(
        dataset=NAME,
        root=root,
        layout=f"table {path.name}",
        ids=np.array(rows.paths, np.str_),
        parts=np.array(rows.parts, np.int8),
        labels=np.array([classes.of.get(word, -1) for word in rows.labels], np.int64),
        classes=classes.names,
        boxes=rows.boxes,
        subjects=np.array([people.get(person, -1) for person in rows.subjects], np.int64) if rows.subjects else None,
        votes=_vote_matrix(rows, classes, str(path)),
        warnings=classes.warnings,
        label_files=(note(path),),
    )


def _vote_matrix(rows: Rows, classes: Classes, where: str) -> NDArray[np.float32] | None:
    """[N, K] votes, from columns that are named after every class; None where there are none."""
    if not rows.votes:
        return None
    position = {name.casefold(): code for code, name in enumerate(classes.names)}
    codes = {word: position.get(canonical(word) or word) for word in rows.votes}
    unknown = [word for word, code in codes.items() if code is None]
    if unknown or sorted(code for code in codes.values() if code is not None) != list(range(len(classes.names))):
        raise DataError(
            f"{where} line 1: columns of votes must be named after the classes ({', '.join(classes.names)}), "
            f"once each, not {', '.join(rows.votes)}"
        )
    votes = np.empty((len(rows.paths), len(classes.names)), np.float32)
    for word, code in codes.items():
        votes[:, code] = rows.votes[word]
    return votes


CSV_SET = ListedSet(
    name=NAME,
    summary="images of your own in a table: path, label, perhaps part, face box, subject and votes",
    root_env="FERBENCH_CSV_ROOT",
    scan=scan_csv,
    access=ACCESS,
    scan_options={"file": Option("labels.csv", "the table, relative to the root"), "codes": CODES_OPTION},
    unlabelled=True,
)
