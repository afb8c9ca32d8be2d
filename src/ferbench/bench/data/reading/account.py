"""The closing account of a reader: which images lie in the folder and are used by nothing.

A folder of images that nothing uses, beside folders that are parts or classes, is mostly a slip: a misspelt class, a
part under a name that is not known, files in a format that is not read. Where class folders alone say what an image
is, such a folder is a difference; where a list says it, and for single files, it is told and no more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ferbench.bench.data.reading.names import close_emotion
from ferbench.bench.data.reading.parts import WORDS, part_named
from ferbench.bench.data.reading.tree import IMAGE_SUFFIXES

# Formats that ferbench does not read, but that are images all the same.
UNREAD = frozenset((".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".ppm", ".pgm", ".pnm", ".psd", ".svg", ".ico"))
LABELS = "_exp.npy"  # how AffectNet's labels end, which come in a file per image
SHOWN = 6  # folders that a line names
_IMAGES = IMAGE_SUFFIXES | UNREAD


@dataclass
class Tree:
    """Folders below a root ("" for itself) -> names of the images and labels in each; folders that are links."""

    files: dict[str, list[str]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)


def look(root: Path) -> Tree:
    """All images below `root`, whether ferbench reads their format or not; nothing hidden, and no link is entered."""
    tree = Tree()
    waiting = [""]
    while waiting:
        here = waiting.pop()
        names = []
        with os.scandir(root / here) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(_join(here, entry.name))
                elif entry.is_symlink() and entry.is_dir():
                    tree.links.append(_join(here, entry.name))
                elif is_listed(entry.name):
                    names.append(entry.name)
        if names:
            tree.files[here] = sorted(names)
    return tree


def is_listed(name: str) -> bool:
    """Whether a file is an image of some kind or an image's label."""
    return not name.startswith(".") and (os.path.splitext(name)[1].casefold() in _IMAGES or name.endswith(LABELS))


def account(
    tree: Tree, used: Collection[str], aside: Mapping[str, str], *, by_folder: bool
) -> tuple[list[str], list[str]]:
    """Differences and notes: what is left out of `tree`.

    used:      paths of the images that are listed
    aside:     folder -> why images in it, or below, are left out on purpose
    by_folder: whether folders alone say what an image is
    """
    taken = Counter(path.rpartition("/")[0] for path in used)
    rest = {folder: _unused(folder, names, used) for folder, names in tree.files.items()}
    rest = {folder: counts for folder, counts in rest.items() if counts}
    used_below: Counter[str] = Counter()
    for folder, count in taken.items():
        for above in (folder, *_above(folder)):
            used_below[above] += count
    purpose: Counter[str] = Counter()
    whole: dict[str, Counter[str]] = {}
    single: dict[str, Counter[str]] = {}
    for folder, counts in rest.items():
        reason = next((aside[above] for above in (folder, *_above(folder)) if above in aside), None)
        if reason is not None:
            purpose[reason] += counts.total()
            continue
        top = _topmost(folder, used_below)
        (single if top is None else whole).setdefault(folder if top is None else top, Counter()).update(counts)
    lost = {top: counts for top, counts in whole.items() if by_folder and _is_lost(top, used_below, rest)}
    others = single | {top: counts for top, counts in whole.items() if top not in lost}
    differences = [f"left out: {_listed(lost)}"] if lost else []
    notes = [f"left out: {count:,} images ({reason})" for reason, count in purpose.items()]
    notes += [f"left out: {_listed(others)}"] if others else []
    if tree.links:
        first = ", ".join(sorted(tree.links)[:SHOWN])
        notes.append(f"left out: {len(tree.links):,} folders that are links, which are not entered: {first}")
    return differences, notes


def _unused(folder: str, names: list[str], used: Collection[str]) -> Counter[str]:
    """Unused images of a folder by suffix."""
    unused = (name for name in names if _join(folder, name) not in used and not name.endswith(LABELS))
    return Counter(os.path.splitext(name)[1].casefold() for name in unused)


def _topmost(folder: str, used_below: Mapping[str, int]) -> str | None:
    """The highest folder with this one in it and nothing used in it; None where this one has something used in it."""
    top = None
    for above in (folder, *_above(folder)):
        if used_below.get(above, 0) or not above:
            break
        top = above
    return top


def _is_lost(top: str, used_below: Mapping[str, int], rest: Mapping[str, object]) -> bool:
    """Whether an unused folder is a part by its name, or lies among classes."""
    parent, _, name = top.rpartition("/")
    if part_named(name):
        return True
    prefix = f"{parent}/" if parent else ""
    beside = {
        path.removeprefix(prefix).partition("/")[0] for path in (*used_below, *rest) if path and path.startswith(prefix)
    }
    return not any(part_named(other) for other in beside) and any(used_below.get(prefix + other) for other in beside)


def _listed(folders: Mapping[str, Counter[str]]) -> str:
    """`val/ 21 images, train/Angray/ 6 images (is anger meant?), happy/ 3 x .gif`."""
    shown = sorted(folders.items())
    words = [f"{folder or '.'}/ {_counted(counts)}{_meant(folder)}" for folder, counts in shown[:SHOWN]]
    more = shown[SHOWN:]
    if more:
        words.append(f"and {len(more):,} more folders with {sum(c.total() for _, c in more):,} images")
    return ", ".join(words)


def _counted(counts: Counter[str]) -> str:
    unread = [f"{count:,} x {suffix}" for suffix, count in sorted(counts.items()) if suffix not in IMAGE_SUFFIXES]
    read = sum(count for suffix, count in counts.items() if suffix in IMAGE_SUFFIXES)
    return ", ".join(([f"{read:,} images"] if read else []) + unread)


def _meant(folder: str) -> str:
    """A guess at a misspelt class or part."""
    name = folder.rpartition("/")[2]
    words = [word for known in WORDS.values() for word in known]
    guess = close_emotion(name) or next(iter(get_close_matches(name.casefold(), words, 1, 0.75)), None)
    return f" (is {guess} meant?)" if guess and part_named(name) is None else ""


def _above(folder: str) -> Iterator[str]:
    """The folders that a folder lies in, the nearest first, the root ("") last."""
    while folder:
        folder = folder.rpartition("/")[0]
        yield folder


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
