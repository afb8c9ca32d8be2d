"""From what a user or a protocol asks for to a fully resolved run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from ferbench.bench import records
from ferbench.bench.backbones import WHERE_TO_GET, Classifier, WeightsError, load_weights
from ferbench.bench.data.faceset import FaceSet
from ferbench.bench.data.options import Value, resolve_options
from ferbench.bench.data.readers import find_reader, open_dataset
from ferbench.bench.data.splits import Split, make_split
from ferbench.bench.train import Run
from ferbench.methods import Variant, option_values
from ferbench.protocols import REST, Cell, Recipe


@dataclass
class Workspace:
    """Where things are on the user's machine; data sets and splits are opened once and kept."""

    results: Path
    cache: Path
    roots: Mapping[str, Path] = field(default_factory=dict)  # data set -> folder of the user's copy
    weights: Mapping[str, Path] = field(default_factory=dict)  # name in a recipe -> weight file
    _faces: dict[str, FaceSet] = field(default_factory=dict)

    def faces(self, reader: str, options: Mapping[str, Value]) -> FaceSet:
        """The data set under these options. Raises DataError."""
        key = records.spec_hash({"reader": reader, "options": dict(options)})
        if key not in self._faces:
            self._faces[key] = open_dataset(reader, options, root=self.roots.get(reader), cache=self.cache)
        return self._faces[key]

    def weight_file(self, name: str) -> Path | None:
        """The file of pre-trained weights a recipe names; None for "none". Raises WeightsError, never falls back."""
        if name == "none":
            return None
        if name not in self.weights:
            source = WHERE_TO_GET.get(name, "the paper says which")
            raise WeightsError(f"this recipe starts from weights '{name}'; give --weights {name}=FILE ({source})")
        return self.weights[name]

    def folder(self, run: Run) -> Path:
        return self.results / "runs" / records.run_id(run.spec)


def resolve_cell(cell: Cell, preset: str, seed: int, workspace: Workspace, variant: Variant | None = None) -> Run:
    """The run of one cell and seed. Raises DataError, MethodError, WeightsError or ProtocolError, each one line."""
    recipe = cell.recipe(preset)
    chosen = variant or cast(Variant, cell.variant)
    faces = _open(cell, cell.dataset, workspace)
    test = _open(cell, cell.test, workspace)
    others = [name for name in cell.unlabelled if name != REST]
    other = _open(cell, others[0], workspace) if others else None
    parameters = {key: value for key, value in cell.split.options.items() if value not in (None, {})}
    split = make_split(faces, cell.split.kind, {**parameters, "validation": cell.split.validation}, seed)
    protocol = cell.protocol
    names = {"table": cell.table.id, "row": cell.row.id, "column": cell.column.id}
    return make_run(
        {"protocol": {"name": protocol.name, "version": protocol.version, "hash": protocol.hash}, **names},
        cell.method, cell.options, chosen, recipe, preset, seed, faces, split, test, other, workspace,
    )  # fmt: skip


def make_run(
    origin: Mapping[str, Any],
    method: str,
    options: Mapping[str, object],
    variant: Variant,
    recipe: Recipe,
    preset: str,
    seed: int,
    faces: FaceSet,
    split: Split,
    test: FaceSet,
    unlabelled: FaceSet | None,
    workspace: Workspace,
) -> Run:
    """Put a run together; `origin` says which protocol's cell it is, empty for a run of one's own."""
    given = dict(options)
    if recipe.joint and "joint" in option_values(method, variant, options):
        given.setdefault("joint", True)
    values = option_values(method, variant, given)
    weights = workspace.weight_file(recipe.weights)
    spec = {
        **origin,
        "method": method,
        "variant": variant,
        "options": values,
        "dataset": identity(faces),
        "test": identity(test),
        "unlabelled": identity(unlabelled) if unlabelled else REST,
        "split": {"kind": split.recipe, "parameters": dict(split.parameters), "fingerprint": split.fingerprint},
        "recipe": asdict(recipe),
        "preset": preset,
        "seed": seed,
        "weights": {"name": recipe.weights, "sha256": _sha256(weights)} if weights else None,
    }
    prepare = partial(_load, path=weights) if weights else None
    return Run(spec, method, values, recipe, seed, faces, split, test, unlabelled, prepare)


def identity(faces: FaceSet) -> dict[str, Any]:
    """A data set in a spec."""
    return {"reader": faces.name, "options": dict(faces.options), "fingerprint": faces.fingerprint}


def check_options(reader: str, options: Mapping[str, Value]) -> None:
    """Raises DataError for an unknown reader, option or value, before any file is looked at."""
    resolve_options(reader, find_reader(reader).options, options)


def _open(cell: Cell, name: str, workspace: Workspace) -> FaceSet:
    dataset = cell.data(name)
    return workspace.faces(dataset.reader, dataset.options)


def _load(model: nn.Module, path: Path) -> str:
    assert isinstance(model, Classifier)
    return load_weights(model, path)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
