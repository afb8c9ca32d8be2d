"""The stream of indices, its share per process, and the gather: the same for a seed, whatever came before."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.randomness import derive, generator
from ferbench.bench.data.views.augment import ViewRecipe, apply_plain, augment
from ferbench.bench.data.views.batches import Batches, ImageStore, Share, Stream, view_batches
from ferbench.methods import Views

MakeFaces = Callable[..., FaceSet]
CPU = torch.device("cpu")
RECIPE = ViewRecipe(size=16, padding=2)
VIEWS = Views(labelled=("weak",), unlabelled=("weak", "strong"))


def stream(size: int, batch: int, seed: int = 1, purpose: str = "labelled") -> Stream:
    return Stream(np.arange(100, 100 + size), batch, seed, purpose)


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (13, 4), (7, 7), (9, 1), (5, 3)])
def test_a_pass_holds_no_image_twice(size: int, batch: int) -> None:
    whole = size // batch
    for number in range(3):
        seen = [
            i for step in range(number * whole, (number + 1) * whole) for i in stream(size, batch).at(step).tolist()
        ]
        assert len(seen) == whole * batch == len(set(seen))
        assert set(seen) <= set(range(100, 100 + size))


def test_passes_differ_and_leave_out_different_images() -> None:
    passes = [tuple(stream(13, 4).at(step).tolist() for step in range(3 * n, 3 * n + 3)) for n in range(20)]
    left_out = {(set(range(100, 113)) - {i for batch in one for i in batch}).pop() for one in passes}
    assert len({str(one) for one in passes}) == 20
    assert len(left_out) > 5


@pytest.mark.parametrize(("size", "batch"), [(3, 8), (1, 5), (4, 8), (5, 7)])
def test_a_set_smaller_than_a_batch_is_repeated_evenly(size: int, batch: int) -> None:
    for step in range(4):
        counts = Counter(stream(size, batch).at(step).tolist())
        assert sum(counts.values()) == batch
        assert len(counts) == min(size, batch) and max(counts.values()) - min(counts.values()) <= 1
    assert stream(size, batch).at(0).tolist() != stream(size, batch).at(1).tolist() or size == 1


def test_a_step_depends_on_seed_and_purpose_and_not_on_earlier_steps() -> None:
    forward = [stream(50, 8).at(step).tolist() for step in range(30)]
    torch.manual_seed(99)
    backward = [stream(50, 8).at(step).tolist() for step in reversed(range(30))]
    assert backward[::-1] == forward
    assert stream(50, 8, seed=2).at(0).tolist() != forward[0]
    assert stream(50, 8, purpose="unlabelled").at(0).tolist() != forward[0]


def test_random_numbers_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"1/network/7").digest()
    assert derive(1, "network", 7) == sum(byte << 8 * place for place, byte in enumerate(digest[:8])) // 2
    first = torch.rand(3, generator=generator(1, "a", 2))
    assert torch.equal(first, torch.rand(3, generator=generator(1, "a", 2)))
    others = [generator(2, "a", 2), generator(1, "b", 2), generator(1, "a", 3)]
    assert not any(torch.equal(first, torch.rand(3, generator=other)) for other in others)


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(DataError, match="there are no unlabelled images to draw from; choose another split"):
        stream(0, 4, purpose="unlabelled")


def batches(faces: FaceSet, share: Share = Share(), other: FaceSet | None = None) -> Batches:  # noqa: B008 - frozen
    store = ImageStore(faces, CPU)
    second = ImageStore(other, CPU) if other else None
    pool = (other or faces).train
    return Batches(
        store, Stream(faces.train[:20], 6, 3, "labelled"), Stream(pool[-30:], 10, 3, "unlabelled"), VIEWS, RECIPE,
        share, second,
    )  # fmt: skip


def test_labels_images_and_indices_belong_together(make_faces: MakeFaces) -> None:
    faces = make_faces()
    labelled = batches(faces).labelled(4)
    index = Stream(faces.train[:20], 6, 3, "labelled").at(4)
    assert labelled.index.tolist() == index.tolist()
    assert labelled.labels.tolist() == faces.labels[index.numpy()].tolist()
    images = torch.from_numpy(faces.images[index.numpy()])
    expected = augment(images, "weak", RECIPE, generator(3, "labelled/weak", 4))
    assert torch.equal(labelled.views["weak"], expected)


def test_a_device_is_the_same_with_and_without_its_number(make_faces: MakeFaces) -> None:
    """As `cuda` and `cuda:0`: images that lie on the device are not sent to it again."""
    faces = make_faces()
    store = ImageStore(faces, torch.device("cpu", 0))
    assert np.array_equal(store.gather(torch.tensor([3, 1])).numpy(), faces.images[[3, 1]])


def test_views_of_one_batch_are_drawn_apart(make_faces: MakeFaces) -> None:
    faces = make_faces()
    batch = batches(faces).unlabelled(0)
    assert batch is not None and set(batch.views) == {"weak", "strong"}
    images = torch.from_numpy(faces.images[batch.index.numpy()])
    for view in ("weak", "strong"):
        expected = augment(images, view, RECIPE, generator(3, f"unlabelled/{view}", 0))
        assert torch.equal(batch.views[view], expected)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_shares_of_several_processes_make_up_the_batch_of_one(make_faces: MakeFaces, world: int) -> None:
    faces = make_faces()
    whole, parts = batches(faces), [batches(faces, Share(rank, world)) for rank in range(world)]
    for step in (0, 9):
        one, many = whole.labelled(step), [part.labelled(step) for part in parts]
        for rank, part in enumerate(many):
            assert torch.equal(part.labels, one.labels[rank::world])
            assert torch.equal(part.views["weak"], one.views["weak"][rank::world])
        all_unlabelled = whole.unlabelled(step)
        assert all_unlabelled is not None
        for rank, share in enumerate(part.unlabelled(step) for part in parts):
            assert share is not None
            assert torch.equal(share.index, all_unlabelled.index[rank::world])
            for view in ("weak", "strong"):
                assert torch.equal(share.views[view], all_unlabelled.views[view][rank::world])


def test_unlabelled_images_may_come_from_another_data_set(make_faces: MakeFaces) -> None:
    faces, other = make_faces(), make_faces({"joy": 40, "calm": 5, "anger": 1}, {"joy": 1}, size=20)
    hidden = dataclasses.replace(other, labels=np.where(other.labels == 1, -1, other.labels))
    both = batches(faces, other=hidden)
    batch = both.unlabelled(1)
    assert batch is not None
    images = torch.from_numpy(hidden.images[batch.index.numpy()])
    assert torch.equal(batch.views["weak"], augment(images, "weak", RECIPE, generator(3, "unlabelled/weak", 1)))
    assert both.truth(batch).tolist() == hidden.labels[batch.index.numpy()].tolist()


def test_view_batches_keep_order_and_count(make_faces: MakeFaces) -> None:
    faces = make_faces()
    indices = faces.test[::-1].copy()
    parts = list(view_batches(ImageStore(faces, CPU), indices, RECIPE, size=8))
    assert [len(part) for part in parts] == [8, 8, 4]
    assert torch.equal(torch.cat(parts), apply_plain(torch.from_numpy(faces.images[indices]), RECIPE))


def test_a_read_only_memory_map_is_read_without_a_warning_or_a_write(make_faces: MakeFaces, tmp_path: Path) -> None:
    faces = make_faces()
    np.save(tmp_path / "images.npy", faces.images)
    mapped = dataclasses.replace(faces, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches(mapped).unlabelled(0)
    assert np.array_equal(np.load(tmp_path / "images.npy"), faces.images)
