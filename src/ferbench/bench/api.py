"""ferbench from Python: a table or a run trained, and its records returned; the commands of the same names do the same.

    import ferbench

    records = ferbench.reproduce("remop/4/fixmatch", preset="cpu", seeds=2)
    records[0].metrics["last"]["mean"]
    ferbench.train("fixmatch", dataset="csv", roots={"csv": "my_faces"}, split="total:labels=400", recipe={"epochs": 5})
    ferbench.leaderboard("results")   # a pandas DataFrame

Mistakes raise `ferbench.errors.UserError`, with the line that the command would print.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ferbench import plugins
from ferbench.bench import terminal
from ferbench.bench.tables.counting.stored import StoredRun, read_stored
from ferbench.errors import DataError
from ferbench.protocols import select

if TYPE_CHECKING:
    from ferbench.bench.tables.runs import Workspace

Option = str | int | float | bool
Options = Mapping[str, Option]
Paths = Mapping[str, str | Path]


def reproduce(
    target: str, *, preset: str | None = None, seeds: int | None = None, variant: str | None = None,
    results: str | Path = "results", roots: Paths | None = None, weights: Paths | None = None, again: bool = False,
    quiet: bool = False,
) -> list[StoredRun]:  # fmt: skip
    """Train the cells of PAPER[/TABLE[/ROW[/COLUMN]]] in this process, and return the record of each run, in order.

    preset: default, the protocol's first. seeds: how many; default, the table's. roots: data set to the folder of your
    copy. weights: name to file. What is finished is not trained again, but for `again`. Raises UserError where a cell
    has nothing to run or a run fails.
    """
    from ferbench.bench.board.remembered import remember
    from ferbench.bench.cli.options import variant as checked
    from ferbench.bench.tables.running.plan import make_plan
    from ferbench.bench.tables.running.reproduce import execute, failures
    from ferbench.bench.training.recording.records import RunError

    plugins.load()
    with _told(quiet):
        place = _place(results, roots, weights)
        cells = select(target)
        plan = make_plan(cells, preset or cells[0].protocol.default_preset, seeds, place, checked(variant))
        if not plan.runs:
            reasons = "; ".join(dict.fromkeys(reason for _, reason in plan.left_out))
            raise DataError(f"{target}: nothing can be run: {reasons}")
        execute(plan, place, again=again)
        remember(cells[0].protocol, Path(results))
        if broken := failures(plan, place):
            raise RunError("; ".join(broken))
        return [_read(place.folder(run)) for _, _, run in plan.runs]


def train(
    method: str, *, dataset: str = "synthetic", split: str = "long_tailed:n1=400,gamma=20",
    options: Options | None = None, data_options: Options | None = None, test_options: Options | None = None,
    candidates: str = "", recipe: Options | None = None, like: str = "demo/synthetic", after: str | Path | None = None,
    preset: str = "cpu", variant: str | None = None, seed: int = 1, results: str | Path = "results",
    roots: Paths | None = None, weights: Paths | None = None, again: bool = False, quiet: bool = False,
) -> StoredRun:  # fmt: skip
    """Train one method on one split, as `ferbench train` does, and return its record. Raises UserError."""
    from ferbench.bench.cli.running import train_command

    plugins.load()
    with _told(quiet):
        folder = train_command(
            method, dataset=dataset, split=split, option=_words(options), data_option=_words(data_options),
            test_option=_words(test_options), candidates=candidates, recipe=_words(recipe), like=like,
            after=Path(after) if after else None, preset=preset, variant_name=variant, seed=seed,
            results=Path(results), root=_words(roots), weights=_words(weights), again=again,
        )  # fmt: skip
    return _read(folder)


def _place(results: str | Path, roots: Paths | None, weights: Paths | None) -> Workspace:
    from ferbench.bench.cli.options import workspace

    return workspace(Path(results), _words(roots), _words(weights))


def _words(pairs: Mapping[str, Option] | Paths | None) -> list[str] | None:
    """As the command line takes them."""
    if pairs is None:
        return None
    return [f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in pairs.items()]


def _read(folder: Path) -> StoredRun:
    return cast(StoredRun, read_stored(folder))  # finished: it was trained, or had been


@contextmanager
def _told(quiet: bool) -> Iterator[None]:
    """Without a word on the terminal where that is asked for."""
    before = terminal.console.quiet
    terminal.console.quiet = quiet or before
    try:
        yield
    finally:
        terminal.console.quiet = before
