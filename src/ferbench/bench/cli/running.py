"""Training: one run, a whole table, or an encoder without labels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ferbench.bench import terminal
from ferbench.bench.cli.app import app
from ferbench.bench.cli.board import say_ignored
from ferbench.bench.cli.data import drawn_split, this_command
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
    listed_values,
    set_threads,
    values,
    variant,
    workspace,
)
from ferbench.bench.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ferbench.bench.tables.planning.measured import Known
    from ferbench.bench.tables.running.plan import Plan
    from ferbench.bench.tables.runs import Workspace
    from ferbench.bench.training.state import Run
    from ferbench.protocols import Cell


@app.command("train")
def train_command(
    method: str,
    dataset: Annotated[str, typer.Option(help="A data set's name; see `ferbench list datasets`.")] = "synthetic",
    split: Annotated[str, typer.Option(help="KIND[:key=value,...] or a split file.")] = "long_tailed:n1=400,gamma=20",
    option: Annotated[list[str] | None, typer.Option(help="Method option, e.g. threshold=0.9; repeatable.")] = None,
    data_option: Annotated[list[str] | None, typer.Option(help="Reader option KEY=VALUE; repeatable.")] = None,
    test_option: Annotated[list[str] | None, typer.Option(help="Reader option for the test set; repeatable.")] = None,
    candidates: Annotated[
        str, typer.Option(help="Candidate label sets, KIND[:key=value,...], such as uniform_flip:q=0.3.")
    ] = "",
    recipe: Annotated[list[str] | None, typer.Option(help="Recipe key KEY=VALUE, e.g. epochs=5; repeatable.")] = None,
    like: Annotated[str, typer.Option(help="PROTOCOL/RECIPE to start from, such as remop/ferplus.")] = "demo/synthetic",
    after: Annotated[Path | None, typer.Option(help="Folder of a finished run: start from its final weights.")] = None,
    preset: str = "cpu",
    variant_name: VariantName = None,
    seed: int = 1,
    results: Results = Path("results"),
    root: Roots = None,
    weights: Weights = None,
    threads: Threads = None,
    again: Again = False,
    graph: Graph = "auto",
    deterministic: Deterministic = False,
    compiled: Compile = "off",
) -> Path:
    """Train one method on one split."""
    from ferbench.bench.tables.running.claims import claimed, holder
    from ferbench.bench.tables.settings import describe, method_settings
    from ferbench.bench.training import processes
    from ferbench.bench.training.progress import Bar
    from ferbench.bench.training.recording import records
    from ferbench.bench.training.recording.code import method_code
    from ferbench.bench.training.recording.standing import finished, finished_before, set_aside
    from ferbench.bench.training.steps.mode import ask_mode
    from ferbench.bench.training.train import train
    from ferbench.protocols import REST, ProtocolError, Recipe, load_protocol
    from ferbench.validation import build, unknown

    ask_mode(graph, deterministic, compiled)
    set_threads(threads)
    place = workspace(results, root, weights)
    name, _, key = like.partition("/")
    protocol = load_protocol(name)
    if key not in protocol.recipes:
        raise ProtocolError(unknown("recipe", key, protocol.recipes, f"protocol {name}"))
    base = {field: getattr(protocol.recipe(key, preset), field) for field in Recipe.__dataclass_fields__}
    settings = build(Recipe, {**base, **values(recipe, "--recipe")}, "--recipe", ProtocolError)
    options = values(data_option, "--data-option")
    faces = place.faces(dataset, options)
    drawn = drawn_split(split, faces, seed)
    test_options = {**options, **values(test_option, "--test-option")}
    chosen = method_settings(method, values(option, "--option"), variant(variant_name) or "paper", settings)
    spec = chosen | _candidates(candidates, method) | {
        "dataset": describe(dataset, options), "test": describe(dataset, test_options), "unlabelled": REST,
        "split": {"kind": drawn.recipe, "parameters": dict(drawn.parameters)}, "preset": preset, "seed": seed,
    }  # fmt: skip
    run = _one_run(spec, settings, place, drawn, test_options if test_option else None, after)
    folder = place.folder(run)
    with claimed(folder) as free:
        if not free:
            raise records.RunError(f"{folder}: {holder(folder)} is working on this run")
        code = method_code(run.method, run.values)
        if again and processes.rank() == 0 and (aside := set_aside(folder, records.spec_hash(run.spec), code)):
            say(f"the files of the run so far are in {aside}")
        if processes.agreed(finished(folder)):
            say(finished_before(folder, code))
        else:
            from ferbench.bench.data.splits.files import write_split
            from ferbench.bench.tables.other_pixels import on_other_pixels

            if processes.rank() == 0:
                write_split(drawn, faces, folder / "split.json")
                for name in on_other_pixels(run.spec, results):
                    say(f"{name} is finished with these settings on other images (same names, other pixels)")
            with Bar(terminal.console, folder.name) as bar:
                train(run, folder, reporter=bar)
    if processes.rank() == 0:
        record = records.read_json(folder / "record.json")
        say(json.dumps(record["metrics"]["last"]))
        say(f"record: {folder / 'record.json'}")
    return folder


def _one_run(
    spec: dict[str, Any], settings: Any, place: Workspace, drawn: Any, test_options: dict[str, Any] | None,
    after: Path | None,
) -> Run:  # fmt: skip
    """The run of these settings, with those whose predictions its candidate sets are made from where some are."""
    from ferbench.bench.tables.candidate_sets import model_recipe, scorer_splits
    from ferbench.bench.tables.runs import make_run
    from ferbench.bench.tables.settings import folds_of, method_settings
    from ferbench.bench.training.stages import finished_start

    reader = spec["dataset"]["reader"]
    faces = place.faces(reader, spec["dataset"]["options"])
    test = faces if test_options is None else place.faces(reader, test_options)
    scorers = []
    if folds_of(spec):
        plain = {key: value for key, value in spec.items() if key != "candidates"}
        shorter = model_recipe(spec, settings)
        plain |= method_settings("vanilla", {}, "paper", shorter)
        for part in scorer_splits(spec, faces, drawn):
            plain["split"] = {"kind": part.recipe, "parameters": dict(part.parameters)}
            scorers.append(make_run(plain, shorter, faces, part, test, None, place))
    start = finished_start(after) if after else None
    return make_run(spec, settings, faces, drawn, test, None, place, start, scorers)


def _candidates(asked: str, method: str) -> dict[str, Any]:
    """What KIND[:key=value,...] says of candidate sets; raises ArgumentError for a method that takes none."""
    from ferbench.bench.tables.settings import candidate_settings

    kind, options = listed_values(asked, "--candidates")
    settings = candidate_settings(method, kind, options)
    if kind and not settings:
        raise ArgumentError(f"{method} takes no candidate sets; leave --candidates out")
    return settings


@app.command("pretrain")
def pretrain_command(
    objective: Annotated[str, typer.Argument(help="mae, or another objective.")] = "mae",
    dataset: Annotated[str, typer.Option(help="NAME[,NAME...]: the training images of these data sets.")] = "",
    faces: Annotated[Path | None, typer.Option(help="A folder of face images, of any depth.")] = None,
    recipe: Annotated[str, typer.Option(help="PROTOCOL whose pre-training settings to take: pll, ssfer.")] = "",
    backbone: Annotated[str | None, typer.Option(help="vit_base (the default), vit_small or vit_tiny.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as epochs=20.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Option of the objective, KEY=VALUE; repeatable.")] = None,
    data_option: Annotated[list[str] | None, typer.Option(help="Reader option KEY=VALUE; repeatable.")] = None,
    variant_name: VariantName = None,
    seed: int = 1,
    out: Annotated[Path | None, typer.Option(help="Write the weights here as well.")] = None,
    results: Results = Path("results"),
    root: Roots = None,
    parts: Annotated[int, typer.Option(min=1, help="Go through each batch in so many parts, for less memory.")] = 1,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Faster float32 products of 10 bits on GPUs that have them.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do a few steps, say how long all take, and stop.")
    ] = False,
    threads: Threads = None,
) -> None:
    """Pre-train an encoder without labels.

    The weights load with --weights NAME=FILE.
    """
    import torch

    from ferbench.bench.pretraining import command
    from ferbench.bench.pretraining.plan import plan
    from ferbench.bench.training.progress import Bar

    if tf32:
        torch.set_float32_matmul_precision("high")
    set_threads(threads)
    settings = {**({"backbone": backbone} if backbone else {}), **values(setting, "--set")}
    run = command.resolve_command(
        objective, dataset, faces, values(option, "--option"), values(data_option, "--data-option"), settings, seed,
        variant(variant_name) == "released", workspace(results, root, None), recipe,
    )  # fmt: skip
    if dry_run:
        say(plan(run, torch.device("cuda" if torch.cuda.is_available() else "cpu"), parts))
        return
    with Bar(terminal.console, run.name) as bar:
        record = command.run_command(run, results, out, bar, parts)
    for line in command.summary(run, record, results, out) if record else ():
        say(line)


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
    from ferbench.bench.tables.running.watched import Watch
    from ferbench.bench.tables.running.workers import end_with_parent, is_worker, run_workers
    from ferbench.bench.training import processes
    from ferbench.bench.training.steps.mode import ask_mode

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
    steps = {place.folder(run): run.recipe.epochs * run.recipe.steps_per_epoch for run in missing}
    _say_finished(plan, place, again)
    workers = jobs or default_jobs(len(missing))
    if workers > 1 and len(missing) > 1 and not processes.several():
        say(f"{len(missing)} runs in {workers} processes; {_how_long(plan, place, workers)}")
        with Watch(terminal.console, steps, _hours(missing, place, workers), workers) as watch:
            run_workers(sys.argv[1:], workers, watch.look)
    execute(plan, place, again=again)  # what the workers left: nothing, or runs that another command is at
    if processes.rank() == 0:
        _show(target, cells, results)
        _refuse_incomplete(plan, place)


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
