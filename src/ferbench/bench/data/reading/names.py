"""Class names: the one spelling ferbench uses, the synonyms data sets use, and the codes each data set writes.

A data set's own codes stay at the edge: a reader turns them into these names at once, because two data sets with the
same eight classes number them differently, and a re-ordered folder is the commonest silent error of the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.reading.cells import folded

EMOTIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")

_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "neutral": ("neutrality", "natural"),
    "happiness": ("happy", "joy"),
    "sadness": ("sad",),
    "surprise": ("surprised",),
    "fear": ("fearful", "afraid"),
    "disgust": ("disgusted",),
    "anger": ("angry",),
    "contempt": ("contemptuous",),
}
_CANONICAL = {word: name for name, synonyms in _SYNONYMS.items() for word in (name, *synonyms)}

# Codes as the data sets' own files write them -> canonical name.
RAFDB = dict(enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), start=1))
RAFDB_COMPOUND = dict(
    enumerate(
        (
            "happily surprised", "happily disgusted", "sadly fearful", "sadly angry", "sadly surprised",
            "sadly disgusted", "fearfully angry", "fearfully surprised", "angrily surprised", "angrily disgusted",
            "disgustedly surprised",
        ),
        start=1,
    )
)  # fmt: skip
AFFECTNET = dict(enumerate(EMOTIONS))
FERPLUS = dict(enumerate(("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")))
AFFECTNET_OTHERS = {8: "none", 9: "uncertain", 10: "no-face"}
FER2013 = dict(enumerate(("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")))
CKPLUS = dict(enumerate(("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")))
CKEXTENDED = FER2013 | {7: "contempt"}


def canonical(word: str) -> str | None:
    """The canonical name of an emotion written in any of the usual ways, None for any other word."""
    return _CANONICAL.get(folded(word))


def close_emotion(word: str) -> str | None:
    """The emotion that a word may be a slip of (suprise, Angray); None for one rightly spelt, and for other words."""
    close = get_close_matches(folded(word), _CANONICAL, 1, 0.75) if canonical(word) is None else []
    return _CANONICAL[close[0]] if close else None


def emotion(word: str, where: str) -> str:
    """The canonical name of `word`; DataError, naming the place `where`, for a word that is no emotion."""
    name = canonical(word)
    if name is None:
        raise DataError(f"{where}: {word[:40]!r} is no expression ferbench knows ({', '.join(EMOTIONS)})")
    return name
