"""Which images are labelled, unlabelled, held out and tested: drawn from a seed.

Within a class images are ordered by the SHA-256 of "seed/path", so a split depends on the seed and the paths alone: not
on a random number generator's version, the machine, or the order of files. A larger labelled set of one seed contains
the smaller one. Folds are scikit-learn's, over the images in the order of their paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.splits.counts import Parameters, check_parameters, requested_counts

Indices = NDArray[np.int64]
PARTS = ("labelled", "unlabelled", "validation", "test")
FOLD_SEED = 42  # of the shuffle before folding, as in SSFER's released code


@dataclass(frozen=True)
class Split:
    """Sorted positions in a FaceSet, disjoint (but for `overlap`), and what made them.

    taught: the classes the labelled images are taught with; the data set's own but where `noise` has flipped them.
    requested and available: images per class name asked for as labelled (validation included) and there to be had.
    """

    labelled: Indices
    unlabelled: Indices
    validation: Indices
    test: Indices
    taught: Indices
    recipe: str
    parameters: Parameters
    seed: int
    dataset: str
    dataset_fingerprint: str
    requested: Mapping[str, int]
    available: Mapping[str, int]
    fingerprint: str


def make_split(faces: FaceSet, recipe: str, parameters: Parameters, seed: int) -> Split:
    """Draw the labelled set, hold `validation` (a fraction of it, per class) out, leave the rest unlabelled.

    overlap: the labelled images are unlabelled ones too. noise: this share of the labels is made wrong, each by another
    class drawn uniformly. parts, part: what `without_part` leaves out. Raises DataError with the list of classes when a
    class has too few images, or gets none.
    """
    if not faces.classes:
        raise DataError(f"{faces.name} has no labels to draw from: it can only serve as unlabelled images")
    train, test = _training_and_test(faces, recipe, parameters, seed)
    sizes = faces.class_counts(train)
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
    labelled, validation = _draw(faces, train, requested, float(cast(float, parameters.get("validation", 0.0))), seed)
    used = validation if parameters.get("overlap") else np.concatenate([labelled, validation])
    unlabelled = np.sort(np.setdiff1d(train, used, assume_unique=True))
    whole = assembled(
        faces, recipe, parameters, seed, requested, sizes,
        {"labelled": labelled, "unlabelled": unlabelled, "validation": validation, "test": test},
        _taught(faces, labelled, float(cast(float, parameters.get("noise", 0.0))), seed),
    )  # fmt: skip
    numbers = cast(Mapping[str, int], parameters)
    return without_part(whole, faces, int(numbers["parts"]), int(numbers["part"])) if numbers.get("parts") else whole


def without_part(split: Split, faces: FaceSet, parts: int, part: int) -> Split:
    """`split` less one of `parts` equal parts of its labelled images (`part`, from 1), which are unlabelled in it.

    Each class is dealt out to the parts in the order of the SHA-256 of "part/seed/path". Models that each do without
    another part can score all images without having been fitted to those they score.
    """
    names = faces.ids[split.labelled]
    digests = [hashlib.sha256(f"part/{split.seed}/{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda row: (int(faces.labels[split.labelled[row]]), digests[row]))
    held = np.zeros(len(names), dtype=bool)
    held[order[part - 1 :: parts]] = True
    return assembled(
        faces, split.recipe, {**split.parameters, "parts": parts, "part": part}, split.seed, split.requested,
        split.available,
        {
            "labelled": split.labelled[~held], "unlabelled": np.union1d(split.unlabelled, split.labelled[held]),
            "validation": split.validation, "test": split.test,
        },
        split.taught[~held],
    )  # fmt: skip


def with_taught_labels(faces: FaceSet, split: Split) -> FaceSet:
    """`faces` as the split teaches it: itself where no label was flipped."""
    if np.array_equal(faces.labels[split.labelled], split.taught):
        return faces
    labels = faces.labels.copy()
    labels[split.labelled] = split.taught
    return replace(faces, labels=labels)


def _training_and_test(faces: FaceSet, recipe: str, parameters: Parameters, seed: int) -> tuple[Indices, Indices]:
    """The data set's own training and test images or, for kfold, the other folds of the training images and one fold.

    Which one is `fold` (from 1) or, without it, the seed, taken in turn: the runs of seeds 1 to `folds` test each once.
    Only images with a label are folded.
    """
    if recipe != "kfold":
        return faces.train, np.sort(faces.test)
    check_parameters(recipe, parameters, faces.classes)
    values = cast(Mapping[str, int], parameters)
    folds = int(values["folds"])
    fold = int(values.get("fold", (seed - 1) % folds + 1))
    if fold > folds:
        raise DataError(f"split kfold: there is no fold {fold} of {folds}; they count from 1")
    known = faces.train[faces.labels[faces.train] >= 0]
    if values.get("own_folds"):
        held = _own_fold(faces, known, folds, fold)
    else:
        held = _shuffled_fold(faces, known, folds, fold, int(values.get("fold_seed", FOLD_SEED)))
    return np.sort(np.setdiff1d(faces.train, held, assume_unique=True)), np.sort(held)


def _own_fold(faces: FaceSet, known: Indices, folds: int, fold: int) -> Indices:
    if faces.folds is None:
        raise DataError(f"{faces.name} comes without folds of its own; leave own_folds out")
    numbers = np.unique(faces.folds[known])
    if len(numbers) != folds:
        raise DataError(f"{faces.name} comes in {len(numbers)} folds of its own, not {folds}")
    held: NDArray[np.bool_] = faces.folds[known] == numbers[fold - 1]
    return known[held]


def _shuffled_fold(faces: FaceSet, known: Indices, folds: int, fold: int, seed: int) -> Indices:
    if folds > len(known):
        raise DataError(f"{faces.name}: {len(known)} training images are too few for {folds} folds")
    if not 0 <= seed < 2**32:
        raise DataError(f"split kfold: fold_seed must be from 0 to {2**32 - 1:,}, not {seed}")
    by_path = known[np.argsort(faces.ids[known])]
    _, held = list(KFold(folds, shuffle=True, random_state=seed).split(by_path))[fold - 1]
    return by_path[np.asarray(held, np.int64)]


_RANKS: dict[tuple[str, int], NDArray[np.int64]] = {}
MOST_RANKS = 8  # kept; the splits of a table have few seeds


def _ranks(faces: FaceSet, seed: int) -> NDArray[np.int64]:
    """[N] the place of every image in the order of the SHA-256 of "seed/path", kept for the next split."""
    key = (faces.fingerprint, seed)
    if key not in _RANKS:
        digests = b"".join(hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in faces.ids.tolist())
        words = np.frombuffer(digests, ">u8").reshape(-1, 4)
        rank = np.empty(len(faces.ids), np.int64)
        rank[np.lexsort(words.T[::-1])] = np.arange(len(faces.ids))
        if len(_RANKS) >= MOST_RANKS:
            _RANKS.pop(next(iter(_RANKS)))
        _RANKS[key] = rank
    return _RANKS[key]


def _draw(
    faces: FaceSet, train: Indices, requested: Mapping[str, int], held_out: float, seed: int
) -> tuple[Indices, Indices]:
    labelled: list[int] = []
    validation: list[int] = []
    rank = _ranks(faces, seed)
    for code, name in enumerate(faces.classes):
        members = train[faces.labels[train] == code]
        chosen = members[np.argsort(rank[members])][: requested[name]].tolist()
        held = min(round(held_out * len(chosen)), len(chosen) - 1)
        validation += chosen[:held]
        labelled += chosen[held:]
    return np.sort(np.array(labelled, np.int64)), np.sort(np.array(validation, np.int64))


def _taught(faces: FaceSet, labelled: Indices, noise: float, seed: int) -> Indices:
    """The labels of `labelled`, round(noise * n) of them another class's; a larger share contains the smaller."""
    taught = faces.labels[labelled].copy()
    if noise == 0:
        return taught
    if len(faces.classes) < 2:
        raise DataError(f"{faces.name} has one class: its labels cannot be made wrong")
    digests = [hashlib.sha256(f"noise/{seed}/{faces.ids[index]}".encode()).digest() for index in labelled]
    for row in sorted(range(len(labelled)), key=digests.__getitem__)[: round(noise * len(labelled))]:
        shift = 1 + int.from_bytes(digests[row][16:]) % (len(faces.classes) - 1)  # not of the bytes it was chosen by
        taught[row] = (taught[row] + shift) % len(faces.classes)
    return taught


def assembled(
    faces: FaceSet,
    recipe: str,
    parameters: Parameters,
    seed: int,
    requested: Mapping[str, int],
    available: Mapping[str, int],
    parts: Mapping[str, Indices],
    taught: Indices,
) -> Split:
    """The split of these parts, with its fingerprint; DataError where they overlap."""
    apart = [part for part in PARTS if not (part == "labelled" and parameters.get("overlap"))]
    everything = np.concatenate([parts[part] for part in apart])
    outside = np.concatenate([parts["validation"], parts["test"]])
    if (len(everything) and np.bincount(everything).max() > 1) or np.isin(parts["labelled"], outside).any():
        raise DataError(f"{faces.name}: labelled, unlabelled, validation and test images overlap in split {recipe}")
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(f"{part}\n".encode() + "\n".join(faces.ids[parts[part]]).encode() + b"\n")
    digest.update(taught.astype("<i8").tobytes())
    return Split(
        **{part: parts[part] for part in PARTS},
        taught=taught,
        recipe=recipe,
        parameters=dict(parameters),
        seed=seed,
        dataset=faces.name,
        dataset_fingerprint=faces.fingerprint,
        requested=dict(requested),
        available=dict(available),
        fingerprint=digest.hexdigest(),
    )
