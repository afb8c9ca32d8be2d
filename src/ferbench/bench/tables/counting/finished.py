"""A finished run opened again: the weights that were tested, and the images they were tested on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ferbench.bench.data.views.batches import ImageStore
from ferbench.bench.files import reason
from ferbench.bench.tables.counting.predictions import read_predictions
from ferbench.bench.tables.counting.stored import read_stored
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.finite import check_weights
from ferbench.errors import UserError
from ferbench.methods import Method, build
from ferbench.protocols import Recipe
from ferbench.validation import build as build_checked


@dataclass(frozen=True)
class FinishedRun:
    """method: in evaluation mode; index: [N] positions of the test images in their data set; labels: [N];
    predicted: [N] the classes that were predicted at the end of training; classes: their names."""

    folder: Path
    spec: records.Spec
    recipe: Recipe
    method: Method
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    classes: tuple[str, ...]


def open_finished(folder: Path, device: torch.device) -> FinishedRun:
    """The run in `folder`. Raises RunError, one line, where it is not finished, damaged or has no weights any more."""
    if not (folder / "record.json").is_file():
        raise records.RunError(f"{folder}: this run is not finished; the command that started it continues it")
    stored = read_stored(folder)
    if stored is None:
        raise records.RunError(f"{folder}: this run is not finished; the command that started it continues it")
    spec = stored.spec
    if not (folder / "checkpoint.pt").is_file():
        raise records.RunError(f"{folder}: its weights (checkpoint.pt) are gone; delete the folder to run it again")
    state = records.load_checkpoint(folder / "checkpoint.pt", records.spec_hash(spec))
    predictions = read_predictions(folder / "predictions.npz")
    try:
        known = {field.name for field in fields(Recipe)}
        given = {key: value for key, value in spec["recipe"].items() if key in known}
        recipe = build_checked(Recipe, given, "recipe", records.RunError)
        method = _method(spec, recipe, len(predictions.classes))
        _load(method, state["average"] if stored.record.get("evaluated") == "ema" else state["method"])
        check_weights(method)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, UserError) as error:
        raise records.RunError(f"{folder}: cannot be opened by this version of ferbench: {reason(error)}") from error
    method.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    predicted = predictions.headline.argmax(axis=1)
    return FinishedRun(
        folder, spec, recipe, method, predictions.index, predictions.labels, predicted, predictions.classes
    )


def open_test_images(run: FinishedRun, workspace: Workspace, device: torch.device) -> ImageStore:
    """The data set the run was tested on. Raises DataError."""
    test = run.spec["test"]
    return ImageStore(workspace.faces(test["reader"], test["options"]), device)


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
