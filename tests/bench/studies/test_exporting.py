"""Weights for other programs, and logs for other viewers, from one run of two steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ferbench
from ferbench.bench.studies.exporting import write_weights
from ferbench.bench.studies.logs import convert, numbers
from ferbench.bench.tables.counting.finished import FinishedRun, open_finished
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.records import RunError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A small ResNet, two epochs of one step."""
    results = tmp_path_factory.mktemp("results")
    trained = ferbench.train(
        "fixmatch", split="total:labels=40", recipe={"epochs": 2, "steps_per_epoch": 1, "batch_size": 4},
        data_options={"scale": 0.1}, results=results, quiet=True,
    )  # fmt: skip
    return open_finished(results / "runs" / trained.name, torch.device("cpu"))


def test_safetensors_and_their_card(run: FinishedRun, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    line = write_weights(run, tmp_path / "weights.safetensors")
    assert "weights.md" in line
    with safetensors.safe_open(tmp_path / "weights.safetensors", framework="pt") as stored:
        keys, metadata = set(stored.keys()), stored.metadata()
        found = {key.removeprefix("method."): stored.get_tensor(key) for key in keys if key.startswith("method.")}
    assert json.loads(metadata["classes"]) == list(run.classes) and json.loads(metadata["input_size"]) == 32
    run.method.load_state_dict(found)
    assert any(key.startswith("encoder.") for key in keys)
    card = (tmp_path / "weights.md").read_text(encoding="utf-8")
    last = records.read_json(run.folder / "record.json")["metrics"]["last"]
    assert f"overall accuracy {last['overall']:.2f} %" in card and "| happiness |" in card and "fixmatch" in card


def test_onnx_scores_as_the_model_does(run: FinishedRun, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert "differ from the model's by" in write_weights(run, tmp_path / "weights.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "weights.onnx"), providers=["CPUExecutionProvider"])
    for number in (1, 5):
        images = torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(number))
        (scores,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = run.method.predict(images).numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_another_ending_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="unknown ending '.zip'; valid: .pt, .pth, .safetensors, .onnx"):
        write_weights(run, tmp_path / "weights.zip")
    assert not list(tmp_path.iterdir())


def test_numbers_of_a_line_by_their_place() -> None:
    line = {"epoch": 1, "step": 800, "loss": 1.5, "test": {"ema": {"main": {"mean": 30.0}}}, "text": "x", "done": True}
    assert dict(numbers(line)) == {"loss": 1.5, "test/ema/main/mean": 30.0}


def test_tensorboard_has_every_number(run: FinishedRun, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = run.folder.parent.parent
    (line,) = convert(run.folder.name[-8:], results, "tensorboard", tmp_path)
    assert line.startswith(f"{run.folder.name}: 2 epochs")
    events = EventAccumulator(str(tmp_path / run.folder.name))
    events.Reload()
    for written in records.read_lines(run.folder / "metrics.jsonl"):
        for name, value in numbers(written):
            at = [event for event in events.Scalars(name) if event.step == written["step"]]
            assert [event.value for event in at] == [pytest.approx(value, rel=1e-6)]
    with pytest.raises(RunError, match="is there already"):
        list(convert(run.folder.name, results, "tensorboard", tmp_path))


def test_mlflow_has_every_number(run: FinishedRun, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    list(convert(run.folder.name, run.folder.parent.parent, "mlflow", tmp_path))
    (found,) = mlflow.search_runs(experiment_names=["ferbench"], output_format="list")
    last = dict(numbers(records.read_lines(run.folder / "metrics.jsonl")[-1]))
    assert found.data.metrics["loss"] == pytest.approx(last["loss"]) and found.data.params["method"] == "fixmatch"


def test_another_log_is_refused(run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot log to 'wandb'; valid: tensorboard, mlflow"):
        list(convert(run.folder.name, run.folder.parent.parent, "wandb", tmp_path))
