"""From what a user or a protocol asks for to a fully resolved run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.reading.reader import Progress
from ferbench.bench.data.sets.readers import open_dataset
from ferbench.bench.data.splits.draw import Split, make_split, with_taught_labels
from ferbench.bench.data.splits.pool import Pool, as_unlabelled, for_testing, make_pool
from ferbench.bench.data.views.boxes import without_boxes
from ferbench.bench.tables.candidate_sets import resolve_candidates
from ferbench.bench.tables.settings import folds_of, settings, sources
from ferbench.bench.training.length import fitted
from ferbench.bench.training.networks.backbones import (
    WHERE_TO_GET,
    Classifier,
    WeightsError,
    load_weights,
    weights_digest,
)
from ferbench.bench.training.recording import records
from ferbench.bench.training.stages import Start, load_stage
from ferbench.bench.training.state import Run
from ferbench.methods import Variant, needs_boxes
from ferbench.protocols import REST, Cell, Recipe
from ferbench.validation import Value

FULL = ("paper", "paper-bf16", "released")  # presets that are a recipe to the letter, or refuse


@dataclass
class Workspace:
    """Where things are on the user's machine; data sets and splits are opened once and kept.

    opened: reader and options of each data set that was opened, by the hash of the two
    """

    results: Path
    cache: Path
    roots: Mapping[str, Path] = field(default_factory=dict)  # data set -> folder of the user's copy
    weights: Mapping[str, Path] = field(default_factory=dict)  # name in a recipe -> weight file
    progress: Progress | None = None  # told of images that are decoded or searched for faces
    opened: dict[str, tuple[str, Mapping[str, Value]]] = field(default_factory=dict)
    _faces: dict[str, FaceSet] = field(default_factory=dict)
    _splits: dict[str, Split] = field(default_factory=dict)

    def faces(self, reader: str, options: Mapping[str, Value]) -> FaceSet:
        """The data set under these options. Raises DataError."""
        key = faces_key(reader, options)
        self.opened.setdefault(key, (reader, dict(options)))
        if key not in self._faces:
            self._faces[key] = open_dataset(
                reader, options, root=self.roots.get(reader), cache=self.cache, progress=self.progress
            )
        return self._faces[key]

    def split(self, faces: FaceSet, kind: str, parameters: Mapping[str, Any], seed: int) -> Split:
        """The split of a data set, drawn once however many runs need it. Raises DataError."""
        asked = {"data": faces.fingerprint, "kind": kind, "parameters": dict(parameters), "seed": seed}
        key = records.spec_hash(asked)
        if key not in self._splits:
            self._splits[key] = make_split(faces, kind, parameters, seed)
        return self._splits[key]

    def weight_file(self, name: str) -> Path | None:
        """The file of pre-trained weights a recipe names; None for "none". Raises WeightsError, never falls back."""
        if name == "none":
            return None
        if name not in self.weights:
            source = WHERE_TO_GET.get(name, "the paper says which")
            raise WeightsError(f"this recipe starts from weights '{name}'; give --weights {name}=FILE ({source})")
        return self.weights[name].expanduser()

    def folder(self, run: Run) -> Path:
        return self.results / "runs" / records.run_id(run.spec)


def faces_key(reader: str, options: Mapping[str, Value]) -> str:
    """A hash that says which data set is opened."""
    return records.spec_hash({"reader": reader, "options": dict(options)})


def resolve_cell(cell: Cell, preset: str, seed: int, workspace: Workspace, variant: Variant | None = None) -> Run:
    """The run of one cell and seed. Raises DataError, MethodError, WeightsError or ProtocolError, each one line."""
    chosen = settings(cell, preset, seed, variant)
    faces = _open(cell, cell.dataset, workspace)
    test = _open(cell, cell.test, workspace)
    split = workspace.split(faces, cell.split.kind, chosen["split"]["parameters"], seed)
    other = _open_unlabelled(cell, faces, split, workspace)
    protocol = cell.protocol
    made_for = {"protocol": protocol.name, "version": protocol.version, "hash": protocol.hash, "cell": cell.id}
    before = resolve_cell(cell.before, preset, seed, workspace, variant) if cell.before else None
    start = Start(workspace.folder(before), records.spec_hash(before.spec)) if before else None
    scorers = tuple(resolve_cell(other, preset, seed, workspace) for other in cell.scored_by(folds_of(chosen)))
    spec = {**chosen, "made_for": made_for}
    run = make_run(spec, cell.recipe(preset), faces, split, test, other, workspace, start, scorers)
    if preset in FULL and (line := boxes_warning(run)):
        raise DataError(line)
    return replace(run, before=before)


def boxes_warning(run: Run) -> str | None:
    """A line where the run's method looks at face boxes and its data has none that say where the face is."""
    return without_boxes(run.faces, run.split.labelled) if needs_boxes(run.method, run.values) else None


def make_run(
    spec: records.Spec,
    recipe: Recipe,
    faces: FaceSet,
    split: Split,
    test: FaceSet,
    unlabelled: FaceSet | Pool | None,
    workspace: Workspace,
    start: Start | None = None,
    scorers: Sequence[Run] = (),
) -> Run:
    """Put a run together from settings and data; the data's fingerprints and the weights' hash join the spec.

    start: the run whose final weights stand in place of the recipe's; scorers: the runs whose predictions make the
    candidate sets, where some do
    """
    taught = with_taught_labels(faces, split)
    faces, test = taught, taught if test is faces else for_testing(test, faces.classes)
    if not len(split.test if test is faces else test.test):
        raise DataError(f"{test.name} has no test images under these options; choose a kfold split or other test_parts")
    rest = unlabelled.train if unlabelled else split.unlabelled
    # the spec keeps what the protocol says
    recipe = fitted(recipe, len(split.labelled), len(rest), len(split.validation))
    weights = None if start else workspace.weight_file(recipe.weights)
    spec = dict(spec)
    for part, data in (("dataset", faces), ("test", test), ("unlabelled", unlabelled)):
        if data is not None:
            spec[part] = {**spec[part], **data.identity()}
    spec["split"] = {**spec["split"], "fingerprint": split.fingerprint}
    spec["weights"] = {"name": recipe.weights, "sha256": weights_digest(weights)} if weights else None
    prepare = partial(_load, path=weights) if weights else partial(load_stage, start=start) if start else None
    if start:
        spec["after"] = {**spec.get("after", {}), "hash": start.hash}
    scored = [(scorer, workspace.folder(scorer)) for scorer in scorers]
    candidates, made = resolve_candidates(spec, faces, split, scored)
    spec |= candidates
    return Run(
        spec, spec["method"], spec["options"], recipe, spec["seed"], faces, split, test, unlabelled, prepare,
        (lambda: made()[0]) if made else None, scorers=tuple(scorers),
        about_candidates=(lambda: made()[1]) if made else None,
    )  # fmt: skip


def _open_unlabelled(cell: Cell, faces: FaceSet, split: Split, workspace: Workspace) -> FaceSet | Pool | None:
    """What stands in place of the images that the split leaves over; None where those are meant, or none at all."""
    if cell.unlabelled in ((), (REST,)):
        return None
    parts = [
        (faces, split.unlabelled) if name == REST else ((other := _open(cell, name, workspace)), other.train)
        for name in sources(cell)
    ]
    return make_pool(parts, faces.classes) if len(parts) > 1 else as_unlabelled(parts[0][0], faces.classes)


def _open(cell: Cell, name: str, workspace: Workspace) -> FaceSet:
    dataset = cell.data(name)
    return workspace.faces(dataset.reader, dataset.options)


def _load(model: nn.Module, path: Path) -> str:
    assert isinstance(model, Classifier)
    return load_weights(model, path)
