"""Adience's fold files, parsed strictly, and what they call an age: groups, strays and nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.textfile import lines
from ferbench.bench.data.reading.tree import clean_path

# Class name to the years in the files; papers print the third one as 8-13.
AGE_GROUPS: Mapping[str, tuple[int, int]] = {
    "0-2": (0, 2), "4-6": (4, 6), "8-12": (8, 12), "15-20": (15, 20), "25-32": (25, 32), "38-43": (38, 43),
    "48-53": (48, 53), "60-100": (60, 100),
}  # fmt: skip
GENDERS: Mapping[str, str] = {"f": "female", "m": "male"}
HEADER = ("user_id", "original_image", "face_id", "age", "gender")
_AGE = re.compile(r"\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)|(\d{1,3})", re.ASCII)


@dataclass(frozen=True)
class Face:
    """A row of a fold file: whose face it is, its image, and age and gender as written ("" for none)."""

    user: str
    image: str
    face_id: str
    age: str
    gender: str

    @property
    def name(self) -> str:
        """The end of the image's file name, the same in `faces` and in `aligned`."""
        return f"{self.face_id}.{self.image}"


def parse_fold(text: str, where: str) -> list[Face]:
    """`fold_N_data.txt`: tab-separated with a header; the columns after gender are not looked at. Raises DataError."""
    rows = ((line, [cell.strip() for cell in content.split("\t")]) for line, content in lines(text, where))
    _, header = next(rows, (1, []))
    if tuple(header[: len(HEADER)]) != HEADER:
        raise DataError(f"{where} line 1: expected the columns {', '.join(HEADER)}, separated by tabs")
    faces = []
    for line, cells in rows:
        if len(cells) < 3 or not all(cells[:3]) or len(cells) > len(header):
            raise DataError(f"{where} line {line}: {len(cells)} fields, expected {len(header)}; is the file cut short?")
        user, image, face_id, age, gender = [*cells, "", ""][: len(HEADER)]
        clean_path(f"{user}/{face_id}.{image}", f"{where} line {line}")
        if "/" in user + face_id + image:
            raise DataError(f"{where} line {line}: {user!r}, {image!r} and {face_id!r} may not hold a /")
        if gender not in (*GENDERS, "u", ""):
            raise DataError(f"{where} line {line}: gender {gender[:40]!r} is none of f, m, u")
        faces.append(Face(user, image, face_id, _age(age, where, line), gender))
    if not faces:
        raise DataError(f"{where}: no rows; copy the file again")
    return faces


def _age(cell: str, where: str, line: int) -> str:
    """An age as `8-12` or `35`, "" for none. Raises DataError for anything else."""
    if cell in ("", "None"):
        return ""
    match = _AGE.fullmatch(cell)
    if match is None:
        raise DataError(f"{where} line {line}: age {cell[:40]!r} is neither '(8, 12)' nor a number of years")
    return f"{int(match[1])}-{int(match[2])}" if match[3] is None else str(int(match[3]))


def nearest_group(age: str) -> str:
    """The group an age belongs to or is nearest to; "" for none.

    Nearest is the smallest distance of the age (the middle of a span) to the group's years; a tie goes to the group
    whose middle is nearer, then to the younger. Public loaders disagree on these: there is no standard.
    """
    if not age or age in AGE_GROUPS:
        return age
    first, _, last = age.partition("-")
    years = (int(first) + int(last or first)) / 2

    def distance(group: str) -> tuple[float, float, int]:
        low, high = AGE_GROUPS[group]
        return max(low - years, years - high, 0.0), abs((low + high) / 2 - years), low

    return min(AGE_GROUPS, key=distance)
