"""`ferbench predict` and `ferbench export` on runs of a second, whatever the method."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from ferbench.bench.data.sets.readers import open_dataset
from ferbench.bench.studies import predict
from ferbench.bench.studies.predict import predicting
from ferbench.bench.tables.counting.finished import open_finished
from ferbench.bench.training.networks.backbones import load_weights, make_classifier
from ferbench.methods import METHODS

Ferbench = Callable[..., Any]
OPTIONS = {"ssfer": ["--option", "mix=mixup", "--option", "teacher=true"]} | {
    name: ["--candidates", "uniform_flip:q=0.3"] for name, kind in METHODS.items() if kind.takes_candidates
}
ONE_OF_A_KIND = ("vanilla", "remop", "leaf", "adacm", "cpe", "scn", "rul", "eac", "ssfer", "pll_fer")


@pytest.fixture(params=[pytest.param(n, marks=() if n in ONE_OF_A_KIND else pytest.mark.slow) for n in METHODS])
def trained(request: pytest.FixtureRequest, ferbench: Ferbench, tmp_path: Path, tiny_arguments: list[str]) -> Path:
    done = ferbench("train", request.param, *tiny_arguments, *OPTIONS.get(request.param, []))
    assert done.code == 0, done.err
    return next((tmp_path / "results" / "runs").iterdir())


def test_nothing_in_the_scores_is_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the name of an image nor that of a class, which come from anybody."""
    monkeypatch.setattr(predict, "scores", lambda run, paths: ((path, [0.1, 0.9]) for path in paths))
    run = SimpleNamespace(classes=["happy", "=cmd|' /C calc'!A0"])
    predict.write_scores(cast(Any, run), [Path("=a.png"), Path("b.png")], tmp_path / "said.csv")
    with (tmp_path / "said.csv").open() as file:
        (_, _, _, name), *rows = csv.reader(file)
    assert name == "'=cmd|' /C calc'!A0"
    assert [row[:2] for row in rows] == [["./=a.png", name], ["b.png", name]]


def test_a_users_images_get_the_scores_they_got_as_test_images(
    ferbench: Ferbench, trained: Path, tmp_path: Path, drawn_faces: Path
) -> None:
    run = open_finished(trained, torch.device("cpu"))
    faces = open_dataset(run.spec["test"]["reader"], run.spec["test"]["options"], cache=drawn_faces)
    (tmp_path / "faces" / "deeper").mkdir(parents=True)
    for place, index in enumerate(run.index[:5]):
        Image.fromarray(faces.images[index].squeeze()).save(tmp_path / "faces" / "deeper" / f"{place}.png")
    done = ferbench("predict", trained.name, "faces", "--out", "said.csv")
    assert done.code == 0 and "5 images; wrote said.csv" in done.out, done.err
    with (tmp_path / "said.csv").open() as file:
        rows = list(csv.DictReader(file))
    with np.load(trained / "predictions.npz") as stored:
        expected = next(stored[name] for name in stored.files if name.startswith("scores_"))[:5]
    found = np.array([[float(row[name]) for name in faces.classes] for row in rows])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert [row["predicted"] for row in rows] == [faces.classes[code] for code in expected.argmax(axis=1)]


def test_exported_weights_are_plain_and_start_another_model(ferbench: Ferbench, trained: Path, tmp_path: Path) -> None:
    assert ferbench("export", trained.name, "--out", "weights.pt").code == 0
    stored = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert stored["run"] == trained.name and len(stored["classes"]) == 7
    run = open_finished(trained, torch.device("cpu"))
    assert stored["method"].keys() == run.method.state_dict().keys()
    model = make_classifier(stored["backbone"], 7, size=stored["input_size"], dropout=0.0).eval()
    load_weights(model, tmp_path / "weights.pt")
    images = torch.randn(3, 3, stored["input_size"], stored["input_size"])
    torch.testing.assert_close(model.encoder(images), predicting(run).eval().encoder(images))
    if run.spec["method"] == "ssfer":
        teacher = run.method.teacher.model  # type: ignore[union-attr]
        assert predicting(run) is teacher


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("predict", "RUN", "nowhere"), "nowhere: no such image or folder"),
        (("predict", "RUN", "empty"), "empty: no images in this folder"),
        (("predict", "RUN", "bad.png"), "bad.png: cannot be read as an image (not an image)"),
        (("predict", "no-run", "bad.png"), "no run 'no-run'"),
        (("export", "RUN", "--out", "bad.png/weights.pt"), "cannot write bad.png/weights.pt"),
    ],
)
def test_bad_input_is_one_line(
    ferbench: Ferbench, tmp_path: Path, tiny_arguments: list[str], arguments: tuple[str, ...], expected: str
) -> None:
    assert ferbench("train", "vanilla", *tiny_arguments).code == 0
    name = next((tmp_path / "results" / "runs").iterdir()).name
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    done = ferbench(*(name if word == "RUN" else word for word in arguments))
    assert done.code == 2 and expected in done.err and done.err.count("\n") == 1, done.err
