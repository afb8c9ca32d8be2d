"""Which finished runs count for which cells: a run serves every cell with its settings, whatever it was made for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ferbench.bench import records
from ferbench.bench.data.faceset import DataError
from ferbench.bench.runs import settings
from ferbench.methods import MethodError, Variant
from ferbench.protocols import Cell, Protocol, cells, protocol_names

DATA = ("dataset", "test", "unlabelled", "split")


@dataclass(frozen=True)
class Run:
    """A finished run that counts for `cell`."""

    id: str
    cell: Cell
    variant: str
    preset: str
    seed: int
    metrics: Mapping[str, Mapping[str, float]]  # selection -> metric -> percent


@dataclass(frozen=True)
class Ignored:
    """A finished run made for a protocol that does not count, and why."""

    run_id: str
    reason: str


def counted_runs(results: Path, protocols: Mapping[str, Protocol]) -> tuple[list[Run], list[Ignored]]:
    """The newest run of each cell, variant, preset and seed; and the runs that do not count."""
    by_settings = _cells_by_settings(protocols.values())
    newest: dict[tuple[str, str, str, int], Run] = {}
    ignored = []
    found = sorted(results.glob("runs/*/record.json"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    for path in found:
        runs = _read(path, protocols, by_settings)
        if isinstance(runs, Ignored):
            ignored.append(runs)
            continue
        for run in runs:
            key = (run.cell.id, run.variant, run.preset, run.seed)
            if key in newest:
                ignored.append(Ignored(newest[key].id, f"{run.id} is newer, for {run.cell.id} and seed {run.seed}"))
            newest[key] = run
    return list(newest.values()), ignored


def _read(path: Path, protocols: Mapping[str, Protocol], by_settings: Mapping[str, list[Cell]]) -> list[Run] | Ignored:
    """A run for each cell it serves; none for an unfinished run, or one of no protocol that is asked for."""
    name = path.parent.name
    try:
        spec, record = records.read_json(path.with_name("spec.json")), records.read_json(path)
        if record.get("status") != "finished":
            return []
        served = by_settings.get(_key(spec), [])
        made_for = spec.get("made_for")
        if made_for:
            protocol = protocols.get(made_for["protocol"])
            if protocol is None and made_for["protocol"] not in protocol_names():
                return Ignored(name, f"no protocol '{made_for['protocol']}' here")
            if protocol and made_for["version"] != protocol.version:
                return Ignored(name, f"stale: made under version {made_for['version']} of {protocol.name}")
            if protocol and not served:
                return Ignored(name, f"its settings are no longer those of {made_for['cell']} or any other cell")
        return [
            Run(name, cell, spec["variant"], spec["preset"], spec["seed"], record["metrics"]) for cell in served
        ]  # fmt: skip
    except records.RunError as error:
        return Ignored(name, str(error))
    except (KeyError, TypeError, AttributeError) as error:
        return Ignored(name, f"spec.json or record.json lacks or garbles {error}")


def _cells_by_settings(protocols: Iterable[Protocol]) -> dict[str, list[Cell]]:
    index: dict[str, list[Cell]] = defaultdict(list)
    for protocol in protocols:
        for cell in cells(protocol):
            for preset in protocol.presets if cell.method else ():
                for variant in get_args(Variant):
                    try:
                        index[_key(settings(cell, preset, 0, variant))].append(cell)
                    except (DataError, MethodError):
                        break  # its method or data set is not there yet, so neither are runs of it
    return index


def _key(spec: Mapping[str, Any]) -> str:
    """What must agree: all settings but the seed; not the fingerprints, which are of the data at hand."""
    kept = {key: value for key, value in spec.items() if key not in ("seed", "weights", "made_for")}
    for part in DATA:
        if isinstance(kept[part], dict):
            kept[part] = {key: value for key, value in kept[part].items() if key != "fingerprint"}
    return records.spec_hash(kept)
