"""Inputs with a few random changes, and what a reader may do with them: return, or raise one line a user can act on."""

from __future__ import annotations

import random
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ferbench.errors import UserError

TOKENS = [
    b"1e999", b"nan", b"NaN", b"Infinity", b"-1", b"0", b"9" * 30, b"9" * 400, b"9" * 5000, b"\x1b[31m", b'"', b"'",
    b"\\", b"..", b"/", b"\n", b"\r", b"\0", "é".encode(), b"\xff", b"[/x]", b"=1+1", b",", b"\t", b" ", b"[", b"]",
    b"{", b"}", b"=", b"true", b"null", b"[" * 3000, b"{" * 3000, b"1_0", "٣".encode(), "²".encode(), b".0", b"1.5",
    b"\xed\xa0\x80", b"#", b":", b"\\ud800",
]  # fmt: skip
WORD = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"


def mutate(rng: random.Random, seed: bytes) -> bytes:
    """One to six changes: a bit, a token, a gap, a word replaced, a line copied or dropped, random bytes."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        place = rng.randrange(len(data) + 1) if data else 0
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place:place] = rng.choice(TOKENS)
        elif kind == 2:
            del data[place : place + rng.choice((1, 2, 5, 20, 100))]
        elif kind == 3:
            end = place
            while end < len(data) and data[end] in WORD:
                end += 1
            while place > 0 and data[place - 1] in WORD:
                place -= 1
            data[place:end] = rng.choice(TOKENS)
        elif kind in (4, 5):
            lines = bytes(data).split(b"\n")
            if kind == 4:
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            else:
                lines.pop(rng.randrange(len(lines)))
            data = bytearray(b"\n".join(lines))
        else:
            count = rng.randrange(1, 5)
            data[place : place + count] = bytes(rng.randrange(256) for _ in range(count))
    return bytes(data)


def fuzz(name: str, seeds: Sequence[bytes], read: Callable[[bytes], object], times: int) -> None:
    """Give `read` the seeds and changed ones, the same for every call."""
    rng = random.Random(7)

    def inputs() -> Iterator[bytes]:
        yield from seeds
        for _ in range(times - len(seeds)):
            yield rng.choice(TOKENS) * rng.choice((1, 40)) if rng.random() < 0.05 else mutate(rng, rng.choice(seeds))

    check(name, inputs(), read)


def check(name: str, inputs: Iterable[Any], read: Callable[[Any], object]) -> None:
    """Fail, with a count for each place, where `read` raises anything but a UserError of one line, or an OSError."""
    taken = refused = 0
    wrong: Counter[str] = Counter()
    examples: dict[str, Any] = {}
    for given in inputs:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(given)
            taken += 1
        except (UserError, OSError) as error:
            refused += 1
            if "\n" in str(error) or "\x1b" in str(error):
                wrong["a message of several lines or with an escape code"] += 1
                examples.setdefault("a message of several lines or with an escape code", (given, str(error)))
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ferbench" in frame.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere of ours"
            wrong[f"{type(error).__name__} at {place}"] += 1
            examples.setdefault(f"{type(error).__name__} at {place}", (given, str(error)))
    print(f"{name}: {taken + refused + sum(wrong.values())} inputs, {taken} taken, {refused} refused, {dict(wrong)}")
    shown = [f"{times} x {kind}, such as {examples[kind]!r:.400}" for kind, times in wrong.most_common()]
    assert not wrong, f"{name}: " + "\n".join(shown)
