"""A training step by part, the EMA beside timm's, the data path and the memory of a run.

    python -m ferbench.bench.speed.training [--csv results/speed.csv] [--threads 2] [--samples 40]

Faces are FERPlus where $FERBENCH_FERPLUS_ROOT is set, else synthetic ones.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from timm.utils.model_ema import ModelEma, ModelEmaV3

from ferbench.bench.data.preparing.cache import cache_root
from ferbench.bench.data.sets.readers import open_dataset, prepare_dataset
from ferbench.bench.data.splits.draw import make_split
from ferbench.bench.data.views.batches import ImageStore, Share, view_batches
from ferbench.bench.speed.record import SpeedRow, append, measured
from ferbench.bench.training.ema import Averaged
from ferbench.bench.training.networks.backbones import make_classifier
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.state import Run, make_batches, make_state, view_recipe
from ferbench.methods import Progress, build, option_values
from ferbench.protocols import load_protocol

CPU = torch.device("cpu")
T = TypeVar("T")
METHODS = ("vanilla", "fixmatch", "remop")


def example_run(method: str) -> Run:
    """A run of `method` under the demo's recipe, on FERPlus where it is at hand."""
    real = bool(os.environ.get("FERBENCH_FERPLUS_ROOT"))
    options = {"source": "new_csv", "rule": "argmax10"} if real else {"scale": 0.2}
    faces = open_dataset("ferplus" if real else "synthetic", options, cache=cache_root())
    recipe = replace(load_protocol("remop").recipe("ferplus", "cpu"), steps_per_epoch=50)
    values = option_values(method, "released", {"joint": True} if method != "vanilla" else {})
    return Run({}, method, values, recipe, 1, faces, make_split(faces, "fraction", {"fraction": 0.07}, 1), faces)


def step_parts(method: str, samples: int, command: str) -> list[SpeedRow]:
    """Milliseconds of wall time of each part of a step, and of the whole."""
    run = example_run(method)
    state = make_state(run, CPU, Silent())
    batches = make_batches(run, state.method, CPU, Share())
    parts: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[..., T], *arguments: Any) -> T:
        start = time.perf_counter()
        result = work(*arguments)
        parts.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    average = state.average
    assert average is not None
    for step in range(samples + 3):
        if step == 3:  # the first steps warm up
            parts.clear()
        start = time.perf_counter()
        labelled = timed("labelled views", batches.labelled, step)
        unlabelled = timed("unlabelled views", batches.unlabelled, step)
        result = timed("forward", state.method.step, labelled, unlabelled, Progress(torch.zeros(()), 0))
        loss = torch.stack(list(result.losses.values())).sum()
        state.optimizer.zero_grad()
        timed("backward", loss.backward)
        timed("optimiser", state.optimizer.step)
        timed("ema", average.update, 1e-3)
        parts.setdefault("whole step", []).append(1e3 * (time.perf_counter() - start))
    case = f"{run.faces.name}, {run.recipe.backbone}, 48 px, batch 16+16"
    return [
        measured("step", f"{method}: {part}", case, "ms", values, benchmark=step_parts, command=command)
        for part, values in parts.items()
    ]


def ema(samples: int, command: str) -> list[SpeedRow]:
    """One EMA update of a WideResNet-28-2: ours, timm's (foreach) and timm's first, tensor by tensor, in turn."""
    model = make_classifier("wrn_28_2", 8, size=48, dropout=0.0)
    method = build("vanilla", model, option_values("vanilla", "paper", {}))
    ours = Averaged(method, 0.999, buffers="ema", shrink=0.0)
    foreach, tensorwise = ModelEmaV3(method, decay=0.999), ModelEma(method, decay=0.999)  # type: ignore[no-untyped-call]
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.update(1e-3),
        "timm ModelEmaV3": lambda: foreach.update(method),
        "timm ModelEma": lambda: tensorwise.update(method),  # type: ignore[no-untyped-call]
    }
    values: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(samples + 3):
        for name, update in variants.items():
            start = time.perf_counter()
            update()
            if repeat >= 3:
                values[name].append(1e3 * (time.perf_counter() - start))
    return [
        measured("ema", name, "WideResNet-28-2", "ms", times, benchmark=ema, command=command)
        for name, times in values.items()
    ]


def data_path(samples: int, command: str) -> list[SpeedRow]:
    """Images per second: decoding and verifying FERPlus into a fresh cache, and evaluating the test set."""
    run = example_run("vanilla")
    rows = []
    if run.faces.name == "ferplus":
        rates = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                prepare_dataset("ferplus", {}, cache=Path(folder), threads=2)
                rates.append(len(run.faces.images) / (time.perf_counter() - start))
        rows.append(
            measured("prepare", "2 threads", "ferplus", "images/s", rates, benchmark=data_path, command=command)
        )
    store, model = ImageStore(run.faces, CPU), make_state(run, CPU, Silent()).method.eval()
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad():
            for images in view_batches(store, run.faces.test, view_recipe(run.recipe)):
                model.predict(images)
        rates.append(len(run.faces.test) / (time.perf_counter() - start))
    case = f"{run.faces.name}, {run.recipe.backbone}"
    rows.append(measured("evaluate", "test set", case, "images/s", rates, benchmark=data_path, command=command))
    return rows


def memory(command: str) -> list[SpeedRow]:
    """Peak resident memory of a whole training process, after 2 and after 6 epochs of 50 steps."""
    script = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from ferbench.bench.speed.training import example_run\n"
        "from ferbench.bench.training.train import train\n"
        "run = example_run('remop'); spec = {'method': 'remop', 'variant': 'released', 'preset': 'cpu', 'seed': 1,\n"
        "  'dataset': {'reader': run.faces.name}, 'split': {'kind': 'fraction', 'parameters': {}}}\n"
        "run = replace(run, spec=spec, recipe=replace(run.recipe, epochs=int(sys.argv[1])))\n"
        "print(train(run, Path(sys.argv[2]))['peak_memory_mib']['host'])\n"
    )
    rows = []
    for epochs in (2, 6):
        with tempfile.TemporaryDirectory() as folder:
            arguments = [sys.executable, "-c", script, str(epochs), folder]
            output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        case = f"{example_run('vanilla').faces.name}, {epochs} epochs of 50 steps"
        peak = [float(output.split()[-1])]
        rows.append(measured("memory", "remop", case, "MiB", peak, benchmark=memory, command=command))
    return rows


def main() -> None:
    """Measure, print, and add the rows to a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file the rows are added to")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--samples", type=int, default=40, help="steps measured")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    command = f"python -m ferbench.bench.speed.training --threads {options.threads} --samples {options.samples}"
    rows = [row for method in METHODS for row in step_parts(method, options.samples, command)]
    rows += ema(options.samples, command) + data_path(options.samples, command) + memory(command)
    for row in rows:
        print(f"{row.name:9} {row.case:45} {row.variant:28} {row.median:>9} {row.unit}  ({row.p20} to {row.p80})")
    if options.csv:
        append(rows, options.csv)


if __name__ == "__main__":
    main()
