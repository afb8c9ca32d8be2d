"""A run's predictions.npz, read strictly: arrays of the right kinds whose shapes fit each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.records import RunError

PREFIX = "scores_"
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Predictions:
    """scores: by inference rule [N, K], the headline rule first; labels: [N]; index: [N] positions in the data set;
    classes: K names, numbers for a run made before names were kept; features: [N, D], None where none were kept."""

    scores: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]
    classes: tuple[str, ...]
    features: NDArray[np.float32] | None

    @property
    def headline(self) -> NDArray[np.float32]:
        return next(iter(self.scores.values()))


def read_predictions(path: Path) -> Predictions:
    """Raises RunError for a file that is missing, damaged, or holds something else."""
    arrays = records.read_arrays(path)
    try:
        scores = {name.removeprefix(PREFIX): arrays[name] for name in arrays if name.startswith(PREFIX)}
        labels, index = arrays["labels"], arrays["index"]
        shape = next(iter(scores.values())).shape
    except (KeyError, StopIteration) as error:
        raise RunError(f"{path}: cannot be read: it holds no scores, labels or index; run it again") from error
    features = arrays.get("features")
    _check(path, len(shape) == 2 and 0 < shape[0] and 0 < shape[1] <= MOST_CLASSES, "scores [N, K]")
    _check(path, all(_is(values, "f", shape) and np.isfinite(values).all() for values in scores.values()), "scores")
    _check(path, _is(labels, "iu", shape[:1]) and bool(((labels >= 0) & (labels < shape[1])).all()), "labels [N]")
    _check(path, _is(index, "iu", shape[:1]) and bool((index >= 0).all()), "index [N]")
    _check(path, features is None or _is(features, "f", (shape[0], *features.shape[1:2])), "features [N, D]")
    classes = arrays.get("classes", np.arange(shape[1]).astype(str))
    _check(path, _is(classes, "U", shape[1:]), "classes [K]")
    return Predictions(
        scores=scores,
        labels=labels.astype(np.int64),
        index=index.astype(np.int64),
        classes=tuple(str(name) for name in classes),
        features=None if features is None else features.astype(np.float32),
    )


def _is(values: NDArray[Any], kinds: str, shape: tuple[int, ...]) -> bool:
    return values.dtype.kind in kinds and values.shape == shape


def _check(path: Path, right: bool, what: str) -> None:
    if not right:
        raise RunError(f"{path}: cannot be read: its {what} are not what a run leaves; run it again")
