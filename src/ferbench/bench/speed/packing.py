"""Several runs that share a device, by both ways there are: a process each, or a stream each in one process.

`reproduce --jobs` has a process each: nothing of one run can reach another. Streams need no second context on the GPU,
and what they share is kept apart here: a `Lane` gives a run its own stream and its own state of the device's generator,
which graphs of one process would otherwise draw from together. No GPU has shown yet which way is faster.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ferbench.bench.speed.ways import Way
from ferbench.bench.training.steps.step import generator_of

WAITED_FOR = 10  # steps between two waits for the device


class Lane:
    """What a run in one process with others needs for itself: a stream, and a state of the device's generator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._state = generator_of(device).clone_state() if self._stream else None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While the run has its turn. On a CPU there is nothing to do: each step sets the generator anew."""
        if self._stream is None or self._state is None:
            yield
            return
        shared = generator_of(self._device)
        kept = shared.graphsafe_get_state()
        shared.graphsafe_set_state(self._state)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            shared.graphsafe_set_state(kept)


class InTurns:
    """Runs in one process, a step of each in turn. One that fails is left out from then on; the others go on."""

    def __init__(self, makers: Sequence[Callable[[], Way]], device: torch.device) -> None:
        self.failed: dict[int, Exception] = {}
        self._lanes = [Lane(device) for _ in makers]
        self._ways: dict[int, Way] = {}
        for number, make in enumerate(makers):
            self._try(number, lambda make=make, number=number: self._ways.__setitem__(number, make()))  # type: ignore[misc]

    def step(self, number: int) -> int:
        """Step `number` of every run; how many did it."""
        for run, way in list(self._ways.items()):
            self._try(run, lambda way=way: way(number))  # type: ignore[misc]
        return len(self._ways)

    def _try(self, run: int, work: Callable[[], object]) -> None:
        try:
            with self._lanes[run].turn():
                work()
        except Exception as error:
            self.failed[run] = error
            self._ways.pop(run, None)


def in_one_process(makers: Sequence[Callable[[], Way]], device: torch.device, seconds: float) -> float:
    """Steps a second of all runs together. Raises what the first of them that failed raised."""
    runs = InTurns(makers, device)
    runs.step(0)
    wait(device)
    begin, number, done = time.perf_counter(), 1, 0
    while time.perf_counter() < begin + seconds:
        for _ in range(WAITED_FOR):
            done += runs.step(number)
            number += 1
        wait(device)
    for error in runs.failed.values():
        raise error
    return done / (time.perf_counter() - begin)


def in_processes(worker: Sequence[str], count: int) -> float | None:
    """The same of `count` processes, which begin at once: `worker` and a seed, `serve` in each. None if one failed."""
    started = [
        subprocess.Popen([*worker, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for seed in range(1, count + 1)
    ]
    ready = [process.stdout is not None and process.stdout.readline() for process in started]
    for process in started:
        if all(ready) and process.stdin:
            process.stdin.write("go\n")
            process.stdin.flush()
    rates = [process.communicate()[0].split() for process in started]
    return sum(float(rate[-1]) for rate in rates) if all(rates) else None


def serve(make: Callable[[], Way], device: torch.device, seconds: float) -> float:
    """One process's part: steps a second of one run, from the moment that a line comes."""
    way = make()
    way(0)
    wait(device)
    print("ready", flush=True)
    sys.stdin.readline()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() < begin + seconds:
        for _ in range(WAITED_FOR):
            done += 1
            way(done)
        wait(device)
    return done / (time.perf_counter() - begin)


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
