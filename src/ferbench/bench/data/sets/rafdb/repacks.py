"""RAF-DB as others have re-packed it: class folders, and the lists of the Ada-CM code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ferbench.bench.data.faceset import PARTS, DataError
from ferbench.bench.data.reading.listing import Listing
from ferbench.bench.data.reading.names import RAFDB
from ferbench.bench.data.reading.parts import part_folders
from ferbench.bench.data.reading.textfile import note, text_of
from ferbench.bench.data.reading.tree import class_folders, image_names
from ferbench.bench.data.sets.rafdb.lists import KAGGLE_LISTS, check_against_folders
from ferbench.bench.data.sets.rafdb.rows import rafdb_listing, read_rows, stable_ids, with_noise

PLACES = ("", "Image/aligned/", "basic/Image/aligned/", "aligned/", "images/")  # where images of a list may lie


def read_folders(base: Path, repeated: object) -> Listing | None:
    """train/<class>/ and test/<class>/ (or val/ alone, then the test part), class folders as codes or words."""
    found = part_folders(base)
    if "test" not in found and "valid" in found:
        found["test"] = found.pop("valid")
    if "train" not in found or "test" not in found:
        return None
    paths: list[str] = []
    parts: list[int] = []
    labels: list[int] = []
    kinds = set()
    order = {name: code - 1 for code, name in RAFDB.items()}
    for part, folder in found.items():
        classes = class_folders(folder, RAFDB)
        if classes is None:
            return None
        kinds.add(classes[0])
        for name, directory in classes[1].items():
            files = image_names(folder / directory)
            paths += [f"{folder.name}/{directory}/{file}" for file in files]
            parts += [PARTS.index(part)] * len(files)
            labels += [order[name]] * len(files)
    names = [path.rpartition("/")[2] for path in paths]
    ids, lines = stable_ids(paths, names, parts)
    lists = [path for name in KAGGLE_LISTS for path in (base / name, base.parent / name) if path.is_file()]
    for path in lists:
        lines += check_against_folders(text_of(path), str(path), dict(zip(names, labels, strict=True)))
    layout = f"class folders ({' and '.join(sorted(kinds))}), a re-pack"
    listing = rafdb_listing(base, layout, ids, paths, parts, labels, RAFDB, tuple(map(note, lists)), lines)
    return with_noise(base, replace(listing, by_folder=True))


def read_private_lists(base: Path, repeated: object) -> Listing | None:
    """The lists of the Ada-CM and ReMoP codes, `<file> <0-6>`, and the aligned images somewhere below."""
    files = {part: base / f"RAF_{part}_label2.txt" for part in ("train", "test")}
    if not all(path.is_file() for path in files.values()):
        return None
    rows = {part: read_rows(path, RAFDB, first=0) for part, path in files.items()}
    first = rows["train"][0].name
    spellings: Sequence[Callable[[str], str]] = (
        lambda name: name,
        lambda name: f"{name.removesuffix('.jpg')}_aligned.jpg",
    )
    fitting = [(place, spell) for place in PLACES for spell in spellings if (base / (place + spell(first))).is_file()]
    if not fitting:
        raise DataError(
            f"{files['train']} lists {first}, which lies neither beside it nor in Image/aligned below {base}"
        )
    place, spell = fitting[0]
    flat = [(part, row) for part, some in rows.items() for row in some]
    paths = [place + spell(row.name) for _, row in flat]
    parts = [PARTS.index(part) for part, _ in flat]
    ids, lines = stable_ids(paths, [row.name for _, row in flat], parts)
    return rafdb_listing(
        base, "lists of the Ada-CM code (codes from 0)", ids, paths, parts, [row.code for _, row in flat], RAFDB,
        tuple(map(note, files.values())), lines, repeated,
    )  # fmt: skip
