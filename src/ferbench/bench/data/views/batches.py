"""Batches on the device: a shuffled stream of indices, a gather from the image array, and the views a method wants.

Step t of a stream is a function of (seed, t), so an interrupted run continues where it was without any saved position.
With several processes each draws the parameters of the whole batch and keeps every n-th row: the global batch is the
same for any number of processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.randomness import generator
from ferbench.bench.data.views.augment import View, ViewRecipe, apply, apply_plain, augment, draw, view_boxes
from ferbench.methods import Labelled, Unlabelled, Views

FREE_SHARE = 0.5  # an image array goes to the device if it takes at most this share of its free memory


class Store(Protocol):
    """Where batches take their images from: one data set's (ImageStore) or several data sets' (pool.PoolStore)."""

    device: torch.device
    labels: Tensor  # [N] int64 on the device

    def gather(self, index: Tensor) -> Tensor:
        """index [B] on the host -> uint8 [B, H, W, C] on the device."""


class ImageStore:
    """The images of a FaceSet, on the device where they fit there, else gathered on the host."""

    def __init__(self, faces: FaceSet, device: torch.device) -> None:
        self.device = device
        self.labels = torch.from_numpy(faces.labels.astype(np.int64)).to(device)
        self.boxes = None if faces.boxes is None else torch.from_numpy(faces.boxes.astype(np.float32)).to(device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")  # a read-only memory map, and only read here
            images = torch.from_numpy(np.asarray(faces.images))
        if device.type == "cuda" and faces.images.nbytes < FREE_SHARE * torch.cuda.mem_get_info(device)[0]:
            images = images.to(device)
        self.images = images
        self.on_device = images.device.type == device.type  # the devices differ where one of them has no number

    def gather(self, index: Tensor) -> Tensor:
        """index [B] on the host -> uint8 [B, H, W, C] on the device."""
        if self.on_device:
            return self.images[index.to(self.device, non_blocking=True)]
        return self.images[index].pin_memory().to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Stream:
    """An endless shuffle of `indices` in batches: each pass is a new order, the incomplete last batch is left out.

    A set smaller than a batch is repeated within it, every image equally often but for one time.
    """

    indices: NDArray[np.int64]
    batch: int
    seed: int
    purpose: str

    def __post_init__(self) -> None:
        if len(self.indices) == 0:
            raise DataError(f"there are no {self.purpose} images to draw from; choose another split")

    def at(self, step: int) -> Tensor:
        """Positions [batch] in the data set for `step`."""
        size = len(self.indices)
        if size < self.batch:
            order = [self._order(step * (1 + self.batch // size) + i) for i in range(1 + self.batch // size)]
            return torch.from_numpy(self.indices)[torch.cat(order)[: self.batch]]
        steps = size // self.batch
        start = (step % steps) * self.batch
        return torch.from_numpy(self.indices)[self._order(step // steps)[start : start + self.batch]]

    def _order(self, number: int) -> Tensor:
        return _order(len(self.indices), self.seed, self.purpose, number)


@lru_cache(maxsize=4)
def _order(size: int, seed: int, purpose: str, number: int) -> Tensor:
    """A pass's order, kept: a step of a large set would else shuffle all of it. Read only."""
    return torch.randperm(size, generator=generator(seed, purpose, number))


@dataclass(frozen=True)
class Share:
    """Which rows of a global batch this process works on."""

    rank: int = 0
    world: int = 1

    @property
    def rows(self) -> slice:
        return slice(self.rank, None, self.world)


class Batches:
    """Labelled and unlabelled batches of one run."""

    def __init__(
        self,
        store: ImageStore,
        labelled: Stream,
        unlabelled: Stream | None,
        views: Views,
        recipe: ViewRecipe,
        share: Share,
        unlabelled_store: Store | None = None,
        *,
        boxes: bool = False,
    ) -> None:
        self.store = store
        self.boxes = boxes and store.boxes is not None
        self.unlabelled_store: Store = unlabelled_store or store
        self.labelled_stream = labelled
        self.unlabelled_stream = unlabelled
        self.views = views
        self.recipe = recipe
        self.share = share

    def labelled(self, step: int) -> Labelled:
        index, views = self._batch(self.store, self.labelled_stream, self.views.labelled, step)
        return Labelled(views, self.store.labels[index], index, self._boxes(step) if self.boxes else None)

    def unlabelled(self, step: int) -> Unlabelled | None:
        if self.unlabelled_stream is None:
            return None
        index, views = self._batch(self.unlabelled_store, self.unlabelled_stream, self.views.unlabelled, step)
        return Unlabelled(views, index)

    def truth(self, unlabelled: Unlabelled) -> Tensor:
        """The labels the data set has for an unlabelled batch (-1: none), for the log alone."""
        return self.unlabelled_store.labels[unlabelled.index]

    def _boxes(self, step: int) -> dict[str, Tensor]:
        """Face boxes of the labelled batch of `step`, by view: the views' parameters drawn once more."""
        index = self.labelled_stream.at(step)
        rows = torch.arange(len(index))[self.share.rows]
        assert self.store.boxes is not None
        stored = self.store.boxes[index[rows].to(self.store.device)]
        height, width = self.store.images.shape[1:3]
        boxes: dict[str, Tensor] = {}
        for name in self.views.labelled:
            params = draw(name, len(index), self.recipe, self._rng(self.labelled_stream, name, step))
            boxes[name] = view_boxes(stored, (height, width), None if params is None else params[rows], self.recipe)
        return boxes

    def _rng(self, stream: Stream, name: View, step: int) -> torch.Generator:
        return generator(stream.seed, f"{stream.purpose}/{name}", step)

    def _batch(
        self, store: Store, stream: Stream, names: tuple[View, ...], step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        index = stream.at(step)
        rows = torch.arange(len(index))[self.share.rows]
        images = store.gather(index[rows])
        views: dict[str, Tensor] = {}
        for name in names:
            params = draw(name, len(index), self.recipe, self._rng(stream, name, step))
            views[name] = apply(images, None if params is None else params[rows], self.recipe)
        return index[rows].to(store.device), views


def view_batches(
    store: Store,
    indices: NDArray[np.int64],
    recipe: ViewRecipe,
    view: View = "plain",
    rng: torch.Generator | None = None,
    size: int = 256,
) -> Iterator[Tensor]:
    """One view, un-augmented unless asked, of all `indices` in their order: [<= size, 3, S, S] at a time."""
    for start in range(0, len(indices), size):
        images = store.gather(torch.from_numpy(indices[start : start + size]))
        yield apply_plain(images, recipe) if rng is None else augment(images, view, recipe, rng)
