"""The command line. Every mistake a user can make ends in one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import torch
import typer
from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.table import Table as RichTable

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.preparing.cache import cache_root
from ferbench.bench.data.sets.fake import make_fake
from ferbench.bench.data.sets.fakes import FAKES
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.data.splits.draw import Split, make_split
from ferbench.bench.data.splits.files import read_split, write_split
from ferbench.bench.data.splits.report import split_text
from ferbench.bench.pretraining import command as pretraining
from ferbench.bench.studies.attack import EPSILONS
from ferbench.bench.tables import listing
from ferbench.bench.tables.candidate_sets import candidate_settings, made_from_a_model, model_recipe
from ferbench.bench.tables.leaderboard import SELECTIONS, collect, render, write_csv
from ferbench.bench.tables.reproduce import (
    WORKER,
    Plan,
    claimed,
    default_jobs,
    execute,
    finished,
    make_plan,
    run_workers,
)
from ferbench.bench.tables.runs import Workspace, describe, make_run, method_settings
from ferbench.bench.training import processes, records
from ferbench.bench.training.interrupt import Interrupted
from ferbench.bench.training.networks.backbones import WeightsError
from ferbench.bench.training.progress import Bar, now_and_then
from ferbench.bench.training.stages import finished_start
from ferbench.bench.training.train import TrainingError, train
from ferbench.methods import MethodError, Variant
from ferbench.protocols import REST, ProtocolError, Recipe, load_protocol, protocol_names, select
from ferbench.validation import Value
from ferbench.validation import build as build_checked

# click's UsageError, or that of the copy of click which newer versions of typer hold.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
USER_ERRORS = (DataError, MethodError, ProtocolError, WeightsError, records.RunError, TrainingError)

app = typer.Typer(
    help="Reproduce semi- and weakly-supervised facial expression recognition tables.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
console = Console()

Results = Annotated[Path, typer.Option(help="Folder of runs, leaderboard.csv and speed.csv.")]
Roots = Annotated[list[str] | None, typer.Option("--root", help="DATASET=PATH, your copy of a data set; repeatable.")]
Weights = Annotated[list[str] | None, typer.Option("--weights", help="NAME=FILE, pre-trained weights; repeatable.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
VariantName = Annotated[str | None, typer.Option(help="paper, released or usb, before the protocol's own choice.")]


@app.command("list")
def list_command(what: Annotated[str, typer.Argument(help="methods, protocols or datasets.")] = "") -> None:
    """What there is: methods, protocols, data sets."""
    kinds = {"methods": listing.methods, "protocols": listing.protocols, "datasets": listing.datasets}
    if what and what not in kinds:
        raise DataError(f"cannot list '{what}'; valid: {', '.join(kinds)}")
    for kind in [what] if what else kinds:
        console.print(kinds[kind]())


@app.command()
def prepare(
    dataset: str,
    root: Annotated[Path | None, typer.Option(help="Folder of your copy.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the reader, such as rule=majority.")] = None,
    partial: Annotated[bool, typer.Option(help="Accept a copy whose counts differ from the published ones.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Images decoded at once; default: one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read, verify and report on a data set, and decode it once into the cache."""
    with RichProgress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"decoding {dataset}", total=None)
        report = prepare_dataset(
            dataset, _values(option), root=root, cache=cache_root(), partial=partial,
            threads=threads or os.cpu_count() or 1,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    print(json.dumps(report.json(), indent=1) if as_json else report.text())


@app.command("fake")
def fake_command(
    dataset: str,
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    images: Annotated[int, typer.Option(help="Training images per class.")] = 30,
    layout: Annotated[str, typer.Option(help="Which layout; default: the authors' own.")] = "",
) -> None:
    """Generate a tiny copy of a data set, coloured shapes for faces, to try things out."""
    chosen = make_fake(FAKES, dataset, out, images, layout)
    print(f"{out}: {dataset} in layout {chosen}; next: ferbench prepare {dataset} --root {out} --partial")


@app.command("split")
def split_command(
    dataset: str,
    split: Annotated[str, typer.Argument(help="KIND[:key=value,...], or a split file to check.")],
    seed: int = 1,
    data_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the reader.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the split file here; the data set's terms cover it.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of your copy.")] = None,
) -> None:
    """Draw a split and print what it takes of each class; training draws the same one from the same seed."""
    faces = open_dataset(dataset, _values(data_option), root=root, cache=cache_root())
    drawn = _drawn(split, faces, seed)
    print(split_text(drawn, faces))
    if out:
        write_split(drawn, faces, out)
        print(f"wrote {out}")


@app.command("train")
def train_command(
    method: str,
    dataset: Annotated[str, typer.Option(help="A reader's name; see `ferbench list datasets`.")] = "synthetic",
    split: Annotated[str, typer.Option(help="KIND[:key=value,...] or a split file.")] = "long_tailed:n1=400,gamma=20",
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the method.")] = None,
    data_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the reader.")] = None,
    test_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the reader, for the test set.")] = None,
    candidates: Annotated[str, typer.Option(help="KIND[:key=value,...] of candidate label sets.")] = "",
    recipe: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the recipe, such as epochs=5.")] = None,
    like: Annotated[str, typer.Option(help="PROTOCOL/RECIPE to start from, such as remop/ferplus.")] = "demo/synthetic",
    after: Annotated[Path | None, typer.Option(help="Folder of a finished run: start from its final weights.")] = None,
    preset: str = "cpu",
    variant: VariantName = None,
    seed: int = 1,
    results: Results = Path("results"),
    root: Roots = None,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Train one method on one split."""
    _set_threads(threads)
    workspace = _workspace(results, root, weights)
    name, _, key = like.partition("/")
    protocol = load_protocol(name)
    if key not in protocol.recipes:
        raise ProtocolError(f"protocol {name} has no recipe '{key}'; it has: {', '.join(protocol.recipes)}")
    base = {field: getattr(protocol.recipe(key, preset), field) for field in Recipe.__dataclass_fields__}
    settings = build_checked(Recipe, {**base, **_values(recipe)}, "--recipe")
    options = _values(data_option)
    faces = workspace.faces(dataset, options)
    drawn = _drawn(split, faces, seed)
    test_options = {**options, **_values(test_option)}
    test = workspace.faces(dataset, test_options) if test_option else faces
    sets = _candidates(candidates, method)
    spec = method_settings(method, _values(option), _variant(variant) or "paper", settings) | sets | {
        "dataset": describe(dataset, options), "test": describe(dataset, test_options), "unlabelled": REST,
        "split": {"kind": drawn.recipe, "parameters": dict(drawn.parameters)}, "preset": preset, "seed": seed,
    }  # fmt: skip
    softmax = None
    if made_from_a_model(spec):
        plain = {key: value for key, value in spec.items() if key != "candidates"}
        shorter = model_recipe(spec, settings)
        plain |= method_settings("vanilla", {}, "paper", shorter)
        softmax = make_run(plain, shorter, faces, drawn, test, None, workspace)
    start = finished_start(after) if after else None
    run = make_run(spec, settings, faces, drawn, test, None, workspace, start, softmax=softmax)
    folder = workspace.folder(run)
    with claimed(folder) as free:
        if not free:
            raise records.RunError(f"{folder}: another process is working on this run")
        if not processes.agreed(finished(folder)):
            if processes.rank() == 0:
                write_split(drawn, faces, folder / "split.json")
            with Bar(console, folder.name) as bar:
                train(run, folder, reporter=bar)
    if processes.rank() > 0:
        return
    record = records.read_json(folder / "record.json")
    console.print(json.dumps(record["metrics"]["last"]), highlight=False, soft_wrap=True)
    console.print(f"record: {folder / 'record.json'}", highlight=False, soft_wrap=True)


@app.command("pretrain")
def pretrain_command(
    objective: Annotated[str, typer.Argument(help="mae, or another objective.")] = "mae",
    dataset: Annotated[str, typer.Option(help="NAME[,NAME...]: the training images of these data sets.")] = "",
    faces: Annotated[Path | None, typer.Option(help="A folder of face images, of any depth.")] = None,
    recipe: Annotated[str, typer.Option(help="PROTOCOL whose pre-training settings to take: pll, ssfer.")] = "",
    backbone: Annotated[str | None, typer.Option(help="vit_base (the default), vit_small or vit_tiny.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as epochs=20.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the objective.")] = None,
    data_option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the readers.")] = None,
    variant: VariantName = None,
    seed: int = 1,
    out: Annotated[Path | None, typer.Option(help="Write the weights here as well.")] = None,
    results: Results = Path("results"),
    root: Roots = None,
    threads: Threads = None,
) -> None:
    """Pre-train an encoder on faces without labels; the weights load with --weights NAME=FILE."""
    _set_threads(threads)
    settings = {**({"backbone": backbone} if backbone else {}), **_values(setting)}
    run = pretraining.resolve_command(
        objective, dataset, faces, _values(option), _values(data_option), settings, seed,
        _variant(variant) == "released", _workspace(results, root, None), recipe,
    )  # fmt: skip
    with Bar(console, run.name) as bar:
        record = pretraining.run_command(run, results, out, bar)
    for line in pretraining.summary(run, record, results, out) if record else ():
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
def reproduce(
    target: Annotated[str, typer.Argument(help="PAPER[/TABLE[/ROW[/COLUMN]]], such as remop/4 or demo.")],
    preset: Annotated[str | None, typer.Option(help="paper, or cpu: minutes instead of days.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: the table's.")] = None,
    column: Annotated[str | None, typer.Option(help="Only this column of the tables.")] = None,
    variant: VariantName = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core, at most 4.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")] = False,
    results: Results = Path("results"),
    root: Roots = None,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Run a table's cells, skip what is finished, continue what is not, and write the leaderboard."""
    _set_threads(threads)
    workspace = _workspace(results, root, weights)
    cells = select(target)
    if column is not None:
        names = sorted({cell.column.id for cell in cells})
        cells = [cell for cell in cells if cell.column.id == column]
        if not cells:
            raise ProtocolError(f"{target} has no column '{column}'; it has: {', '.join(names)}")
    chosen = preset or cells[0].protocol.default_preset
    plan = make_plan(cells, chosen, seeds, workspace, _variant(variant))
    if WORKER in os.environ:
        execute(plan, workspace, console)
        return
    _print_left_out(plan)
    if dry_run:
        _print_plan(plan, workspace)
        return
    if not plan.runs:
        raise DataError(f"{target}: nothing can be run; the lines above say why")
    missing = len({workspace.folder(run) for _, _, run in plan.runs if not finished(workspace.folder(run))})
    workers = jobs or default_jobs(missing)
    if workers > 1 and missing > 1 and not processes.several():
        console.print(f"{missing} runs in {workers} processes", highlight=False)
        run_workers(sys.argv[1:], workers)
    else:
        execute(plan, workspace, console)
    if processes.rank() > 0:
        return
    known = {protocol.name: protocol for protocol in (*map(load_protocol, protocol_names()), cells[0].protocol)}
    board = collect(results, list(known.values()))  # the target may be a folder of the user's own
    write_csv(board.lines, results / "leaderboard.csv")
    for table in {id(cell.table): cell for cell in cells}.values():
        console.print(render(table.protocol, table.table, board.lines))
    _print_ignored(board.ignored)
    console.print(f"table: {results / 'leaderboard.csv'}   runs: {results / 'runs'}", highlight=False)
    if target.startswith("demo"):
        then = "ferbench reproduce remop/4 --preset cpu"
        console.print(f"next: ferbench prepare ferplus --root PATH, then {then}")


@app.command()
def leaderboard(
    csv: Annotated[Path | None, typer.Option(help="Default: leaderboard.csv in the results, all papers.")] = None,
    paper: Annotated[str | None, typer.Option(help="Only this protocol.")] = None,
    selection: Annotated[str, typer.Option(help="last, best-on-val, best-on-test or all.")] = "last",
    results: Results = Path("results"),
) -> None:
    """Published beside measured, from the records in the results folder."""
    if selection not in (*SELECTIONS, "all"):
        raise ProtocolError(f"unknown selection '{selection}'; valid: {', '.join(SELECTIONS)}, all")
    known = [load_protocol(name) for name in ([paper] if paper else protocol_names())]
    board = collect(results, known)
    written = collect(results) if paper and not csv else board  # the folder's own table always holds all papers
    write_csv(written.lines, csv or results / "leaderboard.csv")
    shown = SELECTIONS if selection == "all" else (selection,)
    measured = {(line.paper, line.table) for line in board.lines if line.run_ids}
    for protocol in known:
        for table in protocol.tables:
            if (protocol.name, table.id) in measured:
                console.print(render(protocol, table, board.lines, shown))
    _print_ignored(board.ignored)
    console.print(f"wrote {csv or results / 'leaderboard.csv'}", highlight=False)


@app.command("plot")
def plot_command(
    kind: Annotated[str, typer.Argument(help="confusion, curves, sweep or tsne.")],
    target: Annotated[str, typer.Argument(help="A run's name or folder, or PAPER[/TABLE[/ROW[/COLUMN]]].")],
    out: Annotated[Path | None, typer.Option(help="Folder for PNG and SVG; default: plots/ in the results.")] = None,
    results: Results = Path("results"),
) -> None:
    """Draw finished runs from their saved files, without training anything."""
    from ferbench.bench.studies.plots import plot  # matplotlib takes longer to import than the other commands to answer

    for path in plot(kind, target, results, out or results / "plots"):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command("attack")
def attack_command(
    target: Annotated[str, typer.Argument(help="A run's name or folder, or PAPER[/TABLE[/ROW[/COLUMN]]].")],
    epsilon: Annotated[list[float] | None, typer.Option(help="Share of the range of pixels; repeatable.")] = None,
    threshold: Annotated[float, typer.Option(help="The focused region is where Grad-CAM exceeds this.")] = 0.3,
    images: Annotated[int | None, typer.Option(min=1, help="Only the first of the test set; nothing is kept.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Draw so many images, their maps and attacks.")] = 0,
    results: Results = Path("results"),
    root: Roots = None,
    threads: Threads = None,
) -> None:
    """FGSM on the regions a finished run looks at, and on the others (SSFER, Table 7)."""
    from ferbench.bench.studies import afterwards  # matplotlib takes longer to import than the other commands to answer

    _set_threads(threads)
    epsilons = tuple(epsilon or EPSILONS)
    for part in afterwards.attack(target, _workspace(results, root, None), epsilons, threshold, images, pictures):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))


@app.command("predict")
def predict_command(
    target: Annotated[str, typer.Argument(help="A finished run's name or folder, or PAPER/TABLE/ROW/COLUMN.")],
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="CSV of path, predicted class and scores.")] = Path("predicted.csv"),
    results: Results = Path("results"),
    threads: Threads = None,
) -> None:
    """What a finished run says of your own face images."""
    from ferbench.bench.studies import afterwards

    _set_threads(threads)
    console.print(afterwards.predict(target, results, images, out), highlight=False, soft_wrap=True)


@app.command("export")
def export_command(
    target: Annotated[str, typer.Argument(help="A finished run's name or folder, or PAPER/TABLE/ROW/COLUMN.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    results: Results = Path("results"),
) -> None:
    """A finished run's tested weights as plain tensors, with classes and normalisation."""
    from ferbench.bench.studies import afterwards

    console.print(afterwards.export(target, results, out), highlight=False, soft_wrap=True)


@app.command("cost")
def cost_command(
    target: Annotated[str | None, typer.Argument(help="A backbone, a run's name or folder, or PAPER/...")] = None,
    size: Annotated[int, typer.Option(min=8, help="Pixels a side, for a backbone.")] = 224,
    results: Results = Path("results"),
) -> None:
    """Parameters and multiply-adds of backbones or of finished runs (SSFER, Table 6)."""
    from ferbench.bench.studies import afterwards

    for part in afterwards.cost(target, _workspace(results, None, None), size):
        console.print(part, highlight=False)


@app.command("tune")
def tune_command(
    target: Annotated[str, typer.Argument(help="PAPER/TABLE/ROW/COLUMN, such as ssfer/16/ssfer-gwo/rafdb-5.")],
    preset: Annotated[str | None, typer.Option(help="paper, or cpu: minutes instead of days.")] = None,
    bound: Annotated[list[str] | None, typer.Option(help="NAME=LOWEST:HIGHEST of a rate; repeatable.")] = None,
    wolves: Annotated[int, typer.Option(help="Runs per round, at least 3.")] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds after the first look.")] = 4,
    validation: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the labels held out.")] = 0.2,
    seed: int = 1,
    results: Results = Path("results"),
    root: Roots = None,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Search learning rates with the grey wolf optimiser, on held-out labels (SSFER, Table 16)."""
    from ferbench.bench.studies.tune_runs import bounds_of, one_cell, tune

    _set_threads(threads)
    cell = one_cell(target)
    with Bar(console, target) as bar:
        search = tune(
            cell, preset or cell.protocol.default_preset, bounds_of(bound), wolves=wolves, rounds=rounds,
            held_out=validation, seed=seed, workspace=_workspace(results / "tune", root, weights),
            train=lambda run, folder: train(run, folder, reporter=bar), report=bar.note,
        )  # fmt: skip
    rates, accuracy = search.best
    shown = ", ".join(f"{name} = {value:g}" for name, value in rates.items())
    console.print(f"best of {len(search.tried)}: {shown} ({accuracy:.2f} % on validation)", highlight=False)


def main() -> None:
    """Entry point of the console command, also under torchrun: there the first process alone speaks."""
    try:
        with processes.process_group():
            console.quiet = processes.rank() > 0
            code = app(standalone_mode=False)
        if code == 130:  # how typer tells of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped; what was saved before is kept", 130)
    except UsageError as error:
        _fail(f"{error.format_message()} (see ferbench --help)", 2)
    except Interrupted as error:
        _fail(str(error), error.exit_code)
    except USER_ERRORS as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}", 2)
    except (MemoryError, RuntimeError) as error:  # RuntimeError: torch's, on a GPU and on the CPU
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        _fail("out of memory; try a smaller batch_size or input_size", 2)


def _fail(message: str, code: int) -> None:
    if processes.launched_rank() == 0:
        print(f"ferbench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _workspace(results: Path, roots: list[str] | None, weights: list[str] | None) -> Workspace:
    return Workspace(results, cache_root(), _paths(roots, "--root"), _paths(weights, "--weights"), now_and_then())


def _set_threads(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)


def _variant(name: str | None) -> Variant | None:
    if name is not None and name not in get_args(Variant):
        raise MethodError(f"unknown variant '{name}'; valid: {', '.join(get_args(Variant))}")
    return cast(Variant | None, name)


def _pairs(items: list[str] | None, flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in items or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise DataError(f"{flag} {item}: write it as NAME=VALUE")
        pairs[key] = value
    return pairs


def _paths(items: list[str] | None, flag: str) -> dict[str, Path]:
    return {key: Path(value) for key, value in _pairs(items, flag).items()}


def _values(items: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE pairs with numbers and true/false read as such, anything else as text."""
    values: dict[str, Value | None] = {}
    for key, text in _pairs(items, "option").items():
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        values[key] = value if isinstance(value, str | int | float | bool) or value is None else text
    return values


def _drawn(split: str, faces: FaceSet, seed: int) -> Split:
    """The split of a file, or of KIND[:key=value,...]; a class name as key gives that class another count."""
    if Path(split).is_file():
        return read_split(Path(split), faces)
    kind, _, parameters = split.partition(":")
    values = _numbers([part for part in parameters.split(",") if part], "--split")
    exceptions = {key: value for key, value in values.items() if key in faces.classes}
    rest: dict[str, Any] = {key: value for key, value in values.items() if key not in exceptions}
    return make_split(faces, kind, rest | ({"exceptions": exceptions} if exceptions else {}), seed)


def _candidates(asked: str, method: str) -> records.Spec:
    """What KIND[:key=value,...] says of candidate sets; raises MethodError for a method that takes none."""
    kind, _, options = asked.partition(":")
    settings = candidate_settings(method, kind, _values([part for part in options.split(",") if part]))
    if kind and not settings:
        raise MethodError(f"{method} takes no candidate sets; leave --candidates out")
    return settings


def _numbers(items: list[str], flag: str) -> dict[str, float | int]:
    values = _values(items)
    for key, value in values.items():
        if not isinstance(value, int | float):
            raise DataError(f"{flag}: {key} takes a number, not '{value}'")
    return values


def _print_left_out(plan: Plan) -> None:
    reasons: dict[str, list[str]] = {}
    for cell, reason in plan.left_out:
        reasons.setdefault(reason, []).append(f"{cell.table.id}/{cell.row.id}/{cell.column.id}")
    for reason, names in reasons.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        console.print(f"left out: {shown}: {reason}", highlight=False, soft_wrap=True)
    for line in plan.warnings:
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)


def _print_plan(plan: Plan, workspace: Workspace) -> None:
    table = RichTable("run", "steps", "state")
    for _, _, run in plan.runs:
        folder = workspace.folder(run)
        there = "finished" if finished(folder) else "to continue" if (folder / "checkpoint.pt").exists() else "to run"
        table.add_row(folder.name, str(run.recipe.epochs * run.recipe.steps_per_epoch), there)
    console.print(table)


def _print_ignored(ignored: Any) -> None:
    for run in ignored:
        console.print(f"not counted: {run.run_id}: {run.reason}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
