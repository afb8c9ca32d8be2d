"""A run whose network another run has trained, for other test images: it is scored, not trained again.

Such runs differ in nothing but the test set (a paper's columns that train on one data set and test on another). Their
scores are those of the last epoch alone: the networks of the epochs before it are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ferbench.bench.data.views.batches import ImageStore, Share
from ferbench.bench.training.evaluate import evaluate, finish
from ferbench.bench.training.progress import Reporter, Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.state import Run, make_batches, make_state

CARRIED_OUT = ("code", "bit-identical", "conditions")  # what a record says of the training itself


def network_of(spec: Mapping[str, Any]) -> str:
    """A hash of what the network of a run with this spec depends on: all but the test set and whom it was made for."""
    return records.spec_hash({key: value for key, value in spec.items() if key not in ("test", "made_for")})


def score_network(run: Run, folder: Path, trained: Path, reporter: Reporter | None = None) -> dict[str, Any]:
    """Score `run` by the network that the finished run in `trained` ended with; returns its record.

    The two have the same `network_of`. Raises RunError for a checkpoint that cannot be read.
    """
    reporter = reporter or Silent()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    identity = records.spec_hash(records.read_json(trained / "spec.json"))
    state = make_state(run, device, reporter)
    state.load(records.load_checkpoint(trained / "checkpoint.pt", identity))
    reporter.note(f"scored by the network of {trained.name}, which is this run's as well")
    batches = make_batches(run, state.method, device, Share())
    test_store = ImageStore(run.test_faces, device)
    state.history = [{**state.history[-1], **evaluate(run, state, batches, test_store)}]
    records.write_json(folder / "spec.json", run.spec)
    before = records.read_json(trained / "record.json")
    carried_out = {key: before[key] for key in CARRIED_OUT if key in before}
    return finish(run, state, batches, test_store, folder, {**carried_out, "trained_by": trained.name}, last_only=True)
