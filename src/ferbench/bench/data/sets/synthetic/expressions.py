"""Expressions of the synthetic faces as action units, and the simulated annotators who read them.

An action unit is a number from 0 (relaxed) to 1 (full). The prototypes follow the EMFACS tables (Ekman and Friesen,
Facial Action Coding System, Investigator's Guide, 1978), two per expression.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
UNITS = (
    "inner_brow", "outer_brow", "brow_lower", "lid_raise", "cheek_raise", "lid_tighten", "nose_wrinkle", "upper_lip",
    "corner_pull", "one_corner", "corner_depress", "chin_raise", "lip_stretch", "lip_tighten", "lip_part", "jaw_drop",
)  # fmt: skip
ANNOTATORS = 10

_FORMS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "neutral": ({}, {}),
    "happiness": (
        dict(cheek_raise=0.9, corner_pull=1.0, lip_part=0.8, jaw_drop=0.15),
        dict(cheek_raise=0.7, corner_pull=0.9),
    ),
    "surprise": (
        dict(inner_brow=1.0, outer_brow=1.0, lid_raise=0.8, lip_part=0.8, jaw_drop=1.0),
        dict(inner_brow=0.9, outer_brow=1.0, lid_raise=0.7, lip_part=0.5, jaw_drop=0.5),
    ),
    "sadness": (
        dict(inner_brow=1.0, brow_lower=0.3, corner_depress=1.0, chin_raise=0.5, lid_tighten=0.4),
        dict(inner_brow=0.7, corner_depress=0.8, lid_tighten=0.6),
    ),
    "anger": (
        dict(brow_lower=1.0, lid_raise=0.3, lid_tighten=0.5, lip_tighten=1.0, chin_raise=0.4),
        dict(brow_lower=1.0, lid_raise=0.5, lip_stretch=0.4, upper_lip=0.3, lip_part=0.9, jaw_drop=0.4),
    ),
    "disgust": (
        dict(nose_wrinkle=1.0, upper_lip=0.8, brow_lower=0.5, lid_tighten=0.6, lip_part=0.4),
        dict(nose_wrinkle=0.7, upper_lip=1.0, corner_depress=0.6, chin_raise=0.5, cheek_raise=0.4),
    ),
    "fear": (
        dict(inner_brow=1.0, outer_brow=0.4, brow_lower=0.6, lid_raise=1.0, lip_stretch=1.0, lip_part=0.7),
        dict(inner_brow=0.9, outer_brow=0.4, lid_raise=1.0, lip_stretch=0.7, lip_part=0.7, jaw_drop=0.5),
    ),
    "contempt": (
        dict(one_corner=1.0, lid_tighten=0.4),
        dict(one_corner=0.9, outer_brow=0.3, chin_raise=0.3),
    ),
}
PROTOTYPES: Floats = np.array([[[form.get(unit, 0.0) for unit in UNITS] for form in _FORMS[name]] for name in CLASSES])

_TAKEN_FOR = {
    "neutral": "sadness", "happiness": "surprise", "surprise": "fear", "sadness": "neutral", "anger": "disgust",
    "disgust": "anger", "fear": "surprise", "contempt": "happiness",
}  # fmt: skip
_BLENDED_WITH = np.array([CLASSES.index(_TAKEN_FOR[name]) for name in CLASSES])
_WEAKEST, _STRONGEST = 0.55, 1.2  # intensities an annotator allows for: anything weaker starts to look neutral


class Cast(NamedTuple):
    """N performances: class shown [N], action units [N, 16], intensity [N], votes [N, K] of the annotators."""

    truth: NDArray[np.int64]
    units: Floats
    intensity: Floats
    votes: Floats


def cast_faces(counts: NDArray[np.int64], rng: np.random.Generator) -> Cast:
    """Performances of which most annotators called `counts[k]` class k, in a random order.

    They are drawn and voted on in rounds, in proportion to the labels still missing, and kept while their label is.
    """
    kept: list[Cast] = []
    missing = counts.copy()
    while missing.any():
        wanted = np.cumsum(missing)
        drawn = (rng.random(wanted[-1] + 16) * wanted[-1]).astype(np.int64)
        truth = np.searchsorted(wanted, drawn, side="right").astype(np.int64)
        units, intensity = act(truth, rng.random((len(truth), 4 + len(UNITS))))
        shape = (len(truth), ANNOTATORS, len(UNITS))
        votes = annotate(units, 0.5 * (rng.random(shape) + rng.random(shape) - 1), len(counts))
        labels = np.argmax(votes, axis=1)
        rank = np.cumsum(labels[:, None] == np.arange(len(counts)), axis=0)[np.arange(len(labels)), labels]
        keep = rank <= missing[labels]
        kept.append(Cast(truth[keep], units[keep], intensity[keep], votes[keep]))
        missing -= np.bincount(labels[keep], minlength=len(counts))
    order = np.argsort(rng.random(counts.sum()), kind="stable")
    return Cast(*(np.concatenate(field)[order] for field in zip(*kept, strict=True)))


def act(truth: NDArray[np.int64], uniform: Floats) -> tuple[Floats, Floats]:
    """Action units [N, 16] and intensity [N] of faces that show the classes `truth` [N].

    uniform: [N, 20] numbers in [0, 1). A third of the faces blend in up to half of the class theirs is taken for, and
    every unit wanders a little, also on a neutral face.
    """
    form = (uniform[:, 0] < 0.45).astype(np.int64)
    intensity = 0.3 + 0.75 * uniform[:, 1]
    blend = np.where(uniform[:, 2] < 0.35, 0.55 * uniform[:, 3], 0.0)[:, None]
    prototype = (1 - blend) * PROTOTYPES[truth, form] + blend * PROTOTYPES[_BLENDED_WITH[truth], form]
    wander, strength = 0.3 * (uniform[:, 4:] - 0.5), 0.75 + 0.5 * uniform[:, :3:-1]
    return np.minimum(np.maximum(intensity[:, None] * strength * prototype + wander, 0.0), 1.15), intensity


def annotate(units: Floats, errors: Floats, classes: int) -> Floats:
    """Votes [N, classes] of ten annotators on faces with action units [N, 16]; each row sums to ten.

    Each annotator sees every unit with an error of its own (`errors` [N, 10, 16]) and names the class whose prototype,
    at its best-fitting intensity, lies nearest: weak faces go to neutral, and blends divide the vote.
    """
    votes = np.zeros((len(units), classes))
    rows = np.arange(len(units))
    for annotator in range(ANNOTATORS):
        distance = np.min(_distance(units + errors[:, annotator], PROTOTYPES[:classes]), axis=2)
        votes[rows, np.argmin(distance, axis=1)] += 1
    return votes


def _distance(seen: Floats, prototypes: Floats) -> Floats:
    """Squared distance [N, K, 2] of `seen` [N, 16] to the prototypes [K, 2, 16] at best intensity, less |seen|^2.

    The sums run unit by unit: a library's reduction may add in another order on another processor and change a vote.
    """
    overlap = np.zeros((len(seen), *prototypes.shape[:2]))
    norm = np.zeros(prototypes.shape[:2])
    for unit in range(len(UNITS)):
        overlap += seen[:, unit, None, None] * prototypes[None, :, :, unit]
        norm += prototypes[:, :, unit] * prototypes[:, :, unit]
    intensity = np.minimum(np.maximum(overlap / np.maximum(norm, 1e-9), _WEAKEST), _STRONGEST)
    distance: Floats = intensity * (intensity * norm - 2 * overlap)
    return distance
