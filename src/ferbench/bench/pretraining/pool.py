"""The training images of one or more face sets as one pool, read batch by batch."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.randomness import generator
from ferbench.bench.data.views.augment import ViewRecipe, apply, draw
from ferbench.bench.data.views.batches import ImageStore, Share
from ferbench.methods import View


class Pool:
    """Positions 0, 1, ... run through the sets' `train` images in the order given; sizes and channels may differ."""

    def __init__(self, faces: Sequence[FaceSet], device: torch.device) -> None:
        self.device = device
        self._faces = faces
        self._stores = [ImageStore(part, device) for part in faces]
        self._starts = np.cumsum([0, *(len(part.train) for part in faces)])
        if self._starts[-1] == 0:
            raise DataError(f"{', '.join(part.name for part in faces)}: no training images to pre-train on")
        self.positions = np.arange(self._starts[-1], dtype=np.int64)

    def views(
        self, chosen: Tensor, names: Sequence[View], recipe: ViewRecipe, seed: int, step: int, share: Share
    ) -> dict[str, Tensor]:
        """[rows of this process, 3, S, S] under each name; parameters are drawn for the whole batch."""
        result: dict[str, Tensor] = {}
        for name in names:
            params = draw(name, len(chosen), recipe, generator(seed, f"pre-training/{name}", step))
            rows = torch.arange(len(chosen))[share.rows]
            result[name] = self._apply(chosen[rows], None if params is None else params[rows], recipe)
        return result

    def plain(self, chosen: Tensor, recipe: ViewRecipe) -> Tensor:
        """The images at these positions, resized and normalised alone."""
        return self._apply(chosen, None, recipe)

    def _apply(self, chosen: Tensor, params: object, recipe: ViewRecipe) -> Tensor:
        """Each set's images by themselves, put together in the batch's order; all on the host until the gather."""
        owner = torch.from_numpy(np.searchsorted(self._starts, chosen.numpy(), side="right") - 1)
        parts, rows = [], []
        for number, (store, faces) in enumerate(zip(self._stores, self._faces, strict=True)):
            mine = (owner == number).nonzero().flatten()
            if len(mine):
                inside = faces.train[chosen[mine].numpy() - self._starts[number]]
                images = store.gather(torch.from_numpy(inside))
                parts.append(apply(images, None if params is None else params[mine], recipe))  # type: ignore[index]
                rows.append(mine)
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts)[torch.cat(rows).argsort().to(self.device)]

    def release(self) -> None:
        """Give memory-mapped pages back to the system: without it a pass over the images ends with all of them mapped.

        They stay in the system's cache as long as it has room.
        """
        for faces in self._faces:
            mapped = getattr(faces.images, "_mmap", None)
            if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                with suppress(OSError, ValueError):
                    mapped.madvise(mmap.MADV_DONTNEED)
