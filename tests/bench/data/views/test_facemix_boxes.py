"""SSFER's kappa on its protocol's own data sets: it must not be 0 throughout, or FaceMix is Mixup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.faces import face_boxes
from ferbench.bench.data.preparing.faces.detect import Detector, Face
from ferbench.bench.data.sets.readers import prepare_dataset
from ferbench.bench.data.views.batches import Share
from ferbench.bench.tables.running.plan import make_plan
from ferbench.bench.tables.runs import Workspace, resolve_cell
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.state import Run, make_batches, make_state
from ferbench.methods.papers.ssfer import SSFER
from ferbench.protocols import Cell, load_protocol, select

FakeCopy = Callable[..., Path]

PROTOCOL = load_protocol("ssfer")
COPIES = [
    ("rafdb", "rafdb", ""), ("ferplus", "ferplus", ""), ("affectnet7", "affectnet7", "csv"),
    ("affectnet8", "affectnet8", "npy"), ("adience-gender", "adience", ""), ("adience-age", "adience", ""),
]  # fmt: skip


def facemix_cell(dataset: str) -> Cell:
    """A stage b with FaceMix on this data set of the protocol."""
    for cell in select("ssfer"):
        before = None if cell.published_only else cell.before
        if before and before.dataset == dataset and before.options.get("mix") == "facemix":
            return before
    raise AssertionError(f"no FaceMix on {dataset}")


def kappas(run: Run, steps: int = 4) -> Tensor:
    state = make_state(run, torch.device("cpu"), Silent())
    batches, method = make_batches(run, state.method, torch.device("cpu"), Share()), state.method
    assert isinstance(method, SSFER)
    return torch.cat([method._kappa(batches.labelled(step)) for step in range(steps)])


def find_within(monkeypatch: pytest.MonkeyPatch, faces: bool = True) -> None:
    """A detector that finds a face away from the image's edges, elsewhere in each image; or none."""

    def find(image: Image.Image) -> list[Face]:
        if not faces:
            return []
        shift = int(np.asarray(image).astype(np.int64).sum()) % 17 / 100
        shares = np.array([0.05 + shift, 0.1, 0.75 + shift, 0.9], np.float32)
        return [Face(shares * np.array([*image.size, *image.size], np.float32))]

    monkeypatch.setattr(face_boxes, "load_detector", lambda name, close_up=False: Detector(name, "1.0", find))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("FERBENCH_FERPLUS_ROOT", raising=False)
    (tmp_path / "mae.pth").write_bytes(b"weights")
    return Workspace(tmp_path / "results", tmp_path / "cache", weights={"ssfer_mae": tmp_path / "mae.pth"})


def test_every_data_set_is_tried() -> None:
    """But for drawn faces, whose one row mixes nothing."""
    tried = {name: dataset for name, dataset in PROTOCOL.datasets.items() if name != "drawn"}
    assert {name for name, *_ in COPIES} == set(tried)
    assert {PROTOCOL.datasets[name].reader for name, *_ in COPIES} == {reader for _, reader, _ in COPIES}
    assert {dataset.options["faces"] for dataset in tried.values()} == {"haar"}  # what .[dev] installs


@pytest.mark.parametrize(("name", "reader", "layout"), COPIES)
def test_kappa_is_not_0_on_the_protocols_data_sets(
    name: str, reader: str, layout: str, fake_copy: FakeCopy, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_within(monkeypatch)
    root = fake_copy(reader, layout, images=12)
    prepare_dataset(reader, {}, root=root, cache=workspace.cache, partial=True)
    run = resolve_cell(facemix_cell(name), "cpu", 1, workspace)
    found = kappas(run)
    assert found.mean() > 0.05 and (found > 0).float().mean() > 0.3, found
    assert run.faces.boxes is not None
    inside = run.faces.boxes[run.split.labelled] / run.faces.images.shape[1]
    assert (inside[:, 0] > 0).all() and (inside[:, 3] < 0.95).all()  # the pictures are not cut to the boxes


def test_the_paper_preset_refuses_data_without_a_box(
    fake_copy: FakeCopy, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for the cells of FaceMix by IoU, none for those beside them; the small preset warns."""
    find_within(monkeypatch, faces=False)
    root = fake_copy("rafdb", images=12)
    prepare_dataset("rafdb", {}, root=root, cache=workspace.cache, partial=True)
    cell = facemix_cell("rafdb")
    with pytest.raises(DataError) as refused:
        resolve_cell(cell, "paper", 1, workspace)
    line = str(refused.value)
    assert line.startswith("rafdb: faces=haar found a face in no labelled image") and "\n" not in line
    assert "give the reader faces=csv or mtcnn" in line and "mix=mixup" in line
    plan = make_plan(select("ssfer/13"), "paper", 1, workspace, None)
    assert {left.row.id for left, reason in plan.left_out if reason == line} == {"facemix"}
    assert {left.row.id for left, _, _ in plan.runs} == {"mixup", "mixup.before"} and plan.warnings == []
    small = make_plan(select("ssfer/13/facemix/rafdb-25"), "cpu", 1, workspace, None)
    assert small.warnings == [line] and len(small.runs) == 2
    assert (kappas(resolve_cell(cell, "cpu", 1, workspace)) == 0).all()


def test_training_warns(ferbench: Any, fake_copy: FakeCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERBENCH_CACHE", str(tmp_path / "cache"))
    root = fake_copy("rafdb", images=4)
    ferbench("prepare", "rafdb", "--root", root, "--partial")
    recipe = ("epochs=1", "steps_per_epoch=1", "batch_size=4", "input_size=16", "crop_padding=2")
    words = [word for change in recipe for word in ("--recipe", change)]
    common = ("train", "ssfer", "--dataset", "rafdb", "--split", "balanced:per_class=2", "--option", "teacher=false")
    for mix, warned in (("facemix", True), ("mixup", False)):
        done = ferbench(*common, *words, "--option", f"mix={mix}")
        assert done.code == 0, done.err
        assert ("warning: rafdb: no labelled image has a face box" in done.out + done.err) == warned
