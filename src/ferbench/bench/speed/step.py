"""A whole training step, by every way there is of doing it, at the sizes the papers train at.

    python -m ferbench.bench.speed.step --csv results/speed.csv    on a GPU, under 8 minutes
    python -m ferbench.bench.speed.step --device cpu --block 5   rehearses the same code: small sizes, no graphs

Ways of doing a step, in turn, so that what else the machine does meets all of them:

    authors     as the released codes do it: images from files by PIL in the loop, a forward pass per batch, the average
                tensor by tensor, a wait for each logged number
    plain       every batch drawn alone, every rate a number, the log summed name by name
    static      `training.steps.step`, one by one
    graph       `training.steps.graphed`, where there is a GPU; bf16: the same under bfloat16 autocast

"host" is the time until the step's call returns, "device" the time until its work is done. "static / plain" pairs the
blocks of one turn; printed beside it is an interval that holds the median of such ratios with 95 %. "packing" is
several runs that share the device. Rows are added to the CSV as they come. Images are random: what is measured does not
depend on them.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch._C._autograd import DeviceType

from ferbench.bench.data.views.batches import ImageStore, Share
from ferbench.bench.speed.packing import in_one_process, in_processes, serve, wait
from ferbench.bench.speed.record import SpeedRow, append, measured
from ferbench.bench.speed.ways import CLASSES, Way, authors, make_run, plain, static
from ferbench.bench.training.evaluate import evaluate
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.state import make_batches, make_state
from ferbench.bench.training.steps.feed import LOG_EVERY
from ferbench.bench.training.steps.graphed import Steps
from ferbench.bench.training.steps.mode import Mode
from ferbench.bench.training.steps.step import generator_of
from ferbench.methods import METHODS, Variant
from ferbench.protocols import Recipe, load_protocol


@dataclass(frozen=True)
class Case:
    """A step of a paper: its recipe, method and variant, on images of `stored` pixels and channels."""

    name: str
    method: str
    paper: str
    recipe: str
    variant: Variant = "paper"
    stored: tuple[int, int] = (100, 3)
    size: int = 224

    def settings(self, small: bool) -> Recipe:
        """The paper's recipe at this case's size, or one that a CPU rehearses."""
        recipe = replace(load_protocol(self.paper).recipe(self.recipe, "paper"), weights="none", input_size=self.size)
        if not small:
            return recipe
        return replace(recipe, backbone="resnet_small", input_size=32, batch_size=8, mu=1)

    def text(self, recipe: Recipe) -> str:
        """What the rows say."""
        batch = f"{recipe.batch_size} + {recipe.batch_size * recipe.mu}"
        return f"{self.name}: {batch} images, {recipe.backbone}, {recipe.input_size} px"


CASES = [
    Case("FixMatch, RAF-DB", "fixmatch", "remop", "rafdb"),
    Case("ReMoP, RAF-DB", "remop", "remop", "rafdb"),
    Case("Ada-CM, RAF-DB", "adacm", "adacm", "resnet18"),
    Case("ReMoP, FERPlus", "remop", "remop", "ferplus", stored=(48, 1)),
    Case("ReMoP, FERPlus at 48 px", "remop", "remop", "ferplus", stored=(48, 1), size=48),
    Case("Ada-CM at 48 px", "adacm", "adacm", "resnet18", stored=(48, 1), size=48),
    Case("LEAF", "leaf", "leaf", "resnet18"),
    Case("LEAF, released", "leaf", "leaf", "resnet18", variant="released"),
]


PACKED = CASES[4]


def times(
    ways: dict[str, Way], device: torch.device, seconds: float, block: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds (host, done) of each step by each way, in blocks that take turns; on the CPU the process's own time.

    A block's steps are waited for together, as the host runs ahead in training; one of LOG_EVERY draws one chunk.
    """
    cpu = device.type == "cpu"
    clock = time.process_time if cpu else time.perf_counter
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    numbers = dict.fromkeys(ways, 0)
    end = time.perf_counter() + seconds
    turn = 0
    while turn < 3 or time.perf_counter() < end:
        for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
            wait(device)
            begin = clock()
            for _ in range(block):
                way(numbers[name])
                numbers[name] += 1
            called = clock()
            wait(device)
            if turn:  # the first turn warms up
                found[name][0].append(1e3 * (called - begin) / block)
                found[name][1].append(1e3 * (clock() - begin) / block)
        turn += 1
    return found


def paired(times: Sequence[float], others: Sequence[float]) -> tuple[list[float], tuple[float, float]]:
    """Ratios of the blocks of one turn, and the interval between two of them that holds their median with 95 %.

    The bounds are the ranks that a fair coin's count of heads leaves with 2.5 % on either side; of fewer than six
    ratios they are the extremes, which hold it with less.
    """
    ratios = sorted(one / other for one, other in zip(times, others, strict=True))
    count = len(ratios)
    rank, tail = 0, 0.5**count
    while tail + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        tail += math.comb(count, rank) * 0.5**count
    return ratios, (ratios[rank], ratios[count - 1 - rank])


def kernels(way: Way, device: torch.device) -> int:
    """Kernels and copies that one step launches, 0 without a GPU."""
    if device.type != "cuda":
        return 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        way(0)
        wait(device)
    return sum(event.device_type == DeviceType.CUDA for event in profile.events() or ())


def steps(case: Case, device: torch.device, seconds: float, block: int, command: str) -> Iterator[SpeedRow]:
    """One case by every way."""
    recipe = case.settings(device.type == "cpu")
    run = make_run(case.method, recipe, case.stored, case.variant)
    ways: dict[str, Way] = {"plain": plain(run, device)[0]}
    ways["static"], _ = static(run, device, Mode(graph="off"))
    how: dict[str, Steps] = {}
    if device.type == "cuda":
        ways["graph"], how["graph"] = static(run, device, Mode())
        halves = replace(run, recipe=replace(recipe, dtype="bfloat16"))
        ways["graph, bf16"], how["graph, bf16"] = static(halves, device, Mode())
    if case is CASES[2]:
        ways["authors"] = authors(run, device)
    text = case.text(recipe)
    measurements = times(ways, device, seconds, block)
    kind = "CPU time" if device.type == "cpu" else "wall"
    ratios, (low, high) = paired(measurements["static"][1], measurements["plain"][1])
    print(f"static / plain, {text}: {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}], {len(ratios)} turns")
    yield measured("step", f"static / plain, {kind}", text, "x", ratios, benchmark=steps, command=command)
    for name, (host, done) in measurements.items():
        about = how[name].about() if name in how else {}
        label = name if about.get("steps", "graph") == "graph" else f"{name} (not captured: {about['why']})"
        yield measured("step", f"{label}, {kind}", text, "ms", done, benchmark=steps, command=command)
        if device.type == "cuda":
            yield measured("step", f"{label}, host", text, "ms", host, benchmark=steps, command=command)
    for name in ("plain", "static"):
        if count := kernels(ways[name], device):
            yield measured("step", f"{name}, kernels", text, "launches", [count], benchmark=steps, command=command)


def captures(device: torch.device, command: str) -> Iterator[SpeedRow]:
    """Every method's step as a graph, on a small network: replays held against single steps, as each run does it."""
    recipe = Recipe(
        backbone="resnet_small", batch_size=8, epochs=2, steps_per_epoch=1000, lr=1e-3, input_size=32, crop_padding=2,
        ema=0.9, dropout=0.5, schedule="cosine",
    )  # fmt: skip
    for name in METHODS:
        run = make_run(name, recipe, (32, 1))
        if METHODS[name].takes_candidates:
            full = np.ones((len(run.faces.labels), len(CLASSES)), bool)
            run = replace(run, candidates=lambda full=full: full)  # type: ignore[misc]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            way, done = static(run, device, Mode())
            for number in range(3):
                way(number)
        found = done.about()
        same = "equal bits" if found.get("difference") == 0 else f"apart by {found.get('difference')}"
        label = same if found["steps"] == "graph" else f"not captured: {found['why']}"
        rounding = [found.get("rounding", 0.0)]
        yield measured("capture", label, name, "of the way", rounding, benchmark=captures, command=command)


def epoch_end(device: torch.device, folder: Path, command: str) -> Iterator[SpeedRow]:
    """What comes between epochs: both models scored on the test images, and a checkpoint written."""
    case = CASES[4]
    run = make_run(case.method, case.settings(device.type == "cpu"), case.stored)
    state = make_state(run, device, Silent())
    batches = make_batches(run, state.method, device, Share())
    store = ImageStore(run.faces, device)
    works: dict[str, Callable[[], object]] = {
        f"score {len(run.test)} images by two models": lambda: evaluate(run, state, batches, store),
        "checkpoint": lambda: records.save_checkpoint(folder / "checkpoint.pt", state.to_dict("")),
    }
    for name, work in works.items():
        taken = []
        for _ in range(4):
            begin = time.perf_counter()
            work()
            wait(device)
            taken.append(1e3 * (time.perf_counter() - begin))
        yield measured("epoch end", name, case.text(run.recipe), "ms", taken[1:], benchmark=epoch_end, command=command)


def packing(device: torch.device, seconds: float, command: str) -> Iterator[SpeedRow]:
    """Steps a second of 1, 2, 4 and 8 runs that share the device: a process each, and a stream each in one process."""
    mps = bool(os.environ.get("CUDA_MPS_PIPE_DIRECTORY")) or Path("/tmp/nvidia-mps").exists()
    worker = [sys.executable, "-m", "ferbench.bench.speed.step", "--device", str(device), "--rate", str(seconds)]
    text = PACKED.text(PACKED.settings(device.type == "cpu"))
    for count in (1, 2, 4, 8) if device.type == "cuda" else (1, 2):
        makers = [partial(packed, device, seed) for seed in range(1, count + 1)]
        found = {
            f"{count} processes{', MPS' if mps else ''}": in_processes(worker, count),
            f"{count} streams": in_one_process(makers, device, seconds),
        }
        for label, together in found.items():
            if together is None:
                print(f"packing, {label}: a process failed")
            else:
                yield measured("packing", label, text, "steps/s", [together], benchmark=packing, command=command)


def packed(device: torch.device, seed: int) -> Way:
    """A run of its own."""
    return static(
        make_run(PACKED.method, PACKED.settings(device.type == "cpu"), PACKED.stored, seed=seed), device, Mode()
    )[0]


def main() -> None:
    """Measure, print, and add each row to a CSV file as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file the rows are added to")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=430.0, help="about how long it may take")
    parser.add_argument("--block", type=int, default=LOG_EVERY, help="steps of one way before the next has its turn")
    parser.add_argument("--rate", nargs=2, type=float, metavar=("SECONDS", "SEED"), help="one process's part")
    options = parser.parse_args()
    device = torch.device(options.device)
    generator_of(device)  # a device that is not there fails here
    if options.rate:
        print(serve(partial(packed, device, int(options.rate[1])), device, options.rate[0]))
        return
    command = f"python -m ferbench.bench.speed.step --device {options.device} --seconds {options.seconds:g}"
    command += f" --block {options.block}"
    begin, share = time.perf_counter(), options.seconds * 0.6 / len(CASES)
    with tempfile.TemporaryDirectory() as folder:
        parts = [captures(device, command)] if device.type == "cuda" else []
        parts.append(epoch_end(device, Path(folder), command))
        parts += [steps(case, device, share, options.block, command) for case in CASES[:6]]
        parts.append(packing(device, options.seconds / 60, command))
        parts += [steps(case, device, share, options.block, command) for case in CASES[6:]]
        for part in parts:
            if time.perf_counter() - begin > options.seconds:
                print("out of time: the parts that follow are left out")
                break
            for row in part:
                print(f"{row.name:9} {row.case:60} {row.variant:40} {row.median:>9} {row.unit}", flush=True)
                if options.csv:
                    append([row], options.csv)


if __name__ == "__main__":
    main()
