"""Candidate label sets as part of a run: what the spec says of them, the sets, and the model that some are made from.

Sets from a model's predictions come from a run of its own: plain cross-entropy on the given labels with the same data,
split, recipe and seed (in fewer epochs where the option `length` says so), done first and shared by all that need it.
Its scores of the training images, those it learnt from, are kept in its folder as training.npz, so that a run that is
continued meets the same sets on any machine.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.splits.candidates import (
    Scores,
    Sets,
    figures,
    fingerprint,
    make_candidates,
)
from ferbench.bench.data.splits.draw import Split
from ferbench.bench.data.views.batches import ImageStore
from ferbench.bench.tables.settings import made_from_a_model
from ferbench.bench.training import evaluate, processes, records
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.records import Spec
from ferbench.bench.training.state import Run, make_state, view_recipe
from ferbench.protocols import Recipe

SCORES = "training.npz"


def model_recipe(spec: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """`recipe` as the model that makes the candidate sets of this spec is trained by it."""
    length = float(spec["candidates"]["options"].get("length", 1.0))
    return recipe if length == 1 else recipe.shortened(length)


def resolve_candidates(
    spec: Spec, faces: FaceSet, split: Split, model: Run | None, folder: Path
) -> tuple[Spec, Callable[[], tuple[Sets, dict[str, float]]] | None]:
    """The `candidates` of a spec with their fingerprint, and the sets with their figures; ({}, None) where there are
    none.

    faces: with the labels as taught. model, folder: the run whose predictions they are made from; its spec's hash is
    the fingerprint then, for the sets are not there before it has finished. Raises DataError.
    """
    asked = spec.get("candidates")
    if not asked:
        return {}, None

    def make(scores: Scores | None = None) -> tuple[Sets, dict[str, float]]:
        sets = make_candidates(faces, split.labelled, asked["kind"], asked["options"], spec["seed"], scores)
        return sets, figures(faces, split.labelled, sets, asked["options"], scores)

    if made_from_a_model(spec):
        assert model is not None
        mark = records.spec_hash(model.spec)
        return {"candidates": {**asked, "fingerprint": mark}}, cache(lambda: make(training_scores(model, folder)))
    made = make()
    return {"candidates": {**asked, "fingerprint": fingerprint(faces, split.labelled, made[0])}}, lambda: made


def training_scores(run: Run, folder: Path) -> Scores:
    """Probabilities [n, K] of the labelled images, un-augmented, by the finished run in `folder`. Raises RunError."""
    path = folder / SCORES
    if not path.exists():
        if not (folder / "record.json").exists():
            raise records.RunError(
                f"{folder}: candidate sets are made from this run's predictions, and it is not finished; train "
                f"{run.method} first with otherwise the same arguments and --recipe "
                f"epochs={run.spec['recipe']['epochs']}"
            )
        scores = _score(run, folder)
        if processes.rank() > 0:
            return scores
        records.write_predictions(path, {"main": scores}, index=run.split.labelled)
    try:
        with np.load(path, allow_pickle=False) as stored:
            kept: Scores = stored["scores_main"]
            if not np.array_equal(stored["index"], run.split.labelled):
                raise ValueError("it is of other images")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise records.RunError(f"{path}: cannot be read ({error}); delete it and start again") from error
    return kept


def _score(run: Run, folder: Path) -> Scores:
    """By the model that the run was evaluated with."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = make_state(run, device, Silent())
    state.load(records.load_checkpoint(folder / "checkpoint.pt", records.spec_hash(run.spec)))
    tested = state.average.method if state.average and run.recipe.evaluate == "ema" else state.method
    rules = evaluate.scores(tested, ImageStore(run.faces, device), run.split.labelled, view_recipe(run.recipe))
    return next(iter(rules.values()))
