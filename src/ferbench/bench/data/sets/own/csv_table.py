"""Images of your own listed in a table: path, label, and what else is known of each.

With a header, in any order and case: path, label; perhaps part (train, valid, test), x1, y1, x2, y2 (the face box in
pixels of the image), subject, and a column of votes per class, named after it. Other columns are not used, and named.
Without a header: path, label, and perhaps the box. An image without a label has an empty cell, or one of the usual
words for none (-1, nan, null, ...): in the training part it is an unlabelled one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.cells import REPEATED, folded, label_word, once
from ferbench.bench.data.reading.listing import ListedSet, Listing, Options
from ferbench.bench.data.reading.names import canonical
from ferbench.bench.data.reading.parts import part_code
from ferbench.bench.data.reading.textfile import csv_rows, note, number, separator, text_of
from ferbench.bench.data.reading.tree import clean_path, is_image
from ferbench.bench.data.sets.own.free_classes import CODES_OPTION, Classes, order_classes
from ferbench.validation import Option

NAME = "csv"
ACCESS = "a data set of your own: a table with the columns path and label beside the images"
BOX = ("x1", "y1", "x2", "y2")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": (
        "path", "image", "file", "filename", "image_name", "file_name", "image_path", "file_path", "filepath", "img",
        "img_path", "img_name", "pth", "image name", "file name",
    ),
    "label": ("label", "class", "emotion", "expression", "labels"),
    "part": ("part", "split", "usage"),
    "subject": ("subject", "person", "identity"),
    **{side: (side,) for side in BOX},
}  # fmt: skip
_KNOWN = {spelling: name for name, spellings in COLUMNS.items() for spelling in spellings}


@dataclass(frozen=True)
class Rows:
    """The table, column by column; `lines` are the numbers of the rows.

    labels: "" where a row has none; boxes: NaN where a row has none; others: further columns as they stand
    """

    lines: list[int]
    paths: list[str]
    labels: list[str]
    parts: list[int]
    subjects: list[str] | None
    boxes: NDArray[np.float32] | None
    others: Mapping[str, list[str]] = field(default_factory=dict)


def parse_table(text: str, where: str, label: str = "") -> Rows:
    """The table in `text`; label: the column of that name holds the labels.

    Raises DataError with the line for anything that is not as the module says.
    """
    table = list(csv_rows(text, where, separator(text)))
    if not table:
        raise DataError(f"{where}: no rows; copy the file again")
    headed = _is_header(table)
    if not headed and len(table) > 1 and not is_image(_name(table[0])) and is_image(_name(table[1])):
        raise DataError(
            f"{where} line 1: {', '.join(table[0][1])[:60]!r} names no image, but line 2 does: if it is a header, call "
            f"its columns path (or {', '.join(COLUMNS['path'][1:6])}, ...) and label"
        )
    columns, others = _columns(table[0][1], where, label) if headed else (_bare(table[0][1], where), {})
    body = table[1:] if headed else table
    width = len(table[0][1])
    for line, cells in body:
        if len(cells) != width:
            raise DataError(f"{where} line {line}: {len(cells)} fields, expected {width}")
    if not body:
        raise DataError(f"{where}: a header and no rows")

    def column(name: str) -> list[str]:
        return [cells[columns[name]] for _, cells in body] if name in columns else [""] * len(body)

    return Rows(
        lines=[line for line, _ in body],
        paths=[clean_path(path, f"{where} line {line}") for (line, _), path in zip(body, column("path"), strict=True)],
        labels=list(map(label_word, column("label"))),
        parts=[part_code(word, f"{where} line {line}") for (line, _), word in zip(body, column("part"), strict=True)],
        subjects=column("subject") if "subject" in columns else None,
        boxes=_boxes(body, columns, where) if "x1" in columns else None,
        others={name: [cells[place] for _, cells in body] for name, place in others.items()},
    )


def _name(row: tuple[int, list[str]]) -> str:
    return os.path.basename(row[1][0].replace("\\", "/"))


def _is_header(table: Sequence[tuple[int, list[str]]]) -> bool:
    return any(folded(cell) in COLUMNS["path"] for cell in table[0][1])


def _bare(first: Sequence[str], where: str) -> dict[str, int]:
    """Positions of the columns of a table without a header."""
    names = ("path", "label", *BOX)
    if len(first) not in (2, len(names)):
        raise DataError(
            f"{where} line 1: {len(first)} fields and no header; expected path,label or path,label,{','.join(BOX)}"
        )
    return {name: place for place, name in enumerate(names[: len(first)])}


def _columns(header: Sequence[str], where: str, label: str) -> tuple[dict[str, int], dict[str, int]]:
    """Positions of the known columns, and of the others by the names they have (those without a name have none)."""
    columns: dict[str, int] = {}
    others: dict[str, int] = {}
    if label and folded(label) not in map(folded, header):
        raise DataError(f"{where} line 1: no column {label[:40]!r} (option label); columns: {', '.join(header)[:200]}")
    for place, cell in enumerate(header):
        name = _KNOWN.get(folded(cell))
        if label and (name == "label" or folded(cell) == folded(label)):
            name = "label" if folded(cell) == folded(label) else None
        if name is None:
            others[cell or f"(column {place + 1})"] = place
        elif name in columns:
            hint = "; take one with the option label=COLUMN" if name == "label" else "; rename one"
            raise DataError(f"{where} line 1: columns {header[columns[name]]!r} and {cell!r} both are the {name}{hint}")
        else:
            columns[name] = place
    lost = [name for name in ("path", "label") if name not in columns]
    boxed = [side for side in BOX if side in columns]
    lost += [side for side in BOX if boxed and side not in columns]
    if lost:
        raise DataError(f"{where} line 1: no column {', '.join(lost)}")
    return columns, others


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
    """The table in the folder `root`; options: file (its name), label, codes and repeated. Raises DataError."""
    path = root / clean_path(str(options["file"]), "option 'file' for csv")
    if not path.is_file():
        raise DataError(f"no such table: {path}; name it with the option file=NAME.csv, relative to the root")
    rows = parse_table(text_of(path), str(path), str(options.get("label", "")))
    words = {word for word in rows.labels if word}
    if not words:
        raise DataError(f"{path}: no row has a label; images without labels are read as `faces`")
    classes = order_classes(words, str(options["codes"]), str(path))
    kept = once(rows.paths, _said(rows, classes), options.get("repeated"), path.name)
    if not kept.rows:
        raise DataError(f"{path}: every image is listed with different labels; {kept.warnings[0]}")
    people = {person: code for code, person in enumerate(sorted(set(rows.subjects or ()) - {""}))}
    votes, lines = _vote_matrix(rows, classes, str(path))
    subjects = np.array([people.get(person, -1) for person in rows.subjects], np.int64) if rows.subjects else None
    return Listing(
        dataset=NAME,
        root=root,
        layout=f"table {path.name}",
        ids=np.array(rows.paths, np.str_)[kept.rows],
        parts=np.array(rows.parts, np.int8)[kept.rows],
        labels=np.array([classes.of.get(word, -1) for word in rows.labels], np.int64)[kept.rows],
        classes=classes.names,
        boxes=None if rows.boxes is None else rows.boxes[kept.rows],
        subjects=None if subjects is None else subjects[kept.rows],
        votes=None if votes is None else votes[kept.rows],
        warnings=(*classes.warnings, *kept.warnings),
        notes=(*kept.notes, *lines),
        label_files=(note(path),),
    )


def _said(rows: Rows, classes: Classes) -> list[tuple[int, int]]:
    """What rows of one image must agree in: class and part."""
    return [(classes.of.get(word, -1), part) for word, part in zip(rows.labels, rows.parts, strict=True)]


def _vote_matrix(rows: Rows, classes: Classes, where: str) -> tuple[NDArray[np.float32] | None, list[str]]:
    """[N, K] votes where each class has a column named after it, else None; and a line about columns not used."""
    position = {folded(name): code for code, name in enumerate(classes.names)}
    found = {name: position.get(folded(canonical(name) or name)) for name in rows.others}
    columns = {code: name for name, code in found.items() if code is not None}
    once_each = len(columns) == sum(code is not None for code in found.values())
    voted = once_each and len(columns) == len(classes.names)
    votes = np.empty((len(rows.paths), len(classes.names)), np.float32) if voted else None
    if votes is not None:
        for code, name in columns.items():
            cells = zip(rows.others[name], rows.lines, strict=True)
            votes[:, code] = [_votes(cell, where, line) for cell, line in cells]
    unused = [name for name, code in found.items() if votes is None or code is None]
    lines = [f"columns that are not used: {', '.join(unused)[:200]}"] if unused else []
    if votes is None and columns:
        lines.append("columns named after some classes are no votes: there must be one for each class, once")
    return votes, lines


CSV_SET = ListedSet(
    name=NAME,
    summary="images of your own in a table: path, label, perhaps part, face box, subject and votes",
    root_env="FERBENCH_CSV_ROOT",
    scan=scan_csv,
    access=ACCESS,
    scan_options={
        "file": Option("labels.csv", "the table, relative to the root"),
        "codes": CODES_OPTION,
        "label": Option("", "the column that holds the label, where several could", late=True),
        "repeated": REPEATED,
    },
    unlabelled=True,
)
