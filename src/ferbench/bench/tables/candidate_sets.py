"""Candidate label sets as part of a run: what the spec says of them, the sets, and the models that some are made from.

Sets from a model's predictions come from runs of their own: plain cross-entropy on the given labels with the same data,
split, recipe and seed (in fewer epochs where the option `length` says so), each without one part of the labelled
images, done first and shared by all that need them. A run's scores of the images it did without are kept in its folder
as training.npz, so that a run that is continued meets the same sets on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.splits.candidates import (
    Scores,
    Sets,
    figures,
    fingerprint,
    make_candidates,
)
from ferbench.bench.data.splits.draw import Split, without_part
from ferbench.bench.data.views.batches import ImageStore
from ferbench.bench.tables.settings import folds_of, made_from_a_model
from ferbench.bench.training import evaluate, processes
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.records import Spec
from ferbench.bench.training.state import Run, make_state, view_recipe
from ferbench.protocols import Recipe

SCORES = "training.npz"


def model_recipe(spec: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """`recipe` as the model that makes the candidate sets of this spec is trained by it."""
    length = float(spec["candidates"]["options"].get("length", 1.0))
    return recipe if length == 1 else recipe.shortened(length)


def scorer_splits(spec: Mapping[str, Any], faces: FaceSet, split: Split) -> list[Split]:
    """The splits of the runs that score the labelled images of `split`."""
    folds = folds_of(spec)
    return [split] * folds if folds < 2 else [without_part(split, faces, folds, part + 1) for part in range(folds)]


def resolve_candidates(
    spec: Spec, faces: FaceSet, split: Split, scorers: Sequence[tuple[Run, Path]]
) -> tuple[Spec, Callable[[], tuple[Sets, dict[str, float]]] | None]:
    """The `candidates` of a spec with their fingerprint, and the sets with their figures; ({}, None) where there are
    none.

    faces: with the labels as taught. scorers: the runs whose predictions they are made from, with their folders; their
    specs' hashes are the fingerprint then, for the sets are not there before they have finished. Raises DataError.
    """
    asked = spec.get("candidates")
    if not asked:
        return {}, None

    def make(scores: Scores | None = None) -> tuple[Sets, dict[str, float]]:
        sets = make_candidates(faces, split.labelled, asked["kind"], asked["options"], spec["seed"], scores)
        return sets, figures(faces, split.labelled, sets, asked["options"], scores)

    if made_from_a_model(spec):
        marks = [records.spec_hash(run.spec) for run, _ in scorers]
        mark = marks[0] if len(marks) == 1 else records.spec_hash({"scorers": marks})
        return {"candidates": {**asked, "fingerprint": mark}}, cache(lambda: make(_all_scores(split, scorers)))
    made = make()
    return {"candidates": {**asked, "fingerprint": fingerprint(faces, split.labelled, made[0])}}, lambda: made


def _all_scores(split: Split, scorers: Sequence[tuple[Run, Path]]) -> Scores:
    """Probabilities [n, K] of the labelled images of `split`, each by the run that did without it."""
    parts: list[tuple[NDArray[np.int64], Scores]] = []
    for run, folder in scorers:
        index = split.labelled if len(scorers) == 1 else np.setdiff1d(split.labelled, run.split.labelled)
        parts.append((index, training_scores(run, folder, index)))
    index, scores = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    order = np.argsort(index)
    if not np.array_equal(index[order], split.labelled):
        raise records.RunError("the parts that score the labelled images do not make them up; train those runs again")
    return scores[order]


def training_scores(run: Run, folder: Path, index: NDArray[np.int64]) -> Scores:
    """Probabilities [n, K] of the images at `index`, un-augmented, by the finished run in `folder`. Raises RunError."""
    path = folder / SCORES
    if not path.exists():
        if not (folder / "record.json").exists():
            raise records.RunError(
                f"{folder}: candidate sets are made from this run's predictions, and it is not finished; train "
                f"{run.method} first with otherwise the same arguments and --recipe "
                f"epochs={run.spec['recipe']['epochs']}{_part(run)}"
            )
        scores = _score(run, folder, index)
        if processes.rank() > 0:
            return scores
        records.write_predictions(path, {"main": scores}, index=index)
    stored = records.read_arrays(path)
    kept = stored.get("scores_main")
    if kept is None or kept.shape != (len(index), len(run.faces.classes)) or not np.isfinite(kept).all():
        raise records.RunError(f"{path}: cannot be read: it holds no scores; delete it and start again")
    if not np.array_equal(stored.get("index", ()), index):
        raise records.RunError(f"{path}: cannot be read: it is of other images; delete it and start again")
    return kept


def _part(run: Run) -> str:
    """What to add to --split for a run without a part of the labelled images."""
    given = run.split.parameters
    return f", with parts={given['parts']},part={given['part']} added to --split" if given.get("parts") else ""


def _score(run: Run, folder: Path, index: NDArray[np.int64]) -> Scores:
    """By the model that the run was evaluated with."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = make_state(run, device, Silent())
    state.load(records.load_checkpoint(folder / "checkpoint.pt", records.spec_hash(run.spec)))
    tested = state.average.method if state.average and run.recipe.evaluate == "ema" else state.method
    rules = evaluate.scores(tested, ImageStore(run.faces, device), index, view_recipe(run.recipe))
    return next(iter(rules.values()))
