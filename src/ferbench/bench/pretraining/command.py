"""`ferbench pretrain`: from faces without labels to a weight file that recipes can start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.pretraining.pretrain import pretrain
from ferbench.bench.pretraining.settings import Settings
from ferbench.bench.pretraining.state import Pretraining, resolve
from ferbench.bench.tables.running.claims import claimed, holder
from ferbench.bench.tables.runs import Workspace
from ferbench.bench.tables.settings import describe
from ferbench.bench.training import processes
from ferbench.bench.training.progress import Reporter
from ferbench.bench.training.recording import records
from ferbench.bench.training.recording.standing import finished
from ferbench.protocols import Dataset, PretrainingRecipe, ProtocolError, load_protocol
from ferbench.validation import Value, build

FACES = "faces"  # the reader of a folder of images without labels


def resolve_command(
    objective: str, dataset: str, faces: Path | None, options: Mapping[str, object], data_options: Mapping[str, Value],
    settings: Mapping[str, object], seed: int, released: bool, workspace: Workspace, recipe: str = "",
    weights: Path | None = None,
) -> Pretraining:  # fmt: skip
    """What the command line asks for as a run. dataset: names of readers, parted by commas, may be empty.

    recipe: name or path of the protocol whose pre-training recipe of this objective holds where nothing else is said:
    settings, options and, with neither data sets nor faces, the data sets. weights: a file to go on from.

    Raises DataError, MethodError, ProtocolError or WeightsError, each one line.
    """
    base, start, known = _recipe(recipe, objective)
    asked = [(name, data_options) for name in dataset.split(",") if name] + ([(FACES, data_options)] if faces else [])
    asked = asked or [(known[name].reader, {**known[name].options, **data_options}) for name in base.datasets]
    if not asked:
        raise DataError("nothing to pre-train on: give --dataset NAME[,NAME...] or --faces FOLDER")
    if faces:
        workspace.roots = {**workspace.roots, FACES: faces}
    chosen = build(Settings, {**asdict(start), **settings}, "--set", ProtocolError)
    data = [_opened(name, given, workspace) for name, given in asked]
    return resolve(objective, {**base.options, **options}, chosen, data, seed, released=released, start=weights)


def _recipe(name: str, objective: str) -> tuple[PretrainingRecipe, Settings, Mapping[str, Dataset]]:
    """A protocol's recipe for this objective, its settings complete, and the data sets it may name.

    The defaults alone without a name. Raises ProtocolError for a protocol, a recipe or a setting that is none.
    """
    if not name:
        return PretrainingRecipe(), Settings(), {}
    protocol = load_protocol(name)
    if objective not in protocol.pretraining:
        there = ", ".join(protocol.pretraining) or "none"
        raise ProtocolError(f"{protocol.name} has no pre-training recipe for '{objective}'; it has: {there}")
    found = protocol.pretraining[objective]
    where = f"{protocol.path}.pretraining.{objective}.settings"
    return found, build(Settings, {**asdict(Settings()), **found.settings}, where, ProtocolError), protocol.datasets


def _opened(name: str, options: Mapping[str, Value], workspace: Workspace) -> tuple[Mapping[str, Any], FaceSet]:
    return describe(name, options), workspace.faces(name, options)


def run_command(
    run: Pretraining, results: Path, out: Path | None, reporter: Reporter, parts: int = 1
) -> dict[str, Any]:
    """Train what is not finished, copy the weights to `out`; returns the record. Raises RunError for a run in work."""
    folder = results / "pretrained" / run.name
    with claimed(folder) as free:
        if not free:
            raise records.RunError(f"{folder}: {holder(folder)} is working on this run")
        if not processes.agreed(finished(folder)):
            pretrain(run, folder, reporter=reporter, parts=parts)
    if processes.rank() > 0:
        return {}
    if out:
        content = (folder / "weights.pt").read_bytes()
        records.write(out, lambda file: file.write(content))
    return records.read_json(folder / "record.json")


def summary(run: Pretraining, record: Mapping[str, Any], results: Path, out: Path | None) -> Sequence[str]:
    """What to say at the end."""
    folder = results / "pretrained" / run.name
    size = run.settings.input_size
    lines = [f"{run.name}: loss {record['loss']:.4f} after {record['steps']} steps ({record['seconds']:.0f} s)"]
    lines.append(f"weights of {run.settings.backbone} at {size} pixels: {out or folder / 'weights.pt'}")
    if (folder / "panels.png").exists():
        lines.append(f"picture: {folder / 'panels.png'}")
    return lines
