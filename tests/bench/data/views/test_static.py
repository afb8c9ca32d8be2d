"""Batches drawn for many steps at once are the batches of each step alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.splits.pool import PoolStore, make_pool
from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.data.views.batches import Batches, ImageStore, Share, Stream
from ferbench.bench.data.views.static import StaticBatches, why_not
from ferbench.methods import Views

MakeFaces = Callable[..., FaceSet]
CPU = torch.device("cpu")
ALL = Views(labelled=("weak", "strong", "plain"), unlabelled=("weak", "weak2", "strong", "strong2"))


def make(faces: FaceSet, share: Share, recipe: ViewRecipe, *, b: int = 6, u: int = 10, labelled: int = 20) -> Batches:
    store = ImageStore(faces, CPU)
    streams = [Stream(faces.train[:labelled], b, 3, "labelled"), Stream(faces.train[labelled:], u, 3, "unlabelled")]
    return Batches(store, streams[0], streams[1], ALL, recipe, share)


@pytest.mark.parametrize("share", [Share(), Share(1, 2), Share(2, 3)], ids=str)
@pytest.mark.parametrize(
    "recipe",
    [ViewRecipe(size=16, padding=2), ViewRecipe(size=13, num_ops=0, channel_order="bgr", channels_last=True)],
    ids=["usual", "odd"],
)
@pytest.mark.parametrize("labelled", [20, 4], ids=["set", "set smaller than a batch"])
def test_every_view_of_every_step(make_faces: MakeFaces, share: Share, recipe: ViewRecipe, labelled: int) -> None:
    """Steps of several passes, not in order, images that are not square in colour."""
    faces = make_faces()
    images = faces.images[:, :, :11].repeat(3, axis=3)
    batches = make(replace(faces, images=images), share, recipe, labelled=labelled)
    static, steps = StaticBatches(batches), (0, 1, 2, 9, 5, 40)
    drawn = static.draw(steps)
    assert {name: (value.dtype, tuple(value.shape[1:])) for name, value in drawn.items()} == static.fields()
    for place, step in enumerate(steps):
        fields = {name: value[place] for name, value in drawn.items()}
        ours, theirs = static.labelled(fields), batches.labelled(step)
        assert torch.equal(ours.labels, theirs.labels) and torch.equal(ours.index, theirs.index)
        pairs = [(ours.views, theirs.views)]
        unlabelled, expected = static.unlabelled(fields), batches.unlabelled(step)
        assert unlabelled is not None and expected is not None and torch.equal(unlabelled.index, expected.index)
        pairs.append((unlabelled.views, expected.views))
        for mine, other in pairs:
            assert list(mine) == list(other)
            assert all(torch.equal(mine[view], other[view]) for view in mine)
            assert all(mine[view].stride() == other[view].stride() for view in mine)


def test_a_method_without_unlabelled_views(make_faces: MakeFaces) -> None:
    faces = make_faces()
    stream = Stream(faces.train, 6, 3, "labelled")
    static = StaticBatches(Batches(ImageStore(faces, CPU), stream, None, Views(), ViewRecipe(size=16), Share()))
    fields = {name: value[0] for name, value in static.draw([0]).items()}
    assert static.unlabelled(fields) is None and list(static.labelled(fields).views) == ["weak"]


def test_what_needs_the_host(make_faces: MakeFaces) -> None:
    faces = make_faces()
    usual = make(faces, Share(), ViewRecipe(size=16))
    assert why_not(usual) == ""
    assert why_not(make(faces, Share(), ViewRecipe(size=16, geometry="resized_crop"))) == (
        "its resized_crop views are made with the host's help"
    )
    boxed = replace(faces, boxes=torch.zeros(len(faces.labels), 4).numpy())
    store = ImageStore(boxed, CPU)
    with_boxes = Batches(store, usual.labelled_stream, None, ALL, usual.recipe, Share(), boxes=True)
    assert why_not(with_boxes) == "its face boxes are moved with the host's help"
    pool = PoolStore(make_pool([(faces, faces.train)], faces.classes), CPU, usual.store, faces)
    pooled = Batches(usual.store, usual.labelled_stream, usual.unlabelled_stream, ALL, usual.recipe, Share(), pool)
    assert why_not(pooled) == "its unlabelled images come from several data sets"
    usual.store.on_device = False
    assert why_not(usual) == "its images do not fit on the device"
