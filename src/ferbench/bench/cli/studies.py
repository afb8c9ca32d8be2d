"""What is done with finished runs: plots, attacks, predictions, exports, costs; and the search for learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ferbench.bench import terminal
from ferbench.bench.cli.app import app
from ferbench.bench.cli.options import Results, Roots, Threads, Weights, set_threads, workspace
from ferbench.bench.terminal import say

Target = Annotated[str, typer.Argument(help="A run's name or folder, or PAPER[/TABLE[/ROW[/COLUMN]]].")]


@app.command("plot")
def plot_command(
    kind: Annotated[str, typer.Argument(help="confusion, curves, sweep or tsne.")],
    target: Target,
    out: Annotated[Path | None, typer.Option(help="Folder for PNG and SVG; default: plots/ in the results.")] = None,
    results: Results = Path("results"),
) -> None:
    """Draw finished runs from their files."""
    from ferbench.bench.studies.plots import plot

    for path in plot(kind, target, results, out or results / "plots"):
        say(f"wrote {path}")


@app.command("attack")
def attack_command(
    target: Target,
    epsilon: Annotated[list[float] | None, typer.Option(help="Share of the range of pixels; repeatable.")] = None,
    threshold: Annotated[float, typer.Option(help="The focused region is where Grad-CAM exceeds this.")] = 0.3,
    images: Annotated[
        int | None, typer.Option(min=1, help="Use only the first N test images; results are not saved.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Draw this many images with their maps and attacks.")] = 0,
    results: Results = Path("results"),
    root: Roots = None,
    threads: Threads = None,
) -> None:
    """Attack the regions a run looks at.

    FGSM on the focused region, on the rest and on all of each test image (SSFER, Table 7).
    """
    from ferbench.bench.studies import afterwards
    from ferbench.bench.studies.attack import EPSILONS

    set_threads(threads)
    epsilons = tuple(epsilon or EPSILONS)
    for part in afterwards.attack(target, workspace(results, root, None), epsilons, threshold, images, pictures):
        say(part)


@app.command("predict")
def predict_command(
    target: Target,
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="CSV of path, predicted class and scores.")] = Path("predicted.csv"),
    results: Results = Path("results"),
    threads: Threads = None,
) -> None:
    """Classify your own face images."""
    from ferbench.bench.studies import afterwards

    set_threads(threads)
    say(afterwards.predict(target, results, images, out))


@app.command("export")
def export_command(
    target: Target,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    results: Results = Path("results"),
) -> None:
    """Write a finished run's weights to a file.

    The ending says which: .pt holds the tested weights as plain tensors, the classes and the normalisation;
    .safetensors the same, with a model card beside it; .onnx scores normalised images and is held against the model.
    """
    from ferbench.bench.studies import afterwards

    say(afterwards.export(target, results, out))


@app.command("log")
def log_command(
    target: Target,
    to: Annotated[str, typer.Option(help="tensorboard or mlflow.")] = "tensorboard",
    out: Annotated[Path | None, typer.Option(help="Default: logs/ in the results.")] = None,
    results: Results = Path("results"),
) -> None:
    """Convert the logs of finished runs.

    From metrics.jsonl to what TensorBoard or MLflow shows.
    """
    from ferbench.bench.studies.logs import convert

    for line in convert(target, results, to, out or results / "logs"):
        say(line)


@app.command("cost")
def cost_command(
    target: Annotated[str | None, typer.Argument(help="A backbone, a run's name or folder, or PAPER/...")] = None,
    size: Annotated[int, typer.Option(min=8, help="Pixels a side, for a backbone.")] = 224,
    results: Results = Path("results"),
) -> None:
    """Count parameters and multiply-adds.

    Of all backbones, of one, or of finished runs (SSFER, Table 6).
    """
    from ferbench.bench.studies import afterwards

    for part in afterwards.cost(target, workspace(results, None, None), size):
        say(part)


@app.command("tune")
def tune_command(
    target: Annotated[str, typer.Argument(help="PAPER/TABLE/ROW/COLUMN, such as ssfer/16/ssfer-gwo/rafdb-5.")],
    preset: Annotated[str | None, typer.Option(help="A preset of the protocol, such as paper or cpu.")] = None,
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
    """Search for learning rates.

    The grey wolf optimiser compares runs on held-out labels (SSFER, Table 16).
    """
    from ferbench.bench.studies.tune_runs import bounds_of, one_cell, tune
    from ferbench.bench.training.progress import Bar
    from ferbench.bench.training.train import train

    set_threads(threads)
    cell = one_cell(target)
    with Bar(terminal.console, target) as bar:
        search = tune(
            cell, preset or cell.protocol.default_preset, bounds_of(bound), wolves=wolves, rounds=rounds,
            held_out=validation, seed=seed, workspace=workspace(results / "tune", root, weights),
            train=lambda run, folder: train(run, folder, reporter=bar), report=bar.note,
        )  # fmt: skip
    rates, accuracy = search.best
    shown = ", ".join(f"{name} = {value:g}" for name, value in rates.items())
    say(f"best of {len(search.tried)}: {shown} ({accuracy:.2f} % on validation)")
