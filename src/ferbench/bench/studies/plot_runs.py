"""The finished runs a plot is made of, and what their files hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferbench.bench.board.run_names import find_cells, find_folder, no_such_run
from ferbench.bench.files import reason
from ferbench.bench.tables.counting.counted import counted_runs
from ferbench.bench.tables.counting.stored import numbers, read_stored
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.records import RunError
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


def find_runs(target: str, results: Path) -> list[PlotRun]:
    """The run of this name or folder, or all that count for the cells of `PAPER[/TABLE[/ROW[/COLUMN]]]`.

    Raises RunError where there is none or it is not finished, ProtocolError for a wrong part of a protocol's name.
    """
    if folder := find_folder(target, results):
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
    stored = read_stored(folder) if (folder / "record.json").is_file() else None
    if stored is None:
        raise RunError(f"{folder}: this run is not finished; the command that started it continues it")
    spec = stored.spec
    data = " > ".join(dict.fromkeys(spec[part]["reader"] for part in ("dataset", "test")))
    method = f"{spec['method']} ({spec['variant']})"
    return PlotRun(folder, method, data, figure=folder.name, cell=folder.name, seed=spec["seed"])


def _name(*parts: str) -> str:
    return "-".join(parts).replace("/", "-")


def read_history(run: PlotRun) -> Sequence[dict[str, Any]]:
    """A line per epoch, with the evaluated model's test metrics by the headline rule under `test`, {} where not scored.

    Raises RunError for a file that is missing or damaged.
    """
    evaluated = records.read_json(run.folder / "record.json").get("evaluated", "student")
    path = run.folder / "metrics.jsonl"
    history = []
    for line in records.read_lines(path):
        try:
            scored = next(iter(line["test"][evaluated].values())) if "test" in line else {}
        except (KeyError, TypeError, AttributeError, StopIteration) as error:
            raise RunError(
                f"{path}: cannot be read: an epoch lacks or garbles {reason(error)}; run it again"
            ) from error
        plain = {key: value for key, value in line.items() if not isinstance(value, dict)}
        history.append({**numbers(plain, path, "an epoch"), "test": numbers(scored, path, "test")})
    if not any(line["test"] for line in history):
        raise RunError(f"{path}: cannot be read: no epoch was scored; run it again")
    return history
