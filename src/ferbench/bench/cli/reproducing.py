"""A whole table: trained, on one machine or many, and shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ferbench.bench import terminal
from ferbench.bench.cli.app import app
from ferbench.bench.cli.board import say_ignored
from ferbench.bench.cli.data import this_command
from ferbench.bench.cli.options import (
    Again,
    ArgumentError,
    Compile,
    Deterministic,
    Graph,
    Results,
    Roots,
    Threads,
    VariantName,
    Weights,
    set_threads,
    variant,
    workspace,
)
from ferbench.bench.terminal import say

if TYPE_CHECKING:
    from ferbench.bench.tables.planning.measured import Known
    from ferbench.bench.tables.running.plan import Plan
    from ferbench.bench.tables.runs import Workspace
    from ferbench.bench.training.state import Run
    from ferbench.protocols import Cell


@app.command()
def reproduce(
    target: Annotated[str, typer.Argument(help="PAPER[/TABLE[/ROW[/COLUMN]]], such as remop/4 or demo.")],
    preset: Annotated[str | None, typer.Option(help="A preset of the protocol, such as paper or cpu.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: the table's.")] = None,
    column: Annotated[str | None, typer.Option(help="Only this column of the tables.")] = None,
    variant_name: VariantName = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one per GPU, or per core, at most 4.")
    ] = None,
    shard: Annotated[str, typer.Option(help="I/N: only part I, from 1, of the runs in N parts.")] = "",
    ray: Annotated[str, typer.Option(help="HOST:PORT of a Ray cluster, or auto: its machines train the runs.")] = "",
    gpus_per_run: Annotated[
        float, typer.Option(min=0.01, help="With --ray: GPUs of a run, such as 0.5 for two runs on a card.")
    ] = 1.0,
    save_every: Annotated[
        float, typer.Option(min=0, help="With --ray: seconds between checkpoints that come home.")
    ] = 120.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")] = False,
    results: Results = Path("results"),
    root: Roots = None,
    weights: Weights = None,
    threads: Threads = None,
    again: Again = False,
    graph: Graph = "auto",
    deterministic: Deterministic = False,
    compiled: Compile = "off",
) -> None:
    """Train a table's cells and show the table.

    Runs that are finished are not repeated, and runs that were interrupted continue. On the CPU every run has one
    thread unless --threads says otherwise. A run that fails leaves the others alone; it is named at the end.
    """
    from ferbench.bench.data.faceset import DataError
    from ferbench.bench.tables.running.plan import make_plan
    from ferbench.bench.tables.running.reproduce import default_jobs, execute, one_thread_each, unfinished
    from ferbench.bench.tables.running.shards import Shard, part_of
    from ferbench.bench.tables.running.workers import end_with_parent, is_worker
    from ferbench.bench.training import processes
    from ferbench.bench.training.steps.mode import ask_mode

    if ray and (jobs or processes.several()):
        raise ArgumentError("--ray: the cluster says how many runs are trained at once; leave --jobs and torchrun out")
    end_with_parent()
    ask_mode(graph, deterministic, compiled)
    set_threads(threads)
    one_thread_each(threads)
    place = workspace(results, root, weights)
    cells = chosen_cells(target, column)
    chosen = preset or cells[0].protocol.default_preset
    part = Shard.read(shard) if shard else Shard(1, 1)
    plan, on_shard = part_of(make_plan(cells, chosen, seeds, place, variant(variant_name)), place, part)
    if is_worker():
        execute(plan, place, again=again)
        return
    say_left_out(plan)
    if shard:
        say(on_shard)
    if dry_run:
        _say_plan(plan, place, jobs or default_jobs(len(plan.runs)))
        return
    if not plan.runs and not shard:
        raise DataError(f"{target}: nothing can be run; the lines above say why")
    missing = unfinished(plan, place, again)
    _say_finished(plan, place, again)
    if ray and missing:
        mode = graph, deterministic, compiled
        _on_cluster(plan, missing, place, ray, chosen, variant(variant_name), mode, threads, again, gpus_per_run,
                    save_every)  # fmt: skip
    elif not ray:
        _here(plan, missing, place, jobs, again)
    if processes.rank() == 0:
        _show(target, cells, results)
        _refuse_incomplete(plan, place)


def _here(plan: Plan, missing: Sequence[Run], place: Workspace, jobs: int | None, again: bool) -> None:
    """Train what is missing on this machine."""
    from ferbench.bench.tables.running.reproduce import default_jobs, execute
    from ferbench.bench.tables.running.watched import Watch
    from ferbench.bench.tables.running.workers import run_workers
    from ferbench.bench.training import processes

    workers = jobs or default_jobs(len(missing))
    if workers > 1 and len(missing) > 1 and not processes.several():
        say(f"{len(missing)} runs in {workers} processes; {_how_long(plan, place, workers)}")
        with Watch(terminal.console, _steps(missing, place), _hours(missing, place, workers), workers) as watch:
            run_workers(sys.argv[1:], workers, watch.look)
    execute(plan, place, again=again)  # what the workers left: nothing, or runs that another command is at


def _on_cluster(plan: Plan, missing: Sequence[Run], place: Workspace, *asked: Any) -> None:
    """Have what is missing trained by a Ray cluster. asked: what `Asked` takes."""
    from ferbench.bench.tables.cluster.driver import Asked, run_on_cluster
    from ferbench.bench.tables.running.watched import Watch

    with Watch(terminal.console, _steps(missing, place)) as watch:
        run_on_cluster(plan, missing, place, Asked(*asked), watch.look)


def _steps(runs: Sequence[Run], place: Workspace) -> dict[Path, int]:
    return {place.folder(run): run.recipe.epochs * run.recipe.steps_per_epoch for run in runs}


def chosen_cells(target: str, column: str | None) -> list[Cell]:
    from ferbench.protocols import ProtocolError, select
    from ferbench.validation import unknown

    cells = select(target)
    if column is None:
        return cells
    names = sorted({cell.column.id for cell in cells})
    if column not in names:
        raise ProtocolError(unknown("column", column, names, target))
    return [cell for cell in cells if cell.column.id == column]


def _show(target: str, cells: list[Cell], results: Path) -> None:
    """Write the leaderboard and show the tables of these cells."""
    from ferbench.bench.board.csv_file import write_csv
    from ferbench.bench.board.leaderboard import collect
    from ferbench.bench.board.remembered import remember
    from ferbench.bench.board.shown import render

    remember(cells[0].protocol, results)
    board = collect(results)
    write_csv(board.lines, results / "leaderboard.csv")
    for table in {id(cell.table): cell for cell in cells}.values():
        say(render(table.protocol, table.table, board))
    say_ignored(board.ignored)
    say(f"table: {results / 'leaderboard.csv'}   runs: {results / 'runs'}")
    if target.startswith("demo"):
        ferbench = this_command()
        say(f"next: {ferbench} prepare ferplus --root PATH, then {ferbench} reproduce remop/4 --preset cpu")


def _say_finished(plan: Plan, place: Workspace, again: bool) -> None:
    """How many runs were there before, and by which code, where that is another one."""
    from ferbench.bench.tables.running.reproduce import finished_by

    by_this, by_other = finished_by(plan, place)
    if by_this or by_other:
        say(f"finished before: {len(by_this) + len(by_other)} of {len(plan.runs)} runs; nothing is trained for these")
    if by_other and not again:
        names = ", ".join(by_other[:2]) + (f" and {len(by_other) - 2} more" if len(by_other) > 2 else "")
        say(f"by other code than this: {names}; --again trains them anew")


def _refuse_incomplete(plan: Plan, place: Workspace) -> None:
    """Raise RunError where a run of the plan failed or waits for one that did, after a line for each."""
    from ferbench.bench.tables.running.reproduce import failures
    from ferbench.bench.training.recording.records import RunError

    lines = failures(plan, place)
    for line in lines:
        say(line)
    if lines:
        raise RunError(f"{len(lines)} of {len(plan.runs)} runs are not finished; the lines above say why")


def say_left_out(plan: Plan) -> None:
    reasons: dict[str, list[str]] = {}
    for cell, reason in plan.left_out:
        reasons.setdefault(reason, []).append(f"{cell.table.id}/{cell.row.id}/{cell.column.id}")
    for reason, names in reasons.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        say(f"left out: {shown}: {reason}")
    for line in plan.warnings:
        say(f"warning: {line}")


def _say_plan(plan: Plan, place: Workspace, jobs: int) -> None:
    """A line per run: its state, its steps, how long it takes, its whole name; then how long all of them take."""
    from ferbench.bench.tables.planning.measured import duration
    from ferbench.bench.training.recording.standing import finished

    times = _times(place, jobs)
    for _, _, run in plan.runs:
        folder = place.folder(run)
        there = "finished" if finished(folder) else "to continue" if (folder / "checkpoint.pt").exists() else "to run"
        found = times.estimate(run.spec, run.recipe, len(run.test))
        took = duration(found.hours) if found else "?"
        say(f"{there:<11} {run.recipe.epochs * run.recipe.steps_per_epoch:>7} steps {took:>7}  {folder.name}")
    say(_how_long(plan, place, jobs))


def _times(place: Workspace, jobs: int) -> Known:
    """What finished runs say of this device; of `jobs` processes each has one CPU thread."""
    import torch

    from ferbench.bench.tables.planning.measured import known
    from ferbench.bench.training.recording.environment import device_name

    return known(place.results, device_name(), 1 if jobs > 1 else torch.get_num_threads())


def _hours(runs: Sequence[Run], place: Workspace, jobs: int) -> dict[Path, float | None]:
    """What each run is estimated to take, by its folder."""
    times = _times(place, jobs)
    found = {place.folder(run): times.estimate(run.spec, run.recipe, len(run.test)) for run in runs}
    return {folder: estimate.hours if estimate else None for folder, estimate in found.items()}


def _how_long(plan: Plan, place: Workspace, jobs: int) -> str:
    """A line on the runs that are not finished."""
    from ferbench.bench.tables.planning.measured import in_words
    from ferbench.bench.training.recording.standing import finished

    times, runs = _times(place, jobs), [run for _, _, run in plan.runs if not finished(place.folder(run))]
    found = [times.estimate(run.spec, run.recipe, len(run.test)) for run in runs]
    return in_words(found, jobs, times) if runs else "nothing is left to run"
