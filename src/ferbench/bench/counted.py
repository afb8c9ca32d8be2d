"""Which finished runs count for which cells: a run serves every cell with its settings, whatever it was made for."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from ferbench.bench import records
from ferbench.bench.data.faceset import DataError
from ferbench.bench.runs import settings
from ferbench.methods import MethodError, Variant
from ferbench.protocols import Cell, Protocol, Recipe, cells, load_protocol, protocol_names

DATA = ("dataset", "test", "unlabelled", "split")
DEFAULTS = {field.name: field.default for field in fields(Recipe)}


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
    versions = {name: load_protocol(name).version for name in protocol_names()}
    versions |= {name: protocol.version for name, protocol in protocols.items()}
    by_settings = _cells_by_settings(protocols.values())
    newest: dict[tuple[str, str, str, int], list[Run]] = {}
    ignored = []
    found = sorted(results.glob("runs/*/record.json"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    for path in found:
        runs = _read(path, protocols, versions, by_settings)
        if isinstance(runs, Ignored):
            ignored.append(runs)
        elif runs:
            # Runs with one cell in common have the same settings, so they share all their cells.
            first = runs[0]
            key = (first.cell.id, first.variant, first.preset, first.seed)
            if key in newest:
                ignored.append(Ignored(newest[key][0].id, f"{first.id} is newer, with the same settings and seed"))
            newest[key] = runs
    return [run for runs in newest.values() for run in runs], ignored


def _read(
    path: Path, asked: Container[str], versions: Mapping[str, int], by_settings: Mapping[str, list[Cell]]
) -> list[Run] | Ignored:
    """A run for each cell it serves; none for an unfinished run, or one of no protocol that is asked for."""
    name = path.parent.name
    try:
        spec, record = records.read_json(path.with_name("spec.json")), records.read_json(path)
        if record.get("status") != "finished":
            return []
        served = by_settings.get(_key(spec), [])
        made_for = spec.get("made_for")
        if made_for:
            protocol, version = made_for["protocol"], made_for["version"]
            if protocol not in versions:
                return Ignored(name, f"no protocol '{protocol}' here")
            if not served and protocol not in asked:
                return []
            if version != versions[protocol]:
                return Ignored(name, f"stale: made under version {version} of {protocol}")
            if not served:
                return Ignored(name, f"its settings are no longer those of {made_for['cell']} or any other cell")
        metrics = {part: {key: float(value) for key, value in row.items()} for part, row in record["metrics"].items()}
        return [Run(name, cell, spec["variant"], spec["preset"], spec["seed"], metrics) for cell in served]
    except records.RunError as error:
        return Ignored(name, str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return Ignored(name, f"spec.json or record.json lacks or garbles {error}")


def _cells_by_settings(protocols: Iterable[Protocol]) -> dict[str, list[Cell]]:
    index: dict[str, list[Cell]] = defaultdict(list)
    for protocol in protocols:
        for cell in cells(protocol):
            for preset in protocol.presets if cell.method else ():
                try:
                    keys = {_key(settings(cell, preset, 0, variant)) for variant in get_args(Variant)}
                except (DataError, MethodError):
                    break  # its method is not there yet, so neither are runs of it
                for key in keys:
                    index[key].append(cell)
    return index


def _key(spec: Mapping[str, Any]) -> str:
    """What must agree: all settings but the seed; not the fingerprints, which are of the data at hand.

    A user may write 150 where a protocol has 150.0, and leave the validation share out where it is none. A recipe is
    compared without what is at its default, so that a new key with a default leaves old runs what they are.
    """
    kept = {key: value for key, value in spec.items() if key not in ("seed", "weights", "made_for")}
    for part in DATA:
        if isinstance(kept[part], dict):
            kept[part] = {key: value for key, value in kept[part].items() if key != "fingerprint"}
    kept["recipe"] = {key: value for key, value in kept["recipe"].items() if value != DEFAULTS.get(key, MISSING)}
    kept["split"]["parameters"] = {"validation": 0, **kept["split"]["parameters"]}
    return records.spec_hash(json.loads(json.dumps(kept), parse_int=float))
