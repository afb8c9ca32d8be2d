"""The finished runs a plot is made of, and what their files hold."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.board.frame import existing
from ferbench.bench.board.run_names import find_cells, find_folder, no_such_run
from ferbench.bench.tables.counted import counted_runs
from ferbench.bench.training import records
from ferbench.bench.training.records import RunError
from ferbench.protocols import ProtocolError, protocol_names


@dataclass(frozen=True)
class PlotRun:
    """One finished run and how a plot names it.

    method: what tells its line or panel from others of the same figure. data: what it was trained and tested on.
    figure: runs with the same one may share a figure; cell: the same one, but for the seed, is the same experiment.
    """

    folder: Path
    method: str
    data: str
    figure: str
    cell: str
    seed: int


@dataclass(frozen=True)
class Predictions:
    """Of N test images: scores [N, K] by the headline rule, labels [N], K class names, features [N, D] where saved."""

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    features: NDArray[np.float32] | None


def find_runs(target: str, results: Path) -> list[PlotRun]:
    """The run of this name or folder, or all that count for the cells of `PAPER[/TABLE[/ROW[/COLUMN]]]`.

    Raises RunError where there is none or it is not finished, ProtocolError for a wrong part of a protocol's name.
    """
    if folder := find_folder(target, existing(results)):
        return [_single(folder)]
    try:
        chosen = {cell.id: cell for cell in find_cells(target, results)}
    except ProtocolError as error:
        if target.partition("/")[0] in protocol_names():
            raise
        raise no_such_run(target, results, error) from error
    protocol = next(iter(chosen.values())).protocol
    runs = [run for run in counted_runs(results, {protocol.name: protocol})[0] if run.cell.id in chosen]
    if not runs:
        raise RunError(f"{target}: no finished run in {results / 'runs'}; `ferbench reproduce {target}` makes them")
    order = list(chosen)
    runs.sort(key=lambda run: (order.index(run.cell.id), run.preset, run.variant, run.seed))
    several = len({run.variant for run in runs}) > 1
    return [
        PlotRun(
            folder=results / "runs" / run.id,
            method=f"{run.cell.row.label} ({run.variant})" if several else run.cell.row.label,
            data=run.cell.column.label,
            figure=_name(protocol.name, run.cell.table.id, run.cell.column.id, run.preset),
            cell=_name(run.cell.id, run.preset, run.variant),
            seed=run.seed,
        )
        for run in runs
    ]


def _single(folder: Path) -> PlotRun:
    if not (folder / "record.json").is_file():
        raise RunError(f"{folder}: this run is not finished; the command that started it continues it")
    spec = records.read_json(folder / "spec.json")
    try:
        names = [spec[part]["reader"] for part in ("dataset", "test")]
        method = f"{spec['method']} ({spec['variant']})"
        data = " > ".join(dict.fromkeys(names))
        return PlotRun(folder, method, data, figure=folder.name, cell=folder.name, seed=int(spec["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / 'spec.json'}: lacks or garbles {error}") from error


def _name(*parts: str) -> str:
    return "-".join(parts).replace("/", "-")


def read_predictions(run: PlotRun) -> Predictions:
    """Raises RunError for a file that is missing or damaged."""
    path = run.folder / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            scores = next(stored[name] for name in stored.files if name.startswith("scores_"))
            numbers = tuple(str(code) for code in range(scores.shape[1]))
            return Predictions(
                scores=scores,
                labels=stored["labels"],
                classes=tuple(stored["classes"].tolist()) if "classes" in stored else numbers,
                features=stored["features"].astype(np.float32) if "features" in stored else None,
            )
    except (OSError, ValueError, KeyError, IndexError, StopIteration, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: cannot be read ({error}); delete the run's folder to run it again") from error


def read_history(run: PlotRun) -> Sequence[dict[str, Any]]:
    """A line per epoch, with the evaluated model's test metrics by the headline rule under `test`, {} where not scored.

    Raises RunError for a file that is missing or damaged.
    """
    evaluated = records.read_json(run.folder / "record.json").get("evaluated", "student")
    path = run.folder / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            {**line, "test": next(iter(line["test"][evaluated].values())) if "test" in line else {}} for line in lines
        ]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise RunError(f"{path}: cannot be read ({error}); delete the run's folder to run it again") from error
