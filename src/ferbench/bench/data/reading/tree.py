"""Folders of images: listed in a fixed order, class folders by name or code, paths that cannot leave the root."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from unicodedata import category

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.cells import folded
from ferbench.bench.data.reading.names import canonical

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"))
ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".rar", ".7z", ".parquet"))
LONGEST_PATH = 1000
_CODE = re.compile(r"\d{1,4}", re.ASCII)


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn the system's refusal to read the user's files into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error


def is_image(name: str) -> bool:
    """Whether a file name is an image's; hidden files (also the "._" files of macOS) are none."""
    return not name.startswith(".") and os.path.splitext(name)[1].casefold() in IMAGE_SUFFIXES


def image_names(folder: Path) -> list[str]:
    """Names of the image files in a folder, sorted; no look into folders below."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image(entry.name))


def walk_images(folder: Path) -> Iterator[str]:
    """Paths of all images below `folder`, relative to it, in sorted order; folders that are links are not entered."""
    waiting = [""]
    while waiting:
        here = waiting.pop()
        with os.scandir(folder / here) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        prefix = f"{here}/" if here else ""
        yield from (prefix + name for name, is_folder in found if not is_folder and is_image(name))
        waiting += [
            prefix + name for name, is_folder in reversed(found) if is_folder and not name.startswith((".", "__MACOSX"))
        ]


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
        )


def first_folder(base: Path, names: Iterable[str]) -> Path | None:
    """The first of `names` that is a folder in `base`, in any case, or None."""
    there = {name.casefold(): name for name in subfolders(base)} if base.is_dir() else {}
    return next((base / there[name.casefold()] for name in names if name.casefold() in there), None)


def class_folders(
    folder: Path, codes: Mapping[int, str], spell: Callable[[str], str | None] = canonical
) -> tuple[str, dict[str, str]] | None:
    """Class folders in `folder`: ("words" or "digits", class name -> folder name); None where there are none.

    Folders are mapped by their names, never by their order. Digits are the data set's own `codes`; words are turned
    into canonical names by `spell`. DataError where words and digits are mixed, unknown or two folders are one class.
    """
    names = [name for name in subfolders(folder) if spell(name) is not None or _CODE.fullmatch(name)]
    if not names:
        return None
    digits = [name for name in names if _CODE.fullmatch(name)]
    if digits and len(digits) < len(names):
        raise DataError(f"{folder}: class folders with digits and with words side by side: {', '.join(names)[:120]}")
    found: dict[str, str] = {}
    for name in names:
        label = codes.get(int(name)) if digits else spell(name)
        if label is None:
            known = ", ".join(f"{code}={of}" for code, of in codes.items())
            raise DataError(f"{folder}: folder {name!r} is no class of this data set ({known})")
        if label in found:
            raise DataError(f"{folder}: folders {found[label]!r} and {name!r} are both {label}")
        found[label] = name
    return ("digits" if digits else "words"), found


def clean_path(text: str, where: str) -> str:
    """A path written in a label file, or found on the disk: relative, inside the root, "/" between folders, without
    "./" and "//". DataError for one that leads out of the root, or could not be printed or written down again."""
    path = text.strip().replace("\\", "/")
    steps = [step for step in path.split("/") if step not in ("", ".")]
    if not steps or len(path) > LONGEST_PATH or path.startswith("/") or re.match(r"[A-Za-z]:", path) or ".." in steps:
        raise DataError(f"{where}: {text[:60]!r} is not a path inside the data set's folder")
    if any(category(letter) == "Cs" for letter in path):
        raise DataError(f"{where}: {text[:60]!r} is not a name in UTF-8: rename the file, by convmv for one")
    if any(category(letter) in ("Cc", "Zl", "Zp") for letter in path):
        raise DataError(f"{where}: {text[:60]!r} is not a path inside the data set's folder: it has control characters")
    return "/".join(steps)


class Spelling:
    """Where files are that a list spells otherwise: in another letter case or another of Unicode's forms."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, list[str]]] = {}  # folder -> folded name -> names

    def find(self, path: str) -> str | None:
        """The only path that `path` may mean, None where there is none or several."""
        found = ""
        for step in path.split("/"):
            names = self._names(found)
            there = [step] if step in names.get(folded(step), ()) else names.get(folded(step), [])
            if len(there) != 1:
                return None
            found = f"{found}/{there[0]}" if found else there[0]
        return found

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            with suppress(OSError), os.scandir(self._root / folder) as entries:
                for entry in entries:
                    names.setdefault(folded(entry.name), []).append(entry.name)
            self._folders[folder] = names
        return self._folders[folder]


def archives_in(folder: Path) -> list[str]:
    """Names of archives in a folder: a hint, where nothing else is there, that they want unpacking."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if os.path.splitext(entry.name)[1].casefold() in ARCHIVES)


def nothing_found(root: Path, what: str, expected: str, access: str) -> DataError:
    """The error of a reader that recognises nothing at `root`."""
    if not root.is_dir():
        return DataError(f"no such folder: {root}; --root must name the folder that holds {what}")
    packed = archives_in(root)
    hint = f"; {', '.join(packed[:3])} must be unpacked first (ferbench unpacks nothing)" if packed else ""
    return DataError(f"no {what} in {root}: expected {expected}{hint}; {access}")
