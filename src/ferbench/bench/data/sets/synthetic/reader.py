"""Synthetic faces: a data set that needs no download, for the demo, the tests and for trying a method out.

Cartoon faces whose expression is made of action units, with identity, pose, light, focus and occlusion as nuisances.
Ten simulated annotators vote on each face, and the label is their majority: weak and blended faces divide them, so
labels are ambiguous where faces are, and some are wrong. Class sizes are RAF-DB's, scaled.

How hard it is: a ResNet of 0.3 M weights, trained for a few minutes at scale 0.41 (5,032 train images), reaches 86 %
accuracy (77 % mean over classes) with all labels and 56 % (42 %) with 250.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import PARTS, DataError, FaceSet
from ferbench.bench.data.preparing.cache import load_prepared, write_prepared
from ferbench.bench.data.preparing.checks.fingerprint import faceset_fingerprint, image_digests, pixel_fingerprint
from ferbench.bench.data.preparing.checks.intact import check_opened
from ferbench.bench.data.sets.synthetic.expressions import CLASSES, UNITS, cast_faces
from ferbench.bench.data.sets.synthetic.people import IDENTITY, SCENE, draw
from ferbench.bench.data.sets.synthetic.render import boxes, render

NAME = "synthetic"
VERSION = 1  # raised whenever the same arguments come to give other images or labels
RAFDB_TRAIN = (2524, 4772, 1290, 1982, 705, 717, 281)  # in the order of CLASSES
RAFDB_TEST = (680, 1185, 329, 478, 162, 160, 74)
CONTEMPT = (120, 30)  # RAF-DB has no contempt: a rare class in the spirit of FERPlus
IMAGES_PER_SUBJECT = 12
_BLOCK = 16  # images rendered at once: their working arrays stay in a core's cache


@dataclass(frozen=True)
class Faces:
    """N synthetic faces of S pixels a side and C channels.

    images:    [N, S, S, C] uint8
    labels:    [N] int64, what most annotators called the expression (on a tie the first class)
    truth:     [N] int64, the expression the face was drawn with, at `intensity` [N] (1 = full)
    votes:     [N, K] float32, ten in each row
    boxes:     [N, 4] float32, x1, y1, x2, y2 in pixels
    subjects:  [N] int64, whose face it is, from 0
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    truth: NDArray[np.int64]
    intensity: NDArray[np.float64]
    votes: NDArray[np.float32]
    boxes: NDArray[np.float32]
    subjects: NDArray[np.int64]


def class_sizes(scale: float, classes: int = 7) -> tuple[list[int], list[int]]:
    """Train and test images per class: RAF-DB's times `scale` (12,271 and 3,068 in all at 1), at least one each."""
    if classes not in (7, 8):
        raise DataError(f"synthetic: classes cannot be {classes}; give 7, or 8 to have contempt too")
    if not 0 < scale <= 10:
        raise DataError(f"synthetic: scale cannot be {scale}; give a share of RAF-DB's size above 0 and up to 10")
    train, test = (
        [max(1, int(count * scale + 0.5)) for count in (*counts, contempt)[:classes]]
        for counts, contempt in zip((RAFDB_TRAIN, RAFDB_TEST), CONTEMPT, strict=True)
    )
    return train, test


def generate(
    counts: Sequence[int],
    *,
    size: int = 48,
    seed: int = 0,
    part: int = 0,
    channels: int = 1,
    threads: int | None = None,
) -> Faces:
    """`counts[k]` faces labelled with class k of CLASSES (as many classes as counts), in a random order.

    part:     one seed gives each part its own people and draws
    channels: 1 grey, 3 RGB
    threads:  None for one per core; the faces do not depend on it
    """
    if not 2 <= len(counts) <= len(CLASSES) or min(counts) < 0 or sum(counts) == 0:
        raise DataError(f"synthetic: counts cannot be {list(counts)}; give the sizes of 2 to {len(CLASSES)} classes")
    if channels not in (1, 3):
        raise DataError(f"synthetic: channels cannot be {channels}; give 1 (grey) or 3 (RGB)")
    _check_size_and_seed(size, seed)
    casting, people, scenes, pixels = np.random.SeedSequence([seed, part]).spawn(4)
    cast = cast_faces(np.array(counts, np.int64), np.random.default_rng(casting))
    total, crowd = len(cast.truth), -(-len(cast.truth) // IMAGES_PER_SUBJECT)
    identity = draw(IDENTITY, np.random.default_rng(people), crowd)
    rng = np.random.default_rng(scenes)
    subjects = (rng.random(total) * crowd).astype(np.int64)
    parameters = {name: values[subjects] for name, values in identity.items()} | draw(SCENE, rng, total)
    parameters |= {name: cast.units[:, column] for column, name in enumerate(UNITS)}
    return Faces(
        images=_rendered(parameters, (total, size, size, channels), pixels, threads),
        labels=np.argmax(cast.votes, axis=1).astype(np.int64),
        truth=cast.truth,
        intensity=cast.intensity,
        votes=cast.votes.astype(np.float32),
        boxes=boxes(parameters, size),
        subjects=subjects,
    )


def synthetic(
    *, scale: float = 0.35, classes: int = 7, size: int = 48, seed: int = 0, cache: Path | None = None
) -> FaceSet:
    """The synthetic face set, drawn anew or read from the folder `cache`, where it is kept for the next time.

    scale: class sizes as a share of RAF-DB's; classes: 7, or 8 to have contempt too; size: pixels a side. A cached set
    that is damaged or was drawn otherwise is replaced. Raises DataError for an argument out of range.
    """
    sizes = class_sizes(scale, classes)
    _check_size_and_seed(size, seed)
    options: dict[str, str | int | bool] = {
        "version": VERSION, "scale": repr(float(scale)), "classes": classes, "size": size, "seed": seed,
    }  # fmt: skip
    if cache is None:
        return _faceset(_drawn(sizes, size, seed), options)
    key = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{NAME}-{key}"
    arrays = _cached(folder, options)
    if arrays is None:
        arrays = _drawn(sizes, size, seed)
        _keep(folder, arrays, options)
    return _faceset(arrays, options)


def _check_size_and_seed(size: int, seed: int) -> None:
    if not 16 <= size <= 512:
        raise DataError(f"synthetic: size cannot be {size}; give 16 to 512 pixels")
    if seed < 0:
        raise DataError(f"synthetic: seed cannot be {seed}; give 0 or more")


def _rendered(
    parameters: Mapping[str, NDArray[np.float64]],
    shape: tuple[int, int, int, int],
    pixels: np.random.SeedSequence,
    threads: int | None,
) -> NDArray[np.uint8]:
    """Images of `shape` [N, S, S, C], drawn block by block; each block has a generator of its own."""
    images = np.empty(shape, np.uint8)

    def fill(start: int, seed: np.random.SeedSequence) -> None:
        rows, rng = slice(start, start + _BLOCK), np.random.default_rng(seed)
        block = images[rows]
        grain = rng.random(block.shape[:3], np.float32) + rng.random(block.shape[:3], np.float32) - 1
        block[:] = render({name: values[rows] for name, values in parameters.items()}, grain, shape[3])

    starts = range(0, shape[0], _BLOCK)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(fill, starts, pixels.spawn(len(starts))))
    return images


def _drawn(sizes: tuple[list[int], list[int]], size: int, seed: int) -> dict[str, NDArray[Any]]:
    """The arrays of a face set: train images first, then test images, with other people in them."""
    train, test = (generate(counts, size=size, seed=seed, part=part) for part, counts in enumerate(sizes))
    arrays = {
        name: np.concatenate([getattr(train, name), getattr(test, name)])
        for name in ("images", "labels", "votes", "boxes", "subjects")
    }
    arrays["subjects"][len(train.labels) :] += train.subjects.max() + 1
    names = [("train", len(train.labels)), ("test", len(test.labels))]
    arrays["ids"] = np.array([f"{part}/{number:05d}" for part, total in names for number in range(1, total + 1)])
    arrays["digests"] = image_digests(arrays["images"])
    arrays["parts"] = np.repeat([PARTS.index(part) for part, _ in names], [total for _, total in names]).astype(np.int8)
    return arrays


def _faceset(arrays: Mapping[str, NDArray[Any]], options: Mapping[str, str | int | bool]) -> FaceSet:
    ids, labels, parts = arrays["ids"], arrays["labels"], arrays["parts"]
    train, test = (np.flatnonzero(parts == PARTS.index(part)).astype(np.int64) for part in ("train", "test"))
    return FaceSet(
        name=NAME,
        classes=CLASSES[: int(options["classes"])],
        images=arrays["images"],
        labels=labels,
        parts=parts,
        ids=ids,
        train=train,
        test=test,
        options=options,
        fingerprint=faceset_fingerprint(options, ids, labels, parts, train, test),
        votes=arrays["votes"],
        boxes=arrays["boxes"],
        subjects=arrays["subjects"],
        pixels=pixel_fingerprint(arrays["digests"]),
    )


def _keep(folder: Path, arrays: Mapping[str, NDArray[Any]], options: Mapping[str, str | int | bool]) -> None:
    images = arrays["images"]
    with write_prepared(folder, NAME, images.shape) as draft:
        draft.images[:] = images
        draft.index = {name: values for name, values in arrays.items() if name != "images"}
        draft.meta = {"options": dict(options), "layout": "drawn by ferbench, no files needed"}


def _cached(folder: Path, options: Mapping[str, str | int | bool]) -> dict[str, NDArray[Any]] | None:
    """The arrays kept in `folder`; None where there are none, or they cannot be read, or are of another set."""
    try:
        prepared = load_prepared(folder, NAME)
        check_opened(prepared, NAME)
    except DataError:
        return None
    arrays = dict(prepared.index) | {"images": prepared.images}
    expected = {"images", "ids", "parts", "labels", "votes", "boxes", "subjects", "digests"}
    return arrays if expected <= arrays.keys() and prepared.meta.get("options") == options else None
