"""Folders and cells that name a part of a data set: one table of words for every reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.cells import folded
from ferbench.bench.data.reading.tree import subfolders

WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "publictest"),
    "test": ("test", "testing", "privatetest", "eval", "evaluation"),
}
_PART = {word: part for part, words in WORDS.items() for word in words}


def part_named(word: str) -> str | None:
    """The part, one of PARTS, that a word stands for in any letter case; None for any other word."""
    return _PART.get(folded(word))


def part_code(word: str, where: str) -> int:
    """Index into PARTS of a cell; an empty one is train. Raises DataError."""
    part = part_named(word) if folded(word) else "train"
    if part is None:
        raise DataError(f"{where}: part {word[:40]!r} is none of {', '.join(PARTS)}")
    return PARTS.index(part)


def part_folders(base: Path, also: Mapping[str, str] | None = None) -> dict[str, Path]:
    """The folders of parts in `base`: part -> folder, in the order of PARTS, those alone that are there.

    also: further names, folded -> part. Raises DataError where two folders are one part.
    """
    found: dict[str, Path] = {}
    for name in subfolders(base) if base.is_dir() else ():
        part = (also or {}).get(folded(name)) or part_named(name)
        if part is not None and part in found:
            raise DataError(f"{base}: folders {found[part].name!r} and {name!r} are both the {part} part; merge them")
        if part is not None:
            found[part] = base / name
    return {part: found[part] for part in PARTS if part in found}
