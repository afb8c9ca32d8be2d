"""Training: one run, or an encoder without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ferbench.bench import terminal
from ferbench.bench.cli.app import app
from ferbench.bench.cli.data import drawn_split
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
    from ferbench.bench.tables.runs import Workspace
    from ferbench.bench.training.state import Run


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
    from ferbench.bench.tables.running import cards
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
            cards.settle()
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
    backbone: Annotated[
        str | None, typer.Option(help="vit_base (the default), _small, _tiny; simmim, moco: any.")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as epochs=20.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Option of the objective, KEY=VALUE; repeatable.")] = None,
    data_option: Annotated[list[str] | None, typer.Option(help="Reader option KEY=VALUE; repeatable.")] = None,
    variant_name: VariantName = None,
    start: Annotated[Path | None, typer.Option(help="A weight file of this backbone to go on from.")] = None,
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
    from ferbench.bench.tables.running import cards
    from ferbench.bench.training.progress import Bar

    if tf32:
        torch.set_float32_matmul_precision("high")
    set_threads(threads)
    settings = {**({"backbone": backbone} if backbone else {}), **values(setting, "--set")}
    run = command.resolve_command(
        objective, dataset, faces, values(option, "--option"), values(data_option, "--data-option"), settings, seed,
        variant(variant_name) == "released", workspace(results, root, None), recipe, start,
    )  # fmt: skip
    if dry_run:
        say(plan(run, torch.device("cuda" if torch.cuda.is_available() else "cpu"), parts))
        return
    cards.settle()
    with Bar(terminal.console, run.name) as bar:
        record = command.run_command(run, results, out, bar, parts)
    for line in command.summary(run, record, results, out) if record else ():
        say(line)
