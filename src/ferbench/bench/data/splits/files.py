"""Splits as files: written with the paths of their images, and read back against the data set they were drawn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.splits.draw import PARTS, Split, assembled
from ferbench.bench.files import FileError, read_json, reason, write


def write_split(split: Split, faces: FaceSet, path: Path) -> None:
    """Write the split as JSON with the paths of its images, for this machine: some licences forbid passing lists on."""
    document = {
        "recipe": split.recipe,
        "parameters": dict(split.parameters),
        "seed": split.seed,
        "order": "sha256 of seed/path",
        "dataset": split.dataset,
        "dataset_fingerprint": split.dataset_fingerprint,
        "fingerprint": split.fingerprint,
        "requested": dict(split.requested),
        "available": dict(split.available),
        **_written_flips(split, faces),
        **{part: faces.ids[getattr(split, part)].tolist() for part in PARTS},
    }
    try:
        write(path, lambda file: file.write(json.dumps(document, indent=1).encode()))
    except FileError as error:
        raise DataError(f"{error}; name another file for the split") from error


def _written_flips(split: Split, faces: FaceSet) -> dict[str, dict[str, str]]:
    """The labels made wrong, by path; no key where there are none."""
    own = faces.labels[split.labelled]
    rows = np.flatnonzero(own != split.taught)
    flipped = {str(faces.ids[split.labelled[row]]): faces.classes[split.taught[row]] for row in rows}
    return {"flipped": flipped} if flipped else {}


def read_split(path: Path, faces: FaceSet) -> Split:
    """Read a split file against the data set it was made from; raises DataError where they do not fit."""
    try:
        document = read_json(path)
        lists = {part: [str(name) for name in document[part]] for part in PARTS}
        recipe, parameters, seed = document["recipe"], dict(document["parameters"]), int(document["seed"])
        requested, available = dict(document["requested"]), dict(document["available"])
        expected, dataset = document["fingerprint"], document["dataset_fingerprint"]
        flipped = {str(name): faces.classes.index(cls) for name, cls in document.get("flipped", {}).items()}
    except (FileError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not a readable split file ({reason(error)}); write it again") from error
    position = {name: index for index, name in enumerate(faces.ids)}
    missing = [name for part in PARTS for name in lists[part] if name not in position]
    if missing:
        raise DataError(f"{path}: {len(missing)} of its images are not in {faces.name}, first {missing[0]!r}")
    parts = {part: np.array(sorted(position[name] for name in lists[part]), np.int64) for part in PARTS}
    labelled = parts["labelled"]
    own = zip(faces.ids[labelled].tolist(), faces.labels[labelled].tolist(), strict=True)
    taught = np.array([flipped.get(name, label) for name, label in own], np.int64)
    split = assembled(faces, recipe, parameters, seed, requested, available, parts, taught)
    if split.fingerprint != expected:
        raise DataError(f"{path}: its labels or lists differ from when it was written (another label rule?)")
    if dataset != faces.fingerprint:
        raise DataError(f"{path}: was drawn from another copy of {faces.name}, or under other options; draw it again")
    return split
