"""Which images are labelled, unlabelled, held out and tested: drawn from a seed, written out, read back.

Within a class images are ordered by the SHA-256 of "seed/path", so a split depends on the seed and the paths alone: not
on a random number generator's version, the machine, or the order of files. A larger labelled set of one seed contains
the smaller one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError, FaceSet

Indices = NDArray[np.int64]
Parameters = Mapping[str, float | int | Mapping[str, int]]
PARTS = ("labelled", "unlabelled", "validation", "test")

RECIPES = {"long_tailed": ("n1", "gamma"), "balanced": ("per_class",), "fraction": ("fraction",), "full": ()}
OPTIONAL = {"balanced": ("exceptions", "validation")}  # any other recipe: validation alone
RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "n1": (lambda value: value >= 1 and float(value).is_integer(), "a whole number from 1"),
    "gamma": (lambda value: value >= 1, "at least 1"),
    "per_class": (lambda value: value >= 1 and float(value).is_integer(), "a whole number from 1"),
    "fraction": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "validation": (lambda value: 0 <= value < 1, "from 0 to below 1"),
}


@dataclass(frozen=True)
class Split:
    """Disjoint sorted positions in a FaceSet, and what made them.

    requested and available: images per class name asked for as labelled (validation included) and there to be had.
    """

    labelled: Indices
    unlabelled: Indices
    validation: Indices
    test: Indices
    recipe: str
    parameters: Parameters
    seed: int
    dataset: str
    dataset_fingerprint: str
    requested: Mapping[str, int]
    available: Mapping[str, int]
    fingerprint: str


def long_tailed_counts(sizes: Mapping[str, int], n1: int, gamma: float) -> dict[str, int]:
    """N_k = n1 * gamma^(-(k-1)/(K-1)), truncated, classes by falling size and ties by name (ReMoP, Sec. 5.1)."""
    order = sorted(sizes, key=lambda name: (-sizes[name], name))
    last = len(order) - 1
    # The small addend keeps exact values such as 1000 / 10 from falling one short through rounding of the power.
    return {name: int(n1 * float(gamma) ** (-rank / last) + 1e-9) for rank, name in enumerate(order)}


def requested_counts(recipe: str, parameters: Parameters, sizes: Mapping[str, int]) -> dict[str, int]:
    """Labelled images per class for a recipe: long_tailed (n1, gamma), balanced (per_class), fraction, full.

    `exceptions` of a balanced split gives some classes another count (Ada-CM has fewer labels for fear). A fraction is
    rounded half to even, at least one. Raises DataError for a recipe, parameter or value that is none.
    """
    exceptions = _check_parameters(recipe, parameters, sizes)
    numbers = {name: value for name, value in parameters.items() if not isinstance(value, Mapping)}
    if recipe == "long_tailed":
        return long_tailed_counts(sizes, int(numbers["n1"]), float(numbers["gamma"]))
    if recipe == "balanced":
        return {name: exceptions.get(name, int(numbers["per_class"])) for name in sizes}
    if recipe == "fraction":
        return {name: max(1, round(float(numbers["fraction"]) * size)) for name, size in sizes.items()}
    return dict(sizes)


def _check_parameters(recipe: str, parameters: Parameters, sizes: Mapping[str, int]) -> Mapping[str, int]:
    """The checked exceptions of a balanced split; DataError for anything that does not belong."""
    if recipe not in RECIPES:
        raise DataError(f"unknown split recipe '{recipe}'; valid: {', '.join(RECIPES)}, or a split file")
    needed, allowed = RECIPES[recipe], (*RECIPES[recipe], *OPTIONAL.get(recipe, ("validation",)))
    wrong = [f"needs '{name}'" for name in needed if name not in parameters]
    wrong += [f"does not take '{name}' (takes {', '.join(allowed)})" for name in parameters if name not in allowed]
    for name, value in parameters.items():
        if name in RANGES and (isinstance(value, Mapping) or not RANGES[name][0](value)):
            wrong.append(f"{name} must be {RANGES[name][1]}, not {value}")
    exceptions = parameters.get("exceptions", {})
    if not isinstance(exceptions, Mapping):
        wrong.append(f"exceptions must give counts by class, not {exceptions}")
        exceptions = {}
    wrong += [f"excepts '{name}', which is no class ({', '.join(sizes)})" for name in exceptions if name not in sizes]
    if wrong:
        raise DataError(f"split {recipe}: {'; '.join(wrong)}")
    return exceptions


def make_split(faces: FaceSet, recipe: str, parameters: Parameters, seed: int) -> Split:
    """Draw the labelled set, hold `validation` (a fraction of it, per class) out, leave the rest unlabelled.

    Raises DataError with the list of classes when a class has too few images, or gets none.
    """
    sizes = faces.class_counts(faces.train)
    requested = requested_counts(recipe, parameters, sizes)
    short = [f"{name} {requested[name]}/{sizes[name]}" for name in faces.classes if requested[name] > sizes[name]]
    if short:
        raise DataError(
            f"{faces.name}: too few training images for split {recipe} {dict(parameters)} (asked/there): "
            f"{', '.join(short)}; ask for fewer labels"
        )
    empty = [name for name in faces.classes if requested[name] < 1]
    if empty:
        raise DataError(f"{faces.name}: split {recipe} {dict(parameters)} leaves no label for {', '.join(empty)}")
    held_out = parameters.get("validation", 0.0)
    assert not isinstance(held_out, Mapping)
    labelled, validation = _draw(faces, requested, held_out, seed)
    unlabelled = np.setdiff1d(faces.train, np.concatenate([labelled, validation]))
    return _checked(
        faces, recipe, parameters, seed, requested, sizes,
        {"labelled": labelled, "unlabelled": unlabelled, "validation": validation, "test": np.sort(faces.test)},
    )  # fmt: skip


def _draw(faces: FaceSet, requested: Mapping[str, int], held_out: float, seed: int) -> tuple[Indices, Indices]:
    labelled, validation = [], []
    for code, name in enumerate(faces.classes):
        members = faces.train[faces.labels[faces.train] == code]
        order = sorted(members, key=lambda index: hashlib.sha256(f"{seed}/{faces.ids[index]}".encode()).digest())
        chosen = order[: requested[name]]
        held = min(round(held_out * len(chosen)), len(chosen) - 1)
        validation += chosen[:held]
        labelled += chosen[held:]
    return np.sort(np.array(labelled, np.int64)), np.sort(np.array(validation, np.int64))


def _checked(
    faces: FaceSet,
    recipe: str,
    parameters: Parameters,
    seed: int,
    requested: Mapping[str, int],
    available: Mapping[str, int],
    parts: Mapping[str, Indices],
) -> Split:
    everything = np.concatenate([parts[part] for part in PARTS])
    if len(np.unique(everything)) != len(everything):
        raise DataError(f"{faces.name}: labelled, unlabelled, validation and test images overlap in split {recipe}")
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(f"{part}\n".encode() + "\n".join(faces.ids[parts[part]]).encode() + b"\n")
    digest.update(faces.labels[parts["labelled"]].astype("<i8").tobytes())
    return Split(
        **{part: parts[part] for part in PARTS},
        recipe=recipe,
        parameters=dict(parameters),
        seed=seed,
        dataset=faces.name,
        dataset_fingerprint=faces.fingerprint,
        requested=dict(requested),
        available=dict(available),
        fingerprint=digest.hexdigest(),
    )


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
        **{part: faces.ids[getattr(split, part)].tolist() for part in PARTS},
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1))
    temporary.replace(path)


def read_split(path: Path, faces: FaceSet) -> Split:
    """Read a split file against the data set it was made from; raises DataError where they do not fit."""
    try:
        document = json.loads(path.read_text())
        lists = {part: [str(name) for name in document[part]] for part in PARTS}
        recipe, parameters, seed = document["recipe"], dict(document["parameters"]), int(document["seed"])
        requested, available = dict(document["requested"]), dict(document["available"])
        expected, dataset = document["fingerprint"], document["dataset_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable split file ({error!r}); write it again") from error
    position = {name: index for index, name in enumerate(faces.ids)}
    missing = [name for part in PARTS for name in lists[part] if name not in position]
    if missing:
        raise DataError(f"{path}: {len(missing)} of its images are not in {faces.name}, first {missing[0]!r}")
    parts = {part: np.array(sorted(position[name] for name in lists[part]), np.int64) for part in PARTS}
    split = _checked(faces, recipe, parameters, seed, requested, available, parts)
    if split.fingerprint != expected:
        raise DataError(f"{path}: its labels or lists differ from when it was written (another label rule?)")
    if dataset != faces.fingerprint:
        raise DataError(f"{path}: was drawn from another copy of {faces.name}, or under other options; draw it again")
    return split
