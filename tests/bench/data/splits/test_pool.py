"""Several data sets in one run: pools of unlabelled images, and class codes that differ between data sets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.splits.pool import Pool, PoolStore, as_unlabelled, for_testing, make_pool
from ferbench.bench.data.views.batches import ImageStore, Share
from ferbench.bench.tables.runs import Workspace, make_run, resolve_cell
from ferbench.bench.tables.settings import settings
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.state import Run, make_batches, make_state
from ferbench.bench.training.train import train
from ferbench.methods import build
from ferbench.protocols import cells, load_protocol

MakeFaces = Callable[..., FaceSet]
MakeRun = Callable[..., Run]
CPU = torch.device("cpu")


@pytest.fixture
def parts(make_faces: MakeFaces) -> list[tuple[FaceSet, np.ndarray]]:
    """Our own set with every other image left over, and a larger one in colour with other codes and a foreign class."""
    own = make_faces()
    other = make_faces({"anger": 5, "joy": 4, "fear": 3}, {"joy": 2}, size=24, name="other")
    colour = np.repeat(other.images, 3, axis=3) // np.array([1, 2, 3], np.uint8)
    return [(own, own.train[::2]), (dataclasses.replace(other, images=colour), other.train)]


def test_positions_count_through_the_sources(parts: list[tuple[FaceSet, np.ndarray]]) -> None:
    (own, left), (other, _) = parts
    pool = make_pool(parts, own.classes)
    assert pool.train.tolist() == [*left, *(other.train + len(own.labels))]
    assert len(pool.labels) == len(own.labels) + len(other.labels)
    names = [*(own.classes[k] for k in own.labels), *(other.classes[k] for k in other.labels)]
    for name, label in zip(names, pool.labels, strict=True):
        assert (label == -1) if name == "fear" else (own.classes[label] == name)
    assert pool.fingerprint != make_pool(parts[::-1], own.classes).fingerprint


def test_images_of_a_pool_come_at_one_size(parts: list[tuple[FaceSet, np.ndarray]]) -> None:
    (own, _), (other, _) = parts
    pool = make_pool(parts, own.classes)
    mine = ImageStore(own, CPU)
    store = PoolStore(pool, CPU, mine, own)
    assert store._stores[0] is mine  # not held twice
    index = torch.tensor([len(own.labels) + 3, 0, 5, len(own.labels), len(pool.labels) - 1, 5])
    images = store.gather(index)
    assert images.shape == (6, 24, 24, 3) and images.dtype == torch.uint8
    for row, position in enumerate(index.tolist()):
        if position < len(own.labels):
            grey = torch.from_numpy(own.images[position]).permute(2, 0, 1)
            expected = functional.resize(grey, [24, 24], antialias=True).permute(1, 2, 0).expand(-1, -1, 3)
        else:
            expected = torch.from_numpy(other.images[position - len(own.labels)])
        assert torch.equal(images[row], expected), row


def test_sources_of_one_shape_are_left_as_they_are(make_faces: MakeFaces) -> None:
    first, second = make_faces(), make_faces(name="second")
    pool = make_pool([(first, first.train), (second, second.train)], first.classes)
    store = PoolStore(pool, CPU, ImageStore(first, CPU), first)
    index = torch.arange(len(pool.labels))
    expected = np.concatenate([first.images, second.images])
    assert np.array_equal(store.gather(index).numpy(), expected)


def test_batches_truth_and_facts_speak_of_the_same_positions(
    parts: list[tuple[FaceSet, np.ndarray]], make_tiny_run: MakeRun
) -> None:
    own = parts[0][0]
    run = make_tiny_run("fixmatch", faces=own)
    pool = make_pool([(own, run.split.unlabelled), parts[1]], own.classes)
    run = dataclasses.replace(run, unlabelled_faces=pool)
    method = make_state(run, CPU, Silent()).method
    batches = make_batches(run, method, CPU, Share())
    seen = set()
    for step in range(12):
        unlabelled = batches.unlabelled(step)
        assert unlabelled is not None
        assert batches.truth(unlabelled).tolist() == pool.labels[unlabelled.index.numpy()].tolist()
        seen |= set(unlabelled.index.tolist())
    assert seen <= set(pool.train.tolist())
    assert min(seen) < len(own.labels) <= max(seen)  # of both
    scattered = torch.zeros(len(pool.labels)).index_fill_(0, torch.from_numpy(pool.train), 1)  # positions are in range
    assert scattered.sum() == len(pool.train)


def test_test_labels_are_read_by_class_name(make_faces: MakeFaces) -> None:
    other = make_faces({"anger": 2, "calm": 2, "joy": 2}, {"anger": 3, "joy": 4}, name="other")
    turned = for_testing(other, ("joy", "calm", "anger"))
    assert turned.class_counts(turned.test) == {"joy": 4, "calm": 0, "anger": 3}
    assert turned.fingerprint == other.fingerprint and turned.images is other.images
    assert for_testing(turned, turned.classes) is turned


def test_a_test_class_that_is_not_trained_on_is_refused(make_faces: MakeFaces) -> None:
    other = make_faces({"joy": 2, "contempt": 2}, {"joy": 1, "contempt": 4}, name="other")
    with pytest.raises(
        DataError, match=r"other has test images of contempt, which is no class of the training set \(j"
    ):
        for_testing(other, ("joy", "calm"))
    only_trained = make_faces({"joy": 2, "contempt": 2}, {"joy": 1}, name="other")
    assert for_testing(only_trained, ("joy", "calm")).labels[only_trained.train].tolist() == [0, 0, -1, -1]


def test_a_run_is_scored_by_the_names_of_another_set_s_classes(
    make_faces: MakeFaces, make_tiny_run: MakeRun, tmp_path: Path
) -> None:
    other = make_faces({"anger": 1, "calm": 1, "joy": 1}, {"anger": 5, "calm": 4, "joy": 3}, name="other", size=20)
    base = make_tiny_run("vanilla", epochs=1)
    space = Workspace(tmp_path, tmp_path)
    run = make_run(base.spec, base.recipe, base.faces, base.split, other, None, space)
    train(run, tmp_path / "run", device=CPU)
    saved = np.load(tmp_path / "run" / "predictions.npz")
    assert run.spec["test"]["fingerprint"] == other.fingerprint
    assert saved["index"].tolist() == other.test.tolist()
    assert [base.faces.classes[k] for k in saved["labels"]] == [other.classes[k] for k in other.labels[other.test]]


def test_unlabelled_images_of_foreign_classes_have_no_truth(make_faces: MakeFaces) -> None:
    other = make_faces({"joy": 2, "contempt": 2}, {"joy": 1}, name="other")
    assert as_unlabelled(other, ("calm", "joy")).labels.tolist() == [1, 1, -1, -1, 1]


@pytest.fixture
def pooled_protocol(tiny_protocol: Path) -> Path:
    """The tiny protocol with the unlabelled images of a second, larger-sized data set added to the rest."""
    path = tiny_protocol / "protocol.toml"
    text = path.read_text(encoding="utf-8").replace(
        "[splits.200-20]",
        '[datasets.more]\nreader = "synthetic"\n'
        "options = { scale = 0.01, size = 20, classes = 8, seed = 5 }\n\n[splits.200-20]",
    )
    text = text.replace('split = "200-20"\n', 'split = "200-20"\nunlabelled = ["more", "rest"]\n')
    path.write_text(text, encoding="utf-8")
    return tiny_protocol


def test_a_protocol_may_add_another_set_to_the_rest(pooled_protocol: Path, drawn_faces: Path, tmp_path: Path) -> None:
    cell = next(cell for cell in cells(load_protocol(pooled_protocol), "1/fixmatch"))
    run = resolve_cell(cell, "cpu", 1, Workspace(tmp_path / "results", drawn_faces))
    assert isinstance(run.unlabelled_faces, Pool)
    assert run.unlabelled_faces.sources[0] is run.faces  # the rest comes first, whatever the order in the file
    assert run.spec["unlabelled"]["sources"][0] == "rest"
    assert run.spec["unlabelled"]["sources"][1]["options"]["size"] == 20
    assert run.spec["unlabelled"]["fingerprint"] == run.unlabelled_faces.fingerprint
    assert json.loads(json.dumps(run.spec)) == run.spec
    assert settings(cell, "cpu", 1)["unlabelled"]["sources"] == run.spec["unlabelled"]["sources"]
    rest = set(run.unlabelled_faces.train[run.unlabelled_faces.train < len(run.faces.labels)].tolist())
    assert rest == set(run.split.unlabelled.tolist())
    record = train(run, tmp_path / "run", device=CPU)
    assert record["status"] == "finished"
    assert record["split"]["unlabelled"] == len(run.unlabelled_faces.train) > len(run.split.unlabelled)


def test_a_run_on_folds_is_tested_on_its_fold(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    run = make_tiny_run("vanilla", split=("kfold", {"folds": 3, "fraction": 0.5, "fold": 2}), epochs=1)
    train(run, tmp_path, device=CPU)
    saved = np.load(tmp_path / "predictions.npz")
    assert saved["index"].tolist() == run.split.test.tolist()
    assert saved["labels"].tolist() == run.faces.labels[run.split.test].tolist()


def test_wrong_labels_are_taught_and_the_test_labels_stay(make_tiny_run: MakeRun) -> None:
    clean = make_tiny_run("vanilla", split=("balanced", {"per_class": 8}))
    run = make_tiny_run("vanilla", split=("balanced", {"per_class": 8, "noise": 0.5}))
    assert run.test_faces is run.faces  # one array on the device
    assert run.faces.labels[run.split.labelled].tolist() == run.split.taught.tolist()
    assert (run.split.taught != clean.faces.labels[run.split.labelled]).sum() == 12
    assert run.faces.labels[run.test].tolist() == clean.faces.labels[clean.test].tolist()
    batches = make_batches(run, build(run.method, torch.nn.Identity(), run.values), CPU, Share())  # type: ignore[arg-type]
    batch = batches.labelled(0)
    assert batch.labels.tolist() == run.faces.labels[batch.index.numpy()].tolist()


def test_a_set_without_test_images_is_refused_before_training(make_tiny_run: MakeRun, make_faces: MakeFaces) -> None:
    faces = make_faces(test={})
    with pytest.raises(DataError, match="tiny has no test images under these options; choose a kfold split"):
        make_tiny_run("vanilla", faces=faces)
    assert make_tiny_run("vanilla", faces=faces, split=("kfold", {"folds": 3, "fraction": 0.5})).test.size == 18
