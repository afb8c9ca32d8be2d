"""Plots from the files of finished runs: what is in them, the same picture twice, and one line where there is none."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ferbench.bench.studies import plots
from ferbench.bench.studies.plot_runs import find_runs
from ferbench.bench.tables.counting.predictions import read_predictions
from ferbench.bench.training import train as loop
from ferbench.bench.training.recording.records import RunError
from ferbench.bench.training.state import Run
from ferbench.bench.training.train import train

Command = Callable[..., Any]
MakeRun = Callable[..., Run]
CELL = "remop/1/fixmatch/rafdb-500-150"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, make_tiny_run: MakeRun) -> Path:
    """Two finished runs, `fixmatch` and `vanilla`, in a results folder."""
    folder = tmp_path_factory.mktemp("results")
    for method in ("fixmatch", "vanilla"):
        train(make_tiny_run(method, epochs=2), folder / "runs" / method)
    return folder


def texts(figure: Figure) -> list[str]:
    """Everything written in the figure's axes."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("kind", ["confusion", "curves", "tsne"])
def test_a_run_is_drawn_as_png_and_svg_and_twice_the_same(results: Path, tmp_path: Path, kind: str) -> None:
    first, second = (plots.plot(kind, "fixmatch", results, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == [f"{kind}-fixmatch.png", f"{kind}-fixmatch.svg"]
    with Image.open(first[0]) as picture:
        assert picture.width > 400 and len(picture.convert("L").getcolors(256) or []) > 10
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_confusion_is_normalised_by_row(results: Path) -> None:
    ((name, figure),) = plots.confusion("fixmatch", results)
    found = read_predictions(find_runs("fixmatch", results)[0].folder / "predictions.npz")
    shares = np.array([float(text) for text in texts(figure)]).reshape(3, 3)
    for true in range(3):
        predicted = found.headline.argmax(axis=1)[found.labels == true]
        expected = [100 * np.mean(predicted == code) for code in range(3)]
        assert shares[true] == pytest.approx(expected, abs=0.051)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (name, labels) == ("fixmatch", ["joy (9)", "calm (6)", "anger (5)"])


def with_rates(results: Path, folder: Path, *rates: tuple[float, float]) -> list[dict[str, Any]]:
    """A copy of the FixMatch run with these mask rates and accuracies; returns its history."""
    older(results / "runs" / "fixmatch", folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line, (kept, right) in zip(lines, rates, strict=True):
        line |= {"mask rate": kept, "pseudo-label accuracy": right}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def test_curves_show_what_the_history_says(results: Path, tmp_path: Path) -> None:
    lines = with_rates(results, tmp_path / "run", (0.25, 0.5), (0.75, 0.875))
    ((_, figure),) = plots.curves(str(tmp_path / "run"), results)
    assert [axes.get_title() for axes in figure.axes] == list(plots.CURVES)
    tests = [line["test"]["ema"]["main"] for line in lines]
    for axes, expected in zip(
        figure.axes,
        [
            [line["loss"] for line in lines],
            [25.0, 75.0],
            [50.0, 87.5],
            [scored["overall"] for scored in tests],
            [scored["mean"] for scored in tests],
        ],
        strict=True,
    ):
        (drawn,) = axes.lines
        assert np.asarray(drawn.get_xdata()).tolist() == [1, 2]
        assert np.asarray(drawn.get_ydata()).tolist() == pytest.approx(expected)


def test_no_accuracy_is_drawn_where_nothing_was_kept(results: Path, tmp_path: Path) -> None:
    with_rates(results, tmp_path / "run", (0.0, 0.0), (0.5, 0.75))
    ((_, figure),) = plots.curves(str(tmp_path / "run"), results)
    kept, right = (np.asarray(axes.lines[0].get_ydata()).tolist() for axes in figure.axes[1:3])
    assert (kept, right) == ([0.0, 50.0], [75.0])


def test_curves_without_pseudo_labels_have_no_panel_for_them(results: Path) -> None:
    ((_, figure),) = plots.curves("vanilla", results)
    assert [axes.get_title() for axes in figure.axes] == [title for title in plots.CURVES if "kept" not in title]


def test_tsne_draws_every_image_in_its_classs_colour(results: Path) -> None:
    ((_, figure),) = plots.tsne("vanilla", results)
    assert [len(cloud.get_offsets()) for cloud in figure.axes[0].collections] == [9, 6, 5]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["joy", "calm", "anger"]


def test_tsne_keeps_the_neighbours_of_separate_groups_and_thins_large_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (rng.normal(size=(60, 8)) + 40 * np.eye(8)[labels]).astype(np.float32)
    points, kept = plots.embed(features, labels)
    centres = np.stack([points[kept == code].mean(axis=0) for code in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(axis=1)
    assert np.array_equal(nearest, labels)
    monkeypatch.setattr(plots, "MOST_POINTS", 20)
    fewer, of_them = plots.embed(features, labels)
    assert fewer.shape == (20, 2) and np.array_equal(of_them, labels[np.linspace(0, 59, 20).astype(int)])


def test_a_tables_runs_share_figures_by_column_and_matrices_by_row(ferbench: Command, tiny_protocol: Path) -> None:
    assert ferbench("reproduce", "tiny", "--jobs", 1, "--seeds", 2).code == 0
    results = Path("results")
    rows, columns = ("vanilla", "fixmatch", "remop"), ("synthetic-200-20", "synthetic-200-50")
    matrices = dict(plots.confusion("tiny", results))
    assert sorted(name.rsplit("-", 2)[0] for name in matrices) == sorted(
        f"tiny-1-{row}-{column}" for row in rows for column in columns
    )
    assert all("seeds 1, 2" in figure.get_suptitle() for figure in matrices.values())
    drawn = dict(plots.curves("tiny", results))
    assert sorted(drawn) == [f"tiny-1-{column}-cpu" for column in columns]
    assert len(drawn["tiny-1-synthetic-200-20-cpu"].axes[0].lines) == 6  # three rows, two seeds
    one = dict(plots.curves("tiny/1/vanilla/synthetic-200-50", results))["tiny-1-synthetic-200-50-cpu"]
    assert len(one.axes[0].lines) == 2
    clouds = dict(plots.tsne("tiny/1/*/synthetic-200-20", results))["tiny-1-synthetic-200-20-cpu"]
    assert [axes.get_title() for axes in clouds.axes] == [
        f"{label}, seed 1" for label in ("Vanilla", "FixMatch", "FixMatch w/ ReMoP")
    ]
    done = ferbench("plot", "sweep", "tiny/1", "--out", "pictures")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"wrote pictures/sweep-tiny-1-cpu.{ending}" for ending in ("png", "svg")]
    assert Path("pictures/sweep-tiny-1-cpu.png").is_file()


def test_nothing_is_trained_and_the_default_folder_is_in_the_results(
    ferbench: Command, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "make_state", None)  # any training now would fail
    done = ferbench("plot", "confusion", results / "runs" / "fixmatch", "--results", results)
    assert (done.code, done.err) == (0, "")
    assert (results / "plots" / "confusion-fixmatch.svg").is_file()


ERRORS = {
    "kind": (("pie", "fixmatch"), "cannot plot 'pie'; valid: confusion, curves, sweep, tsne"),
    "no such run": (("curves", "fixmacht"), "no run 'fixmacht' in results/runs, and no protocol 'fixmacht'"),
    "no such table": (("curves", "remop/9"), "remop has no table '9'"),
    "no run of the table": (("tsne", "remop/1"), "remop/1: no finished run in results/runs; `ferbench reproduce remop"),
    "no run to sweep": (("sweep", "remop/figure4"), "remop/figure4: no finished run in results/runs"),
    "a run is no sweep": (("sweep", "fixmatch"), "no protocol 'fixmatch'"),
}


@pytest.mark.parametrize(("arguments", "expected"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_drawn_is_one_line(ferbench: Command, arguments: tuple[str, str], expected: str) -> None:
    done = ferbench("plot", *arguments)
    assert done.code == 2
    assert expected in done.error()


DAMAGE: dict[str, tuple[str, str, bytes | None, str]] = {
    "unfinished": ("curves", "record.json", None, "this run is not finished"),
    "no scores": ("confusion", "predictions.npz", None, "predictions.npz: cannot be read"),
    "half scores": ("confusion", "predictions.npz", b"PK\x03\x04 no more", "predictions.npz: cannot be read"),
    "no history": ("curves", "metrics.jsonl", None, "metrics.jsonl: cannot be read"),
    "half history": ("curves", "metrics.jsonl", b'{"epoch": 1', "metrics.jsonl: cannot be read"),
    "other history": ("curves", "metrics.jsonl", b'{"epoch": 1}\n', "metrics.jsonl: cannot be read"),
    "half spec": ("curves", "spec.json", b"{", "spec.json: cannot be read"),
    "other spec": ("curves", "spec.json", b"{}", "spec.json: method is missing"),
}


@pytest.mark.parametrize(("kind", "name", "content", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_one_line(
    ferbench: Command, results: Path, tmp_path: Path, kind: str, name: str, content: bytes | None, expected: str
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in (results / "runs" / "fixmatch").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    done = ferbench("plot", kind, folder)
    assert done.code == 2
    assert expected in done.error()


def older(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a run whose predictions lack what `changes` sets to None, or have it otherwise."""
    folder.mkdir(parents=True)
    for name in ("spec.json", "record.json", "metrics.jsonl"):
        (folder / name).write_bytes((source / name).read_bytes())
    with np.load(source / "predictions.npz") as stored:
        arrays = {**stored, **changes}
    np.savez(folder / "predictions.npz", **{name: value for name, value in arrays.items() if value is not None})
    return folder


def test_runs_older_than_the_features(results: Path, tmp_path: Path) -> None:
    """They are drawn with class numbers for names, and refused where features are needed."""
    folder = older(results / "runs" / "vanilla", tmp_path / "old", features=None, classes=None)
    ((_, figure),) = plots.confusion(str(folder), results)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "2"]
    with pytest.raises(RunError, match="holds no features: .*would have to be run again"):
        list(plots.tsne(str(folder), results))


def test_a_class_without_test_images_is_an_empty_row(results: Path, tmp_path: Path) -> None:
    with np.load(results / "runs" / "vanilla" / "predictions.npz") as stored:
        labels = np.where(stored["labels"] == 2, 0, stored["labels"])
    folder = older(results / "runs" / "vanilla", tmp_path / "few", labels=labels)
    ((_, figure),) = plots.confusion(str(folder), results)
    assert texts(figure)[6:] == ["0.0", "0.0", "0.0"]


def test_seeds_are_added_up(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = find_runs("vanilla", results)
    monkeypatch.setattr(plots, "find_runs", lambda target, where: [run, run])
    ((_, figure),) = plots.confusion("vanilla", results)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "joy (9)"
    monkeypatch.undo()
    ((_, single),) = plots.confusion("vanilla", results)
    assert texts(figure) == texts(single)


def test_a_refused_disk_is_one_line(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot write .*confusion-vanilla.png"):
        plots.plot("confusion", "vanilla", results, tmp_path / "file")
