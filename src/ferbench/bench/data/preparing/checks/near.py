"""Near copies: the same picture mirrored, saved again, resized or slightly cropped, whatever its bytes are.

Each stored image keeps a thumbnail of 16 x 16 grey cells. Two images are near copies where their thumbnails, brought
to mean 0 and length 1, have a product of 0.98 or more, straight or mirrored. On FERPlus all pairs were compared once:
of the 1,431 pairs above that line that are not pixel-identical none among those looked at shows two photographs.

Comparing all pairs of a large set would take hours, so there candidates are found by a code: one bit for each of the
thumbnail's lowest frequencies that a mirror image does not change, set where the image is above the set's median. The
bits nearest to their median are tried both ways. What the codes find, the thumbnails decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
ALIKE = 0.98  # product of two thumbnails from which on they show the same picture
FLAT = 2.0  # grey levels of standard deviation below which a thumbnail shows nothing that could be told apart
WEAK = 5  # bits of a code that are tried both ways
SPARE_BITS = 6  # bits of a code beyond those that number the images: chance collisions stay few
ALL_PAIRS = 4096  # images up to which all pairs are compared
BLOCK = 1 << 12  # candidates compared at a time: what stays in a core's cache

Thumbs = NDArray[np.uint8]  # [N, 256]


def thumbnails(images: NDArray[np.uint8]) -> Thumbs:
    """[N, 256] the mean brightness of 16 x 16 cells of images [N, S, S, C]: grey, or the green of RGB."""
    grey = images[..., images.shape[3] // 2]
    step, rest = divmod(grey.shape[1], SIDE)
    if rest:
        small = [
            Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX) for image in np.ascontiguousarray(grey)
        ]
        return np.stack([np.asarray(image) for image in small]).reshape(-1, SIDE * SIDE)
    rows = sum((grey[:, k::step] for k in range(1, step)), start=grey[:, ::step].astype(np.uint32))
    cells = sum((rows[:, :, k::step] for k in range(1, step)), start=rows[:, :, ::step])
    means: Thumbs = ((cells + step * step // 2) // (step * step)).astype(np.uint8)
    return means.reshape(-1, SIDE * SIDE)


def near_copies(thumbs: Thumbs, same: NDArray[np.int64], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N] index of the first image of which each is a near copy, itself where there is none before.

    thumbs: [N, 256]; same: [N] the first image with the same pixels, which are near copies in any case; usable: [N]
    images that are not (unreadable ones) are near copies of nothing. A copy of a copy is in the same group.
    """
    rows = np.flatnonzero(usable & (same == np.arange(len(same))))
    unit, shown = _unit(thumbs[rows])
    if not shown.all():
        rows, unit = rows[shown], unit[shown]
    leader = same.copy()
    if len(rows) > 1:
        for one, other in _alike(unit):
            _join(leader, rows[one], rows[other])
    return _roots(leader)


def _unit(thumbs: Thumbs) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Thumbnails at mean 0 and length 1, and which of them are not flat."""
    values = thumbs.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("nk,nk->n", values, values))
    shown: NDArray[np.bool_] = length > FLAT * SIDE
    values /= np.maximum(length, np.float32(1e-6))[:, None]
    return values, shown


def _alike(unit: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of positions whose thumbnails are alike, straight or mirrored; some pairs twice."""
    mirrored = unit.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(len(unit), -1)
    if len(unit) <= ALL_PAIRS:
        one, other = np.nonzero(np.triu((unit @ unit.T >= ALIKE) | (unit @ mirrored.T >= ALIKE), 1))
        yield one, other
        return
    for one, other in _candidates(unit):
        alike = np.einsum("nk,nk->n", unit[one], unit[other]) >= ALIKE
        alike |= np.einsum("nk,nk->n", unit[one], mirrored[other]) >= ALIKE
        yield one[alike], other[alike]


def _candidates(unit: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs (one, other), one < other, where the code of one is a probe of the other or the other way round."""
    codes, probes = _codes(unit)
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    first, last = (np.searchsorted(ordered, probes, side) for side in ("left", "right"))
    counts = last - first  # [N, probes]; the image itself is among those of its own code
    asked, probe = np.nonzero(counts > (probes == codes[:, None]))
    ends = np.cumsum(counts[asked, probe])
    for start, stop in _blocks(ends):
        many = counts[asked[start:stop], probe[start:stop]]
        one = np.repeat(asked[start:stop], many)
        within = np.arange(len(one)) - np.repeat(np.cumsum(many) - many, many)
        other = order[np.repeat(first[asked[start:stop], probe[start:stop]], many) + within]
        apart = one != other
        yield np.minimum(one, other)[apart], np.maximum(one, other)[apart]


def _blocks(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of questions with about BLOCK answers each; `ends` is the running number of answers."""
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + BLOCK, "right")), start + 1)
        yield start, stop
        start = stop


def _codes(unit: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """[N] code of each image, and [N, 2 ** WEAK] that code with its weakest bits both ways."""
    bits = min(len(unit).bit_length() + SPARE_BITS, 40)
    values = unit @ _waves(bits)
    values -= np.median(values, axis=0)
    spread = np.abs(values).mean(axis=0)
    codes = (values > 0) @ (np.int64(1) << np.arange(bits, dtype=np.int64))
    weakest = np.argpartition(np.abs(values) / np.maximum(spread, np.float32(1e-12)), WEAK, axis=1)[:, :WEAK]
    flips = np.int64(1) << weakest.astype(np.int64)
    chosen = (np.arange(1 << WEAK)[:, None] >> np.arange(WEAK)) & 1
    return codes, codes[:, None] ^ (flips @ chosen.T)


def _waves(count: int) -> NDArray[np.float32]:
    """[256, count] the lowest frequencies of the cosine transform that are even from left to right."""
    places = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    pairs = sorted(
        ((down, across) for down in range(SIDE) for across in range(0, SIDE, 2) if down + across),
        key=lambda pair: (sum(pair), pair),
    )
    waves = [np.outer(np.cos(down * places), np.cos(across * places)).ravel() for down, across in pairs[:count]]
    return np.stack(waves, axis=1).astype(np.float32)


def _join(leader: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Make groups that share a pair one, led by their first image."""
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        a, b = _root(leader, a), _root(leader, b)
        leader[max(a, b)] = min(a, b)


def _root(leader: NDArray[np.int64], row: int) -> int:
    while leader[row] != row:
        row = int(leader[row])
    return row


def _roots(leader: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every image's leader, however many steps away."""
    while True:
        further = leader[leader]
        if (further == leader).all():
            return leader
        leader = further
