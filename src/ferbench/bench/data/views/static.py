"""Batches from tensors of fixed shape: what the host decides is drawn for many steps at once, the device does the rest.

What a step takes and its plans are functions of (seed, step), as in `batches`, and have the same bits; but a plan is
made for the rows of many steps in one go, and the gather and the views need nothing that the host knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ferbench.bench.data.randomness import derive
from ferbench.bench.data.views.augment import View, channels_last, columns, from_uniform, make_plan, planned
from ferbench.bench.data.views.batches import Batches, ImageStore, Stream
from ferbench.kernels.augmentation.plan import TAIL
from ferbench.methods import Labelled, Unlabelled

Field = tuple[torch.dtype, tuple[int, ...]]


def why_not(batches: Batches) -> str:
    """Why the views of these batches must be made step by step with the host's help; empty where they need not."""
    if batches.recipe.geometry != "crop":
        return f"its {batches.recipe.geometry} views are made with the host's help"
    if batches.boxes:
        return "its face boxes are moved with the host's help"
    stores = [batches.store, *([batches.unlabelled_store] if batches.unlabelled_stream else [])]
    if not all(isinstance(store, ImageStore) for store in stores):
        return "its unlabelled images come from several data sets"
    if not all(store.on_device for store in stores if isinstance(store, ImageStore)):
        return "its images do not fit on the device"
    return ""


class StaticBatches:
    """The batches of `batches`, a field [rows of this process, ...] per index and per view's plan."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._generator = torch.Generator()
        self._parts: list[tuple[Stream, ImageStore, tuple[View, ...]]] = []
        for stream, store, views in (
            (batches.labelled_stream, batches.store, batches.views.labelled),
            (batches.unlabelled_stream, batches.unlabelled_store, batches.views.unlabelled),
        ):
            if stream is not None:
                assert isinstance(store, ImageStore), why_not(batches)
                self._parts.append((stream, store, views))

    def fields(self) -> dict[str, Field]:
        """Type and shape of what `draw` gives for one step, by name."""
        found: dict[str, Field] = {}
        for stream, _, views in self._parts:
            rows = len(range(stream.batch)[self._batches.share.rows])
            found[f"{stream.purpose} index"] = (torch.int64, (rows,))
            for view in views:
                operations = self._batches.recipe.num_ops if view.startswith("strong") else 0
                found[f"{stream.purpose}/{view}"] = (torch.int32, (rows, 8 * operations + TAIL))
        return found

    def draw(self, steps: Sequence[int]) -> dict[str, Tensor]:
        """The fields of these steps, [steps, ...], on the host."""
        rows, drawn = self._batches.share.rows, {}
        for stream, store, views in self._parts:
            drawn[f"{stream.purpose} index"] = torch.stack([stream.at(step)[rows] for step in steps])
            for view in views:
                drawn[f"{stream.purpose}/{view}"] = self._plans(stream, store, view, steps)
        return drawn

    def _plans(self, stream: Stream, store: ImageStore, view: View, steps: Sequence[int]) -> Tensor:
        """[steps, rows, columns of a plan] int32: drawn for the whole batch of each step, made for this process's."""
        recipe, rows = self._batches.recipe, self._batches.share.rows
        uniform = torch.empty(len(steps), stream.batch, columns(view, recipe), dtype=torch.float64)
        if uniform.numel():
            for numbers, step in zip(uniform, steps, strict=True):
                seed = derive(stream.seed, f"{stream.purpose}/{view}", step)
                torch.rand(numbers.shape, dtype=numbers.dtype, generator=self._generator.manual_seed(seed), out=numbers)
        mine = uniform[:, rows].flatten(0, 1)
        height, width = store.images.shape[1:3]
        plan = make_plan(from_uniform(view, mine, recipe), len(mine), height, width, recipe)
        return plan.view(len(steps), -1, plan.shape[1])

    def labelled(self, fields: Mapping[str, Tensor]) -> Labelled:
        """The labelled batch of a step whose fields lie on the device."""
        stream, store, views = self._parts[0]
        index = fields[f"{stream.purpose} index"]
        return Labelled(self._views(stream, store, views, fields), store.labels[index], index)

    def unlabelled(self, fields: Mapping[str, Tensor]) -> Unlabelled | None:
        """The unlabelled batch, None where the method takes none."""
        if len(self._parts) == 1:
            return None
        stream, store, views = self._parts[1]
        return Unlabelled(self._views(stream, store, views, fields), fields[f"{stream.purpose} index"])

    def _views(
        self, stream: Stream, store: ImageStore, views: Sequence[View], fields: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        recipe = self._batches.recipe
        images = channels_last(store.images[fields[f"{stream.purpose} index"]], recipe)
        return {view: planned(images, fields[f"{stream.purpose}/{view}"], recipe) for view in views}
