"""Plots of finished runs, from their files alone: confusion matrix, training curves, sweeps, t-SNE of the features.

Figures are drawn without a display and written as PNG and SVG; the same files give the same pictures.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.board.sweeps import Series, sweep
from ferbench.bench.studies.plot_runs import PlotRun, find_runs, read_history
from ferbench.bench.tables.counting.predictions import read_predictions
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.records import RunError
from ferbench.protocols import select

Named = Iterator[tuple[str, Figure]]  # a file's name without its ending, and what is in it
PANEL = 4.0  # inches a side
MOST_POINTS = 4000  # of a t-SNE, which takes time with the square of them
STYLE: dict[Any, Any] = {"svg.hashsalt": "ferbench", "svg.fonttype": "path", "font.size": 9.0}
Read = Callable[[dict[str, Any]], float | None]
CURVES: dict[str, Read] = {
    "loss": lambda line: line.get("loss"),
    "kept pseudo-labels (%)": lambda line: _percent(line.get("mask rate")),
    "right among the kept (%)": lambda line: _percent(line["pseudo-label accuracy"]) if line.get("mask rate") else None,
    "test: overall accuracy (%)": lambda line: line["test"].get("overall"),
    "test: mean accuracy (%)": lambda line: line["test"].get("mean"),
}  # fmt: skip


def plot(kind: str, target: str, results: Path, out: Path) -> list[Path]:
    """Draw `kind` of a run or of a protocol's cells into the folder `out`; returns the files written.

    Raises RunError for an unknown kind, runs that are not there or not finished, and files that cannot be read or
    written; ProtocolError for a wrong part of a protocol's name.
    """
    if kind not in KINDS:
        raise RunError(f"cannot plot '{kind}'; valid: {', '.join(KINDS)}")
    written = []
    with matplotlib.rc_context(STYLE):
        for name, figure in KINDS[kind](target, results):
            for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                content = io.BytesIO()
                figure.savefig(content, format=ending, dpi=150, metadata=metadata)
                path = out / f"{kind}-{name}.{ending}"
                records.write(path, lambda file, content=content: file.write(content.getvalue()))  # type: ignore[misc]
                written.append(path)
    if not written:
        raise RunError(f"{target}: no finished run in {results / 'runs'}; `ferbench reproduce {target}` makes them")
    return written


def confusion(target: str, results: Path) -> Named:
    """A matrix per cell: of each true class the percentage predicted as each other, seeds added up."""
    for name, runs in _grouped(find_runs(target, results), lambda run: run.cell):
        found = [read_predictions(run.folder / "predictions.npz") for run in runs]
        classes = found[0].classes
        codes = range(len(classes))
        counts = [confusion_matrix(one.labels, one.headline.argmax(axis=1), labels=codes) for one in found]
        figure = Figure(figsize=(1.2 * PANEL, 1.2 * PANEL), layout="constrained")
        _draw_matrix(figure.add_subplot(), np.sum(counts, axis=0), classes, len(runs))
        figure.suptitle(f"{runs[0].method}, {runs[0].data}, {_seeds(runs)}")
        yield name, figure


def _draw_matrix(axes: Axes, counts: NDArray[np.int64], classes: Sequence[str], times: int) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100.0 * counts / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(shares.shape):
        colour = "white" if shares[row, column] > 55 else "black"
        axes.text(column, row, f"{shares[row, column]:.1f}", ha="center", va="center", color=colour)
    images = (totals[:, 0] / times).astype(int)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), [f"{name} ({n})" for name, n in zip(classes, images, strict=True)])
    axes.set(xlabel="predicted (%)", ylabel="true (images)")


def curves(target: str, results: Path) -> Named:
    """A figure per column: loss, pseudo-labels and test accuracy by epoch, a colour per row, a line per seed."""
    for name, runs in _grouped(find_runs(target, results), lambda run: run.figure):
        histories = [read_history(run) for run in runs]
        drawn = {
            title: read for title, read in CURVES.items()
            if any(read(line) is not None for history in histories for line in history)
        }  # fmt: skip
        figure = Figure(figsize=(PANEL * len(drawn), PANEL), layout="constrained")
        colours = _colours([run.method for run in runs])
        for axes, (title, read) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
            for run, history in zip(runs, histories, strict=True):
                points = [(line["epoch"], value) for line in history if (value := read(line)) is not None]
                if points:
                    axes.plot(*zip(*points, strict=True), color=colours[run.method], marker=".", linewidth=1)
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure, colours)
        figure.suptitle(f"{runs[0].data}, {_seeds(runs)}")
        yield name, figure


def tsne(target: str, results: Path) -> Named:
    """A figure per column with a panel per row, of its first seed: the test images' features in two dimensions."""
    for name, runs in _grouped(find_runs(target, results), lambda run: run.figure):
        panels = [members[0] for _, members in _grouped(runs, lambda run: run.method)]
        figure = Figure(figsize=(PANEL * len(panels), 1.1 * PANEL), layout="constrained")
        colours: dict[str, Any] = {}
        for axes, run in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            found = read_predictions(run.folder / "predictions.npz")
            colours |= _colours(found.classes)
            if found.features is None:
                raise RunError(
                    f"{run.folder / 'predictions.npz'}: holds no features: either its method has no one encoder, or "
                    "the run is older than their saving and would have to be run again"
                )
            if len(found.labels) < 4:
                raise RunError(f"{run.folder / 'predictions.npz'}: a t-SNE needs four test images at least")
            points, labels = embed(found.features, found.labels)
            for code, label in enumerate(found.classes):
                axes.scatter(*points[labels == code].T, s=4, color=colours[label], linewidths=0)
            axes.set(title=f"{run.method}, seed {run.seed}", xticks=[], yticks=[])
        _legend(figure, colours)
        figure.suptitle(f"t-SNE of the encoder's features: {runs[0].data}")
        yield name, figure


def embed(features: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features [N, D] in the plane, [M, 2], with their labels [M]: M is N, or MOST_POINTS at even distances."""
    kept = np.unique(np.linspace(0, len(features) - 1, min(len(features), MOST_POINTS)).astype(int))
    perplexity = max(1.0, min(30.0, (len(kept) - 1) / 3))
    plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features[kept])
    return plane.astype(np.float32), labels[kept]


def sweeps(target: str, results: Path) -> Named:
    """A figure per table and preset: last-epoch accuracy along what the table varies, standard deviations as bars."""
    chosen = select(target)
    protocol = chosen[0].protocol
    lines = [line for line in collect(results, [protocol]).lines if line.run_ids]
    for table in {cell.table.id: cell.table for cell in chosen}.values():
        for preset in protocol.presets:
            if series := sweep(protocol, table, lines, preset):
                figure = _draw_sweep(series)
                figure.suptitle(f"{protocol.name} {table.id}, preset {preset}")
                yield f"{protocol.name}-{table.id}-{preset}", figure


def _draw_sweep(series: Sequence[Series]) -> Figure:
    panels = dict(_grouped(series, lambda one: one.panel))
    figure = Figure(figsize=(PANEL * len(panels), PANEL), layout="constrained")
    colours = _colours([one.label for one in series])
    for axes, (title, members) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for one in members:
            bars = None if one.published else [value or 0.0 for value in one.deviations]
            style = "--" if one.published else "-"
            axes.errorbar(
                one.places, one.values, bars, color=colours[one.label], linestyle=style, marker="o", capsize=2
            )  # fmt: skip
        axis = members[0].axis
        places = sorted(axis.places.values())
        axes.set_xticks(places, axis.names or [f"{place:g}" for place in places])
        axes.set(title=f"{title} (%)", xlabel=axis.label)
    _legend(figure, colours)
    if any(one.published for one in series):
        figure.text(0.005, 0.005, "dashed: published")
    return figure


KINDS: dict[str, Callable[[str, Path], Named]] = {
    "confusion": confusion, "curves": curves, "sweep": sweeps, "tsne": tsne,
}  # fmt: skip


def _grouped(items: Sequence[Any], key: Callable[[Any], str]) -> list[tuple[str, list[Any]]]:
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def _seeds(runs: Sequence[PlotRun]) -> str:
    seeds = sorted({run.seed for run in runs})
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _colours(names: Sequence[str]) -> dict[str, Any]:
    distinct = list(dict.fromkeys(names))
    shades = matplotlib.colormaps["tab10" if len(distinct) <= 10 else "tab20"]
    return {name: shades(place % shades.N) for place, name in enumerate(distinct)}


def _legend(figure: Figure, colours: dict[str, Any]) -> None:
    handles = [Line2D([], [], color=colour, marker="o", linestyle="") for colour in colours.values()]
    figure.legend(handles, list(colours), loc="outside right upper", frameon=False)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
