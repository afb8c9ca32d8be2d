"""Test scores of a run: at every epoch's end by student and averaged model, and the record at the end of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ferbench.bench.data.views.augment import ViewRecipe
from ferbench.bench.data.views.batches import Batches, ImageStore, view_batches
from ferbench.bench.training.networks.features import passed_features
from ferbench.bench.training.recording import evidence, records
from ferbench.bench.training.recording.finite import check_scores
from ferbench.bench.training.recording.metrics import metrics
from ferbench.bench.training.state import Run, State
from ferbench.methods import Method


def evaluate(run: Run, state: State, batches: Batches, test_store: ImageStore) -> dict[str, Any]:
    """Test metrics of the student and of the averaged model, by every inference rule.

    Those of the validation images too, where there are any, and of the unlabelled ones where the recipe asks for them.
    """
    models = {"student": state.method} | ({"ema": state.average.method} if state.average else {})
    parts = {"test": (test_store, run.test_faces, run.test)}
    if len(run.split.validation):
        parts["validation"] = (batches.store, run.faces, run.split.validation)
    if run.recipe.score_unlabelled and run.unlabelled_faces is None and len(run.split.unlabelled):
        known = run.split.unlabelled[run.faces.labels[run.split.unlabelled] >= 0]
        parts["unlabelled"] = (batches.store, run.faces, known)
    line: dict[str, Any] = {}
    for part, (store, faces, indices) in parts.items():
        line[part] = {}
        for name, model in models.items():
            rules = scores(model, store, indices, batches.recipe)
            line[part][name] = {rule: metrics(values, faces.labels[indices]) for rule, values in rules.items()}
    return line


def rows_at_once(recipe: ViewRecipe, device: torch.device) -> int:
    """Images per forward pass without gradient: on a GPU as many as keep it busy, 2,048 at 48 pixels, 512 at 224."""
    if device.type == "cpu":
        return 256  # figures there depend on it in the last bit
    return max(256, min(2048, 2**25 // recipe.size**2 // 256 * 256))


@torch.no_grad()
def scores(
    method: Method, store: ImageStore, indices: NDArray[np.int64], recipe: ViewRecipe
) -> dict[str, NDArray[np.float32]]:
    """Scores [N, K] of un-augmented images by inference rule, the headline rule first.

    Raises TrainingError for scores that are not finite.
    """
    method.eval()
    size = rows_at_once(recipe, store.device)
    parts = [method.predict_all(images) for images in view_batches(store, indices, recipe, size=size)]
    found = {rule: torch.cat([part[rule].float() for part in parts]).cpu().numpy() for rule in parts[0]}
    check_scores(found, method)
    return found


def finish(
    run: Run,
    state: State,
    batches: Batches,
    test_store: ImageStore,
    folder: Path,
    about: Mapping[str, Any],
    *,
    last_only: bool = False,
) -> dict[str, Any]:
    """Write predictions and record of the evaluated model.

    about: what the record says of how it was trained; last_only: the epochs before the last were not scored, so that no
    other could be chosen.
    """
    chosen = ("last",) if last_only else ("last", "best-on-test", "best-epoch-on-test", "best-on-val")
    evaluated = state.average.method if state.average and run.recipe.evaluate == "ema" else state.method
    with passed_features(evaluated) as passed:
        final = scores(evaluated, test_store, run.test, batches.recipe)
    labels = run.test_faces.labels[run.test]
    arrays = {"labels": labels, "index": run.test, "classes": np.array(run.faces.classes)}
    if (features := passed.array(len(labels))) is not None:
        arrays["features"] = features
    # once more: a run killed between its last checkpoint and this file comes here without another epoch
    records.write_lines(folder / "metrics.jsonl", state.history)
    records.write_predictions(folder / "predictions.npz", final, **arrays)
    selected = select(state.history, "ema" if evaluated is not state.method else "student")
    record = {
        "format": records.RECORD_FORMAT,
        "status": "finished",
        "finished_at": records.now(),
        **about,
        "metrics": {name: values for name, values in selected.items() if name in chosen},
        "evaluated": "ema" if evaluated is not state.method else "student",
        "evidence": evidence.to_json(
            final, labels, evidence.images_hash(run.test_faces.fingerprint, run.test), run.test_faces.classes
        ),
        "seconds": round(state.seconds, 1),
        "steps": state.step,
        "step_ms": round(1000 * state.seconds / state.step, 3),  # tests at epochs' ends included
        "split": {
            "labelled": len(run.split.labelled),
            "unlabelled": len(run.unlabelled_faces.train if run.unlabelled_faces else run.split.unlabelled),
            "validation": len(run.split.validation),
            "test": len(run.test),
        },
        **({"candidates": dict(run.about_candidates())} if run.about_candidates else {}),
        "peak_memory_mib": records.peak_memory_mib(),
        **records.environment(),
    }
    records.write_json(folder / "record.json", record)
    return record


def select(history: list[dict[str, Any]], evaluated: str) -> dict[str, dict[str, float]]:
    """Test metrics at the last epoch, at the best on validation (where there is one), and at the best on test.

    Only epochs with scores count; the last one always has some.
    The epoch that is best on validation is by overall accuracy of the headline rule, the first of ties. Best on test is
    chosen in two ways: each metric of each rule at its own best epoch ("best-on-test", as LEAF's released code prints
    them), and all at the epoch that is best in overall accuracy of the headline rule ("best-epoch-on-test", as ReMoP's
    does). Other rules' metrics are named `rule/metric`, those of the unlabelled images `unlabelled/metric`.
    """

    history = [line for line in history if "test" in line]

    def best(part: str) -> dict[str, Any]:
        return max(history, key=lambda line: float(next(iter(line[part][evaluated].values()))["overall"]))

    def figures(line: dict[str, Any]) -> dict[str, float]:
        first = next(iter(line["test"][evaluated]))
        return {
            ("" if rule == first else f"{rule}/") + prefix + metric: round(value, 4)
            for part, prefix in (("test", ""), ("unlabelled", "unlabelled/"))
            for rule, values in line.get(part, {}).get(evaluated, {}).items()
            for metric, value in values.items()
        }

    each = [figures(line) for line in history]
    on_test = {name: max(line[name] for line in each) for name in each[-1]}
    result = {
        "last": {"epoch": history[-1]["epoch"], **each[-1]},
        "best-on-test": {"epoch": best("test")["epoch"], **on_test},
        "best-epoch-on-test": {"epoch": best("test")["epoch"], **figures(best("test"))},
    }
    if "validation" in history[-1]:
        chosen = best("validation")
        result["best-on-val"] = {"epoch": chosen["epoch"], **figures(chosen)}
    return result
