"""Several data sets in one run: unlabelled images of more than one, and class codes brought to the run's own.

Two data sets with the same classes number them differently, so whatever is not the training set is read by class name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.views.batches import ImageStore

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Unlabelled images of several data sets, counted through: those of the first, then those of the second, ...

    sources: all N images of each, whether they are drawn from or not
    labels:  [N] int64 index into the run's classes, -1 where unknown or of no such class: for the log alone
    train:   [n] int64, sorted: the positions to draw from
    fingerprint: SHA-256 (hex) over the sources' identities in their order
    """

    sources: tuple[FaceSet, ...]
    labels: Indices
    train: Indices
    fingerprint: str

    def identity(self) -> dict[str, str]:
        """What a run keeps of the images it was made on."""
        return {"fingerprint": self.fingerprint}


def make_pool(parts: Sequence[tuple[FaceSet, Indices]], classes: tuple[str, ...]) -> Pool:
    """The pool of (data set, positions in it to draw from) in this order, for a run over `classes`."""
    sizes = [len(faces.labels) for faces, _ in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    digest = hashlib.sha256("\n".join(line for faces, _ in parts for line in faces.identity().values()).encode())
    return Pool(
        sources=tuple(faces for faces, _ in parts),
        labels=np.concatenate([_translated(faces, classes) for faces, _ in parts]),
        train=np.concatenate([np.sort(chosen) + start for (_, chosen), start in zip(parts, starts, strict=True)]),
        fingerprint=digest.hexdigest(),
    )


def for_testing(test: FaceSet, classes: tuple[str, ...]) -> FaceSet:
    """`test` with its labels as indices into the training set's `classes`; DataError where it has others."""
    counts = test.class_counts(test.test)
    foreign = [name for name, count in counts.items() if count and name not in classes]
    if foreign:
        raise DataError(
            f"{test.name} has test images of {', '.join(foreign)}, which is no class of the training set "
            f"({', '.join(classes)}); choose an option of {test.name} that leaves it out"
        )
    return as_unlabelled(test, classes)


def as_unlabelled(faces: FaceSet, classes: tuple[str, ...]) -> FaceSet:
    """`faces` with its labels as indices into `classes`, -1 for any other class: itself where they are the same."""
    if faces.classes == classes:
        return faces
    return replace(faces, labels=_translated(faces, classes), classes=classes, votes=None)


def _translated(faces: FaceSet, classes: tuple[str, ...]) -> Indices:
    codes = [classes.index(name) if name in classes else -1 for name in faces.classes]
    return np.array([*codes, -1], np.int64)[faces.labels]


class PoolStore:
    """The images of a pool at one size: the largest height and width of its sources, three channels if any has three.

    They are augmented at that size, where a data set alone is augmented at its own.
    own: a store that is there already; the source with the same images shares it
    """

    def __init__(self, pool: Pool, device: torch.device, own: ImageStore, own_faces: FaceSet) -> None:
        self.device = device
        self.labels = torch.from_numpy(pool.labels).to(device)
        shapes = np.array([source.images.shape[1:] for source in pool.sources])
        self.shape = tuple(shapes.max(0).tolist())  # height, width, channels
        self._stores = [
            own if source.images is own_faces.images else ImageStore(source, device) for source in pool.sources
        ]
        self._starts = torch.from_numpy(np.cumsum([0, *(len(source.labels) for source in pool.sources)]))

    def gather(self, index: Tensor) -> Tensor:
        """index [B] on the host, positions in the pool -> uint8 [B, H, W, C] on the device."""
        images = torch.empty((len(index), *self.shape), dtype=torch.uint8, device=self.device)
        for number, store in enumerate(self._stores):
            first, end = self._starts[number], self._starts[number + 1]
            rows = torch.nonzero((index >= first) & (index < end)).squeeze(1)
            if len(rows):
                there = rows.to(self.device, non_blocking=True)
                images[there] = self._fitted(store.gather(index[rows] - first))
        return images

    def _fitted(self, images: Tensor) -> Tensor:
        """[b, h, w, c] -> [b, H, W, C]: resized (bilinear, antialiased), grey repeated into three channels."""
        height, width, channels = self.shape
        if images.shape[1:3] != (height, width):
            resized = functional.resize(images.permute(0, 3, 1, 2), [height, width], antialias=True)
            images = resized.permute(0, 2, 3, 1)
        return images.expand(-1, -1, -1, channels)
