"""Finished runs with evidence on disk, and the command line in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferbench.bench.cli import main
from ferbench.bench.tables.settings import settings
from ferbench.bench.training.evaluate import select as select_epochs
from ferbench.bench.training.recording import evidence, records
from ferbench.bench.training.recording.metrics import metrics
from ferbench.protocols import select

EvidentRun = Callable[..., str]
Command = Callable[..., int]
CLASSES = ("surprise", "fear", "happiness")
LABELS = np.repeat([2, 0, 1], [60, 30, 10])
DEMO = "demo/1/{}/synthetic-200-20"


def answered(seed: int, right: float) -> np.ndarray:
    """Scores [100, 3] of which about the share `right` is right, the same for a seed."""
    rng = np.random.default_rng(seed)
    predicted = np.where(rng.random(len(LABELS)) < right, LABELS, (LABELS + 1) % 3)
    return np.eye(3, dtype=np.float32)[predicted]


def record_of(scores: Mapping[str, np.ndarray], spec: Mapping[str, Any], images: str = "i") -> tuple[Any, Any]:
    """A record and its metrics.jsonl, as training would write them."""
    tested = {rule: metrics(values, LABELS) for rule, values in scores.items()}
    lines = [{"epoch": epoch + 1, "loss": 1.0 / (epoch + 1), "test": {"student": tested}} for epoch in range(3)]
    record = {
        "status": "finished", "metrics": select_epochs(lines, "student"), "evaluated": "student",
        "evidence": evidence.to_json(scores, LABELS, images, CLASSES), "steps": 30, "seconds": 1.5, "step_ms": 50.0,
        "split": {"labelled": 12, "unlabelled": 50, "validation": 0, "test": len(LABELS)}, "device": "a processor",
        "commit": "abc", "code": "c0de", "finished_at": f"2026-11-{10 + spec['seed']:02d}T10:00:00Z",
    }  # fmt: skip
    return record, lines


@pytest.fixture
def evident_run(tmp_path: Path) -> EvidentRun:
    """Writes a run of one cell, or of nobody's, under tmp_path and returns its folder's name."""

    def write(
        row: str = "fixmatch",
        seed: int = 1,
        right: float = 0.7,
        *,
        own: bool = False,
        rules: tuple[str, ...] = ("main",),
        images: str = "i",
        predictions: bool = False,
        **changes: Any,
    ) -> str:
        (cell,) = select(DEMO.format(row))
        made_for = {"protocol": "demo", "version": cell.protocol.version, "hash": "h", "cell": cell.id}
        spec = {**settings(cell, "cpu", seed), "weights": None, **({} if own else {"made_for": made_for}), **changes}
        for part in ("dataset", "test", "split"):
            spec[part] = {**spec[part], "fingerprint": f"{part} {seed}" if part == "split" else part}
        scores = {rule: answered(100 * seed + position, right) for position, rule in enumerate(rules)}
        record, lines = record_of(scores, spec, images)
        folder = tmp_path / "runs" / records.run_id(spec)
        folder.mkdir(parents=True)
        records.write_json(folder / "spec.json", spec)
        records.write_json(folder / "record.json", record)
        records.write_lines(folder / "metrics.jsonl", lines)
        if predictions:
            index = np.arange(len(LABELS))
            records.write_predictions(folder / "predictions.npz", scores, labels=LABELS, index=index)
        return folder.name

    return write


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Exit code of `ferbench ARGUMENTS`, run in this process."""

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ferbench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    return call


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file by hand."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
