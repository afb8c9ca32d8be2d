"""How long steps take on one kind of device, from the records of finished runs; and what runs will take by them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ferbench.bench.files import read_json
from ferbench.bench.tables.planning.hours import gpu_hours
from ferbench.errors import UserError
from ferbench.protocols import NONE, Recipe

SIZE = ("backbone", "input_size", "batch_size", "mu", "dtype", "joint")  # of a recipe: what a step's time depends on
Kind = tuple[object, ...]


@dataclass(frozen=True)
class Estimate:
    """hours of a run, and what says so: "measured" on such runs, "scaled" from others here, or "model" alone."""

    hours: float
    source: str


@dataclass(frozen=True)
class Known:
    """Finished runs on a kind of device.

    steps: seconds a step by kind of run, the median over runs; test passes and checkpoints are in it
    pace: runs' time here over what the model says of a GPU, the median; None without runs
    """

    device: str
    runs: int = 0
    steps: Mapping[Kind, float] = field(default_factory=dict)
    pace: float | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the model, which is of a GPU, is of this kind of device."""
        return _is_gpu(self.device)

    def estimate(self, spec: Mapping[str, Any], recipe: Recipe, test_images: int = 0) -> Estimate | None:
        """What a run takes; None where neither records nor the model know of this device or this backbone."""
        steps = recipe.epochs * recipe.steps_per_epoch
        if (kind := _kind(spec, vars(recipe))) in self.steps:
            return Estimate(self.steps[kind] * steps / 3600, "measured")
        try:
            hours = gpu_hours(recipe, spec.get("unlabelled") != NONE, test_images)
        except UserError:
            return None
        if self.pace is not None:
            return Estimate(hours * self.pace, "scaled")
        return Estimate(hours, "model") if self.on_gpu else None


def known(results: Path, device: str, threads: int) -> Known:
    """What the records in `results` say of `device`; threads: of the process, which count on a CPU."""
    steps: dict[Kind, list[float]] = defaultdict(list)
    paces: list[float] = []
    runs = 0
    for path in sorted((results / "runs").glob("*/record.json")):
        try:
            record, spec = read_json(path), read_json(path.with_name("spec.json"))
            same = record["device"] == device and (_is_gpu(device) or record["threads"] == threads)
            if record["status"] != "finished" or not same:
                continue
            runs += 1
            seconds = record["seconds"] / record["steps"]
            steps[_kind(spec, spec["recipe"])].append(seconds)
            recipe = Recipe(**spec["recipe"])
            hours = gpu_hours(recipe, spec.get("unlabelled") != NONE, record["split"]["test"])
            paces.append(seconds * recipe.epochs * recipe.steps_per_epoch / 3600 / hours)
        except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, UserError):
            continue  # a folder that is no run of this version tells nothing
    return Known(
        device, runs, {kind: median(values) for kind, values in steps.items()}, median(paces) if paces else None
    )


def on_a_gpu(results: Path) -> Known | None:
    """What the records in `results` say of the kind of GPU that most of them were made on; None without any."""
    devices: Counter[str] = Counter()
    for path in (results / "runs").glob("*/record.json"):
        try:
            devices[str(read_json(path)["device"])] += 1
        except (ValueError, KeyError, TypeError, UserError):
            continue
    gpus = [device for device, _ in devices.most_common() if _is_gpu(device)]
    found = known(results, gpus[0], 1) if gpus else None
    return found if found and found.pace is not None else None


def in_words(estimates: Iterable[Estimate | None], jobs: int, known: Known) -> str:
    """One line on all runs: hours of the device, hours until `jobs` at once have done them, and what says so."""
    given = list(estimates)
    there = [estimate for estimate in given if estimate]
    if not there:
        return f"how long that takes is not known: there is no finished run on this {known.device}"
    hours, sources = sum(estimate.hours for estimate in there), {estimate.source for estimate in there}
    counts = {source: sum(estimate.source == source for estimate in there) for source in sources}
    said = {
        "measured": f"{counts.get('measured')} by finished runs like them",
        "scaled": f"{counts.get('scaled')} by what other runs took here",
        "model": f"{counts.get('model')} by a model of a GPU, an order of magnitude",
    }
    how = [said[source] for source in ("measured", "scaled", "model") if source in sources]
    how += [f"{len(given) - len(there)} not known"] if len(there) < len(given) else []
    unit = " of a GPU" if known.on_gpu else ""
    together = f", {duration(hours / jobs)} with {jobs} processes" if jobs > 1 else ""
    return f"about {duration(hours)}{unit}{together}: {', '.join(how)}"


def duration(hours: float) -> str:
    """1.5 h, 3 min, 20 s: to two digits."""
    if hours >= 1:
        return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 30 else f"{3600 * hours:.0f} s"


def _kind(spec: Mapping[str, Any], recipe: Mapping[str, Any]) -> Kind:
    options = spec.get("options", {})
    return (spec.get("method"), options.get("learner"), spec.get("variant"), *(recipe.get(name) for name in SIZE))


def _is_gpu(device: str) -> bool:
    return any(word in device for word in ("NVIDIA", "Tesla", "GeForce", "AMD Instinct", "Radeon"))
