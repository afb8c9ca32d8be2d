"""The user's files after they were prepared: labels that changed, images that came, went or moved are noticed.

What is looked at whenever the set is opened is cheap: the names of images in each folder, and the content of label
files, whose hash is taken again only where size or time of the file are others. An image whose content changes under
its name is noticed by `ferbench prepare`, which looks at every file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.account import Tree, is_listed, look
from ferbench.bench.data.reading.listing import Listing
from ferbench.bench.data.reading.tree import reading

NAMED = 3  # changes that the error names
LARGE = 2**30  # bytes of a file from which on its size and time stand for its content


def watched(listing: Listing, tree: Tree) -> dict[str, Any]:
    """What to compare with later, as plain values.

    labels: label files -> size, time, digest; folders: folder -> how many images, and a digest of their names; every:
    whether images in other folders count too, as they do where no list says which images there are
    """
    labels = [Path(file.path) for file in listing.label_files] + [*listing.watched, *listing.containers]
    every = listing.by_folder or not labels
    used = {listing.path(row).rpartition("/")[0] for row in range(len(listing.ids))} if listing.read is None else set()
    return watch_list(listing.root, labels, tree, tree.files.keys() if every else used, every=every)


def watch_list(
    root: Path, labels: Iterable[Path], tree: Tree, folders: Iterable[str], *, every: bool
) -> dict[str, Any]:
    """The same of label files and folders below a root."""
    return {
        "labels": {os.path.relpath(path, root): _label_file(path) for path in labels},
        "folders": {folder: _names(tree.files.get(folder, ())) for folder in folders},
        "every": every,
    }


def hold_unchanged(meta: Mapping[str, Any], reader: str) -> None:
    """DataError where the files that a prepared copy was made from are others now; nothing where they are gone.

    meta: the copy's; reader: the name to prepare it with again
    """
    root, before = Path(str(meta["root"])), meta["watched"]
    if not root.is_dir():
        return  # a copy may be used without the files it was made from
    with reading(root):
        changes = [line for path, known in before["labels"].items() if (line := _changed_label(root, path, known))]
        changes += _changed_folders(
            before["folders"], look(root) if before["every"] else _only(root, before["folders"])
        )
    if changes:
        more = f" and {len(changes) - NAMED:,} more changes" if len(changes) > NAMED else ""
        raise DataError(
            f"{root} has changed since {reader} was prepared ({'; '.join(changes[:NAMED])}{more}): "
            f"run `ferbench prepare {reader} --root {root}`"
        )


def _label_file(path: Path) -> list[Any]:
    status = path.stat()
    with path.open("rb") as file:
        digest = "" if status.st_size > LARGE else hashlib.file_digest(file, "sha256").hexdigest()
    return [status.st_size, status.st_mtime_ns, digest]


def _changed_label(root: Path, path: str, known: list[Any]) -> str:
    try:
        status = (root / path).stat()
    except FileNotFoundError:
        return f"{path} is gone"
    if [status.st_size, status.st_mtime_ns] == known[:2] or (known[2] and _label_file(root / path)[2] == known[2]):
        return ""
    return f"{path} has other content"


def _changed_folders(before: Mapping[str, list[Any]], tree: Tree) -> list[str]:
    lines = []
    for folder in sorted(before.keys() | tree.files.keys()):
        was, now = before.get(folder, _names(())), _names(tree.files.get(folder, ()))
        if was != now:
            what = "other names" if was[0] == now[0] else f"{now[0]:,} images, not {was[0]:,}"
            lines.append(f"{folder or '.'}/ has {what}")
    return lines


def _only(root: Path, folders: Iterable[str]) -> Tree:
    """These folders alone, without those below them."""
    tree = Tree()
    for folder in folders:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / folder) as entries:
            tree.files[folder] = sorted(entry.name for entry in entries if is_listed(entry.name))
    return tree


def _names(names: Iterable[str]) -> list[Any]:
    """How many, and a digest of them."""
    names = list(names)
    data = "\n".join(names).encode("utf-8", "surrogateescape")
    return [len(names), hashlib.blake2b(data, digest_size=8).hexdigest()]
