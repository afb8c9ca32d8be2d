"""A finished run opened again: the weights that were tested, and the images they were tested on."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ferbench.bench.data.views.batches import ImageStore
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training import records
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.methods import Method, MethodError, build
from ferbench.protocols import Recipe


@dataclass(frozen=True)
class FinishedRun:
    """method: in evaluation mode; index: [N] positions of the test images in their data set; labels: [N];
    predicted: [N] the classes that were predicted at the end of training."""

    folder: Path
    spec: records.Spec
    recipe: Recipe
    method: Method
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]


def open_finished(folder: Path, device: torch.device) -> FinishedRun:
    """The run in `folder`. Raises RunError, one line, where it is not finished, damaged or has no weights any more."""
    if not (folder / "record.json").is_file():
        raise records.RunError(f"{folder}: this run is not finished; the command that started it continues it")
    spec, record = records.read_json(folder / "spec.json"), records.read_json(folder / "record.json")
    if not (folder / "checkpoint.pt").is_file():
        raise records.RunError(f"{folder}: its weights (checkpoint.pt) are gone; delete the folder to run it again")
    state = records.load_checkpoint(folder / "checkpoint.pt", records.spec_hash(spec))
    scores, labels, index = _predictions(folder / "predictions.npz")
    known = {field.name for field in fields(Recipe)}
    try:
        recipe = Recipe(**{key: value for key, value in spec["recipe"].items() if key in known})
        method = _method(spec, recipe, scores.shape[1])
        _load(method, state["average"] if record["evaluated"] == "ema" else state["method"])
    except (KeyError, TypeError, RuntimeError, MethodError) as error:
        reason = str(error).splitlines()[0]
        raise records.RunError(f"{folder}: cannot be opened by this version of ferbench: {reason}") from error
    method.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return FinishedRun(folder, spec, recipe, method, index, labels, scores.argmax(axis=1))


def open_test_images(run: FinishedRun, workspace: Workspace, device: torch.device) -> ImageStore:
    """The data set the run was tested on. Raises DataError."""
    test = run.spec["test"]
    return ImageStore(workspace.faces(test["reader"], test["options"]), device)


def _predictions(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            scores = next(stored[name] for name in stored.files if name.startswith("scores_"))
            return scores, stored["labels"], stored["index"]
    except (OSError, ValueError, KeyError, StopIteration, zipfile.BadZipFile) as error:
        raise records.RunError(f"{path}: cannot be read ({error}); delete the run's folder to run it again") from error


def _method(spec: records.Spec, recipe: Recipe, classes: int) -> Method:
    model = make_classifier(
        recipe.backbone, classes, size=recipe.input_size, dropout=recipe.dropout, normalise=recipe.normalise_features
    )
    return build(spec["method"], model, spec["options"])


def _load(method: Method, state: dict[str, Any]) -> None:
    """Tables that training registered (`Method.begin`) are left out: predictions do without them."""
    missing, _ = method.load_state_dict(state, strict=False)
    if missing:
        raise RuntimeError(f"its weights lack {missing[0]}")
