"""What the commands `attack`, `cost`, `predict` and `export` do with finished runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.table import Table

from ferbench.bench.studies.attack import REGIONS, THRESHOLD, accuracies, batches, metric
from ferbench.bench.studies.attack_pictures import write_pictures
from ferbench.bench.studies.cost import Cost, backbone_cost, run_cost
from ferbench.bench.studies.exporting import write_weights
from ferbench.bench.studies.plot_runs import find_runs
from ferbench.bench.studies.predict import image_paths, write_scores
from ferbench.bench.tables.counting.extras import write_extra
from ferbench.bench.tables.counting.finished import FinishedRun, open_finished, open_test_images
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.training.networks.backbones import BACKBONES
from ferbench.bench.training.recording.records import RunError
from ferbench.bench.training.state import view_recipe


def attack(
    target: str,
    workspace: Workspace,
    epsilons: Sequence[float],
    threshold: float,
    images: int | None,
    pictures: int,
) -> Iterator[Table | str]:
    """Attack the finished runs of `target`; figures of the whole test set under the paper's threshold are kept.

    images: only the first of the test set. pictures: so many images' maps and attacks are drawn beside the record.
    Raises RunError or DataError.
    """
    _check(epsilons, threshold)
    for run in _opened(target, workspace.results):
        device = next(run.method.parameters()).device
        store, recipe = open_test_images(run, workspace, device), view_recipe(run.recipe)
        found = accuracies(run, store, recipe, epsilons, threshold, images)
        table = Table("region", *(f"eps {epsilon:g}" for epsilon in epsilons), title=run.folder.name)
        for region in REGIONS:
            table.add_row(region, *(f"{found[metric(region, epsilon)]:.2f}" for epsilon in epsilons))
        yield table
        if images is None and threshold == THRESHOLD:
            yield f"wrote {write_extra(run.folder, 'attack', found, threshold=threshold)}"
        if pictures:
            shown = next(batches(run, store, recipe, pictures, pictures))[0]
            yield f"wrote {write_pictures(run.folder / 'attack.png', shown, epsilons, threshold, recipe)}"


def _check(epsilons: Sequence[float], threshold: float) -> None:
    if not all(0 <= epsilon <= 1 for epsilon in epsilons):
        raise RunError(f"--epsilon is a share of the range of pixels, from 0 to 1, not {max(epsilons, key=abs):g}")
    names = [metric(REGIONS[0], epsilon) for epsilon in epsilons]
    if len(set(names)) < len(names):
        raise RunError("--epsilon: two of these are the same with two decimals")
    if not 0 <= threshold < 1:
        raise RunError(f"--threshold is a value of the map, from 0 to below 1, not {threshold:g}")


def cost(target: str | None, workspace: Workspace, size: int) -> Iterator[Table | str]:
    """Parameters and multiply-adds of a backbone, of all backbones, or of the finished runs of `target`.

    The figures of runs are kept beside their records. Raises RunError.
    """
    table = Table("", "parameters (M)", "of layers (M)", "multiply-adds of layers (G)", "of attention (G)", "pixels")
    if target is None or target in BACKBONES:
        for name in [target] if target else BACKBONES:
            _add(table, name, backbone_cost(name, size), size)
        yield table
        return
    for run in _opened(target, workspace.results):
        figures = run_cost(run)
        _add(table, run.folder.name, figures, run.recipe.input_size)
        write_extra(run.folder, "cost", figures.metrics(), size=run.recipe.input_size)
    yield table


def predict(target: str, results: Path, images: Path, out: Path) -> str:
    """Write what the run of `target` says of the images; returns a line. Raises RunError or DataError."""
    run = _one(target, results)
    paths = image_paths(images)
    return f"{run.folder.name}: {write_scores(run, paths, out)} images; wrote {out}"


def export(target: str, results: Path, out: Path) -> str:
    """Write the weights of the run of `target`; returns a line. Raises RunError."""
    run = _one(target, results)
    return f"{run.folder.name}: {write_weights(run, out)}"


def _one(target: str, results: Path) -> FinishedRun:
    runs = list(_opened(target, results))
    if len(runs) > 1:
        names = ", ".join(run.folder.name for run in runs[:3])
        raise RunError(f"{target} names {len(runs)} runs ({names}, ...); name one of them")
    return runs[0]


def _add(table: Table, name: str, figures: Cost, size: int) -> None:
    numbers = (figures.parameters / 1e6, figures.in_layers / 1e6, figures.layers / 1e9, figures.attention / 1e9)
    table.add_row(name, *(f"{number:.3f}" for number in numbers), str(size))


def _opened(target: str, results: Path) -> Iterator[FinishedRun]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for run in find_runs(target, results):
        yield open_finished(run.folder, device)
