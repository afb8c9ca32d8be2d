"""The board as a pandas DataFrame."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ferbench.bench.board.csv_file import COLUMNS, ordered
from ferbench.bench.board.leaderboard import collect
from ferbench.bench.training.recording.records import RunError

if TYPE_CHECKING:
    import pandas as pd


def leaderboard(results: str | Path = "results", *, measured: bool = False) -> pd.DataFrame:
    """The board of a results folder: a row for each metric of a cell, the columns of `leaderboard.csv`, unrounded.

    results: a folder with `runs/`. measured: leave out published numbers that nothing was run for. Lists (seeds, run
    ids, steps, ...) are tuples. Needs pandas. Raises RunError for a folder that is not there.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("ferbench.leaderboard gives a DataFrame: pip install pandas") from error
    board = collect(existing(results), without_runs=not measured)
    return pd.DataFrame([asdict(line) for line in ordered(board.lines)], columns=list(COLUMNS))


def existing(results: str | Path) -> Path:
    """The results folder that a command reads. Raises RunError where it is not there: a mistyped name is no board."""
    folder = Path(results)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such results folder; give the one that your runs were written to as --results")
    return folder
