"""Check every kernel against its reference on this machine's device, then time it beside the alternatives.

    python -m ferbench.bench.speed.device                        all ops and sizes on the GPU, under 8 minutes
    python -m ferbench.bench.speed.device --op ema_update        one op
    python -m ferbench.bench.speed.device --device cpu --quick   the same code on a CPU: references only, seconds

The machine comes first: the rate of a copy and of a matrix product, an empty launch. They give each size its floor, and
ours the share of it that is reached. What has no row of this device yet is timed first.

No speed without a green check: an op that misses its reference is reported and not timed. Variants run interleaved, a
replay of a CUDA graph each, over copies of the inputs that together exceed the cache; beside them stand the time of a
call until the device is done, and the host's alone, of calls that nobody waits for. Incoming gradients are made before.
"eager" is the best plain-torch form with our algebra, "compiled" is torch.compile of it. Memory is the peak of one step
over its inputs. What does not fit in memory is kept as a row that says so.
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ferbench.bench.speed.machine import Machine, measure
from ferbench.bench.speed.ops.ambiguous import Ambiguous
from ferbench.bench.speed.ops.augmentation import Augmentation
from ferbench.bench.speed.ops.case import Case, Forward, Inputs, Unfit, copied
from ferbench.bench.speed.ops.center_etf import CenterEtf
from ferbench.bench.speed.ops.ema import Ema
from ferbench.bench.speed.ops.gate import Gate, Mixture
from ferbench.bench.speed.ops.head import ConsistencyHead
from ferbench.bench.speed.ops.info_nce import InfoNce
from ferbench.bench.speed.ops.pseudo_label import PseudoCounts, PseudoLabel
from ferbench.bench.speed.record import SpeedRow, append, measured
from ferbench.bench.training.recording.environment import device_name

CASES: list[type[Case]] = [
    CenterEtf,
    PseudoLabel,
    PseudoCounts,
    ConsistencyHead,
    Ema,
    Gate,
    Mixture,
    Ambiguous,
    InfoNce,
    Augmentation,
]

CACHE_BYTES = 128 << 20
"""Inputs are rotated through at least this much memory: twice the L2 cache of an H200."""
MOST_COPIES = 64
MOST_GRAPH_MIB = 16 << 10
"""A graph keeps the memory of its step for itself: steps with more than this are timed with their launches only."""
LABELS_APART = 1e-4
"""Share of integer and boolean outputs that rounding may turn over."""

COMPILED_SIZES = 2
"""Sizes of each op, the first ones, at which torch.compile is timed: a compilation takes as long as many timings."""
QUEUED = 50
"""Calls that the host's time is the mean of: fewer than fill a stream's queue."""

UNFIT = object()

Step = Callable[[], object]


def error_over_torch(case: Case, inputs: Inputs) -> float:
    """How far ours is from float64, beyond what plain torch is, relative to the truth; labels and gates must agree."""
    ours, plain, truth = case.check(inputs)
    worst = 0.0
    for a, b, c in zip(ours, plain, truth, strict=True):
        if not a.is_floating_point():
            if float((a != b).double().mean()) > LABELS_APART:
                return float("inf")
            continue
        if not bool(a.isfinite().all()):
            return float("inf")
        scale = max(float(c.abs().max()), 1e-30)
        worst = max(worst, (float((a - c).abs().max()) - float((b - c).abs().max())) / scale)
    return worst


def variants(case: Case, on_gpu: bool, compiled: bool = True) -> dict[str, Forward]:
    """The forms to time; on a CPU the op is its reference, so that there is no kernel to time."""
    torch.compiler.reset()  # sizes before this one must not count as recompilations
    forms: dict[str, Forward] = {"triton": case.ours} if on_gpu else {}
    forms["eager"] = case.eager
    if compiled and case.compiles:
        forms["compiled"] = torch.compile(case.eager, dynamic=False)
    return forms | case.others()


def rotating(case: Case, forward: Forward, copies: list[Inputs], backward: bool = True) -> Step:
    """One step on each copy of the inputs, as a replay of one CUDA graph."""
    steps = [case.bound(forward, inputs, backward) for inputs in copies]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for step in (*steps, *steps[:1] * 2):  # every copy: incoming gradients and tables are made at the first call
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for step in steps:
            step()
    return graph.replay


def gpu_time(step: Step) -> float:
    """Milliseconds that the device takes for one call."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def wall_time(step: Step) -> float:
    """Milliseconds until one call returns and the device is done."""
    begin = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin)


def host_time(step: Step) -> float:
    """Microseconds that the host takes for one call, of many that it does not wait for."""
    begin = time.perf_counter()
    for _ in range(QUEUED):
        step()
    taken = 1e6 * (time.perf_counter() - begin) / QUEUED
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return taken


def peak_memory(step: Step) -> float:
    """MiB that one call allocates at its peak beyond what is there before."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def unless_out_of_memory(prepare: Callable[[], Any]) -> Any:
    """What `prepare` returns, None where the device has too little memory for it, UNFIT where it takes no such size."""
    try:
        return prepare()
    except Unfit:
        return UNFIT
    except torch.OutOfMemoryError:
        pass
    gc.collect()
    torch.cuda.empty_cache()
    return None


def interleaved(
    steps: dict[str, Step], clock: Callable[[Step], float], seconds: float, most: int
) -> dict[str, list[float]]:
    """Repeated times of every step, taken in turn, until the time or the number of rounds is used up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end = time.perf_counter() + seconds
    while (
        steps and len(times[next(iter(steps))]) < most and (not times[next(iter(steps))] or time.perf_counter() < end)
    ):
        for name, step in steps.items():
            times[name].append(clock(step))
    return times


def bytes_of(value: Any) -> int:
    """Bytes of all the tensors in an input."""
    if isinstance(value, (list, tuple)):
        return sum(bytes_of(item) for item in value)
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def run_size(
    case: Case, name: str, device: torch.device, machine: Machine, seconds: float, command: str
) -> list[SpeedRow]:
    """Every variant of one op at one size, in a graph and with its launches; host time, memory, and the floor."""
    on_gpu, size = device.type == "cuda", case.sizes[name]
    label = case.label(size)
    row = partial(measured, case.op, benchmark=type(case), command=command)
    copies = inputs_to_rotate(case, size, device)
    rows: list[SpeedRow] = []
    direct: dict[str, Step] = {}
    graphs: dict[str, Step] = {}
    for variant, forward in variants(case, on_gpu, name in list(case.sizes)[: 1 + COMPILED_SIZES]).items():
        backward = variant not in case.forward_only
        step = case.bound(forward, copies[0], backward)
        peak = unless_out_of_memory(lambda step=step: (step(), peak_memory(step) if on_gpu else 0.0)[1])  # type: ignore[misc]
        if peak is UNFIT:
            continue
        if peak is None:
            rows.append(row(variant, label, "ms", []))
            continue
        direct[variant] = step
        if on_gpu:
            rows.append(row(variant, label, "MiB", [peak]))
            if variant in case.waits or peak > MOST_GRAPH_MIB:
                continue
            graph = unless_out_of_memory(partial(rotating, case, forward, copies, backward))
            if graph is None:
                rows.append(row(variant, f"{label} graph", "ms", []))
            else:
                graphs[variant] = graph
    floor = machine.floor(case.floor(size))
    rows.append(row("floor", label, "ms", [floor]))
    for variant, times in interleaved(graphs, gpu_time, seconds / 2, 200).items():
        each = [t / len(copies) for t in times]
        rows.append(row(variant, f"{label} graph", "ms", each))
        if variant == "triton":
            rows.append(row(variant, f"{label} of floor", "%", [100 * floor / t for t in each]))
    for variant, times in interleaved(direct, wall_time, seconds / 4, 200).items():
        rows.append(row(variant, label, "ms", times))
    quick = {variant: step for variant, step in direct.items() if variant not in case.waits}
    if all(wall_time(step) < 20 for step in quick.values()):
        for variant, times in interleaved(quick, host_time, seconds / 4, 20).items():
            rows.append(row(variant, f"{label} host", "us", times))
    return rows


def inputs_to_rotate(case: Case, size: dict[str, int], device: torch.device) -> list[Inputs]:
    """Copies of the inputs, on a GPU as many as exceed its cache."""
    inputs = case.inputs(size, device)
    count = min(MOST_COPIES, max(1, CACHE_BYTES // max(1, bytes_of(inputs)))) if device.type == "cuda" else 1
    return [inputs, *(copied(inputs) for _ in range(count - 1))]


def passes(case: Case, names: list[str], device: torch.device) -> bool:
    """Whether one op agrees with its reference at the named sizes."""
    worst = max(error_over_torch(case, case.inputs(case.sizes[name], device)) for name in names)
    print(f"{case.op}: error beyond plain torch {max(worst, 0.0):.2g}, allowed {case.inexact:.2g}")
    if worst > case.inexact:
        print(f"{case.op}: not timed, as it misses its reference")
    return worst <= case.inexact


def in_rounds(
    cases: list[Case], quick: bool, timed: frozenset[tuple[str, str]] = frozenset()
) -> list[tuple[Case, str]]:
    """Every op's first size, then every op's second, and so on: where the time ends, each op has been timed.

    Sizes in `timed`, (op, label), have rows already and come last.
    """
    names = {case.op: ["quick"] if quick else [name for name in case.sizes if name != "quick"] for case in cases}
    longest = max(map(len, names.values()), default=0)
    rounds = [(case, names[case.op][i]) for i in range(longest) for case in cases if i < len(names[case.op])]
    return sorted(rounds, key=lambda pair: (pair[0].op, pair[0].label(pair[0].sizes[pair[1]])) in timed)


def already_timed(path: Path) -> frozenset[tuple[str, str]]:
    """(op, label) of what has a time of ours on this device among the rows at `path`."""
    if not path.exists():
        return frozenset()
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == device_name() and row["unit"] == "ms"]
    return frozenset((row["name"], row["case"]) for row in rows if row["variant"] in ("triton", "eager"))


def machine_rows(machine: Machine, command: str) -> list[SpeedRow]:
    """What was measured of the machine itself."""
    row = partial(measured, "machine", benchmark=measure, command=command)
    return [
        row("copy", "read and written", "GB/s", [machine.copy / 1e9]),
        row("matrix", "product", "TFLOP/s", [machine.matrix / 1e12]),
        row("launch", "in a graph", "us", [1e6 * machine.node]),
        row("launch", "of the host", "us", [1e6 * machine.launch]),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; the exit code is the number of ops that missed their reference."""
    parser = argparse.ArgumentParser(
        prog="python -m ferbench.bench.speed.device", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="only the smallest size of each op")
    parser.add_argument("--op", choices=[case.op for case in CASES], help="only this op")
    parser.add_argument("--seconds", type=float, default=4.0, help="time to measure one op at one size")
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which no further size is begun")
    parser.add_argument("--csv", type=Path, default=Path("results/speed.csv"), help="where rows are added")
    options = parser.parse_args(arguments)
    options.deadline = time.perf_counter() + options.limit
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here, so no GPU number exists; --device cpu times the references")
    if options.device == "cpu":
        print("On a CPU the references run: these are CPU times, and no GPU number exists.")
    command = " ".join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)])
    device = torch.device(options.device)
    machine = measure(device)
    append(machine_rows(machine, command), options.csv)
    for row in machine_rows(machine, command):
        print(f"  {row.name:15} {row.variant:10} {row.case:18} {row.median} {row.unit}")
    asked: list[Case] = [kind() for kind in CASES if options.op in (None, kind.op)]
    green: list[Case] = []
    for case in asked:
        torch.manual_seed(0)
        if passes(case, [name for _, name in in_rounds([case], options.quick)], device):
            green.append(case)
    for case, name in in_rounds(green, options.quick, already_timed(options.csv)):
        if time.perf_counter() > options.deadline:
            print(f"{case.op} {name}: not run, {options.limit:.0f} s are over")
            continue
        rows = run_size(case, name, device, machine, options.seconds, command)
        append(rows, options.csv)
        for row in rows:
            print(f"  {row.name:15} {row.case:28} {row.variant:12} {row.median} {row.unit}")
    return len(asked) - len(green)


if __name__ == "__main__":
    sys.exit(main())
