"""Class names of sets that are not published ones: whatever words or codes a user's folders and tables have."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.cells import folded, plain
from ferbench.bench.data.reading.names import (
    AFFECTNET,
    CKEXTENDED,
    CKPLUS,
    EMOTIONS,
    FER2013,
    FERPLUS,
    RAFDB,
    canonical,
    close_emotion,
)
from ferbench.validation import Option

CODES: Mapping[str, Mapping[int, str]] = {
    "none": {}, "rafdb": RAFDB, "affectnet": AFFECTNET, "fer2013": FER2013, "ckplus": CKPLUS, "ckextended": CKEXTENDED,
    "ferplus": FERPLUS,
}  # fmt: skip
CODES_OPTION = Option("none", "whose codes the numbers are that stand for classes", tuple(CODES))
MOST_CLASSES = 1000
LONGEST_NAME = 60
_CODE = re.compile(r"\d{1,6}", re.ASCII)


@dataclass(frozen=True)
class Classes:
    """names in their order; word -> index into them; warnings, one line each."""

    names: tuple[str, ...]
    of: Mapping[str, int]
    warnings: tuple[str, ...] = ()


def order_classes(words: Collection[str], codes: str, where: str) -> Classes:
    """The classes that `words` (folder names, cells of a table) stand for, in a fixed order. Raises DataError.

    codes:    a key of CODES: numbers are that data set's codes, and the classes are in their order
    Words that are all expressions take their canonical names, in the order of EMOTIONS, however they are spelt;
    numbers are names in their numerical order; any other words are names in alphabetical order, those that differ in
    letter case or Unicode form alone being one.
    """
    if len(words) > MOST_CLASSES:
        raise DataError(f"{where}: {len(words):,} classes; are these people? Then read it as `faces`, without classes")
    wrong = sorted(word for word in words if not word or len(word) > LONGEST_NAME or not word.isprintable())
    if wrong:
        raise DataError(f"{where}: {wrong[0][:LONGEST_NAME]!r} is no class name")
    if codes != "none":
        return _coded(words, CODES[codes], where)
    numbers = {word: plain(word) for word in words if _CODE.fullmatch(plain(word))}
    spelt = {word: canonical(word) for word in words}
    if all(spelt.values()):
        names = tuple(name for name in EMOTIONS if name in spelt.values())
        return Classes(names, {word: names.index(name) for word, name in spelt.items() if name is not None})
    if len(numbers) == len(words):
        names = tuple(sorted(set(numbers.values()), key=lambda word: (int(word), word)))
        warning = f"classes are only numbers ({', '.join(names[:8])}): say what they mean with the option codes"
        return Classes(names, {word: names.index(number) for word, number in numbers.items()}, (warning,))
    first: dict[str, str] = {}  # one spelling for all that are one word
    for word in sorted(words):
        first.setdefault(folded(word), word)
    names = tuple(sorted(first.values()))
    of = {word: names.index(first[folded(word)]) for word in words}
    return Classes(names, of, _doubts(names, spelt))


def _doubts(names: tuple[str, ...], spelt: Mapping[str, str | None]) -> tuple[str, ...]:
    """Warnings about words some of which are expressions: slips among the others."""
    some = sorted(word for word, name in spelt.items() if name is not None)
    slips = [f"{word} ({close}?)" for word in names if (close := close_emotion(word))]
    lines = [f"not all classes are expressions, so {', '.join(some[:3])} keep their spelling"] if some else []
    lines += [f"classes that may be misspelt: {', '.join(slips[:8])}"] if slips else []
    return tuple(lines)


def _coded(words: Collection[str], codes: Mapping[int, str], where: str) -> Classes:
    number = {word: int(plain(word)) for word in words if _CODE.fullmatch(plain(word))}
    wrong = sorted(word for word in words if number.get(word) not in codes)
    if wrong:
        known = ", ".join(f"{code}={name}" for code, name in codes.items())
        raise DataError(f"{where}: {wrong[0]!r} is none of the codes {known}")
    present = {codes[code] for code in number.values()}
    names = tuple(name for name in codes.values() if name in present)
    return Classes(names, {word: names.index(codes[code]) for word, code in number.items()})
