"""Candidate label sets for partial-label learning: the classes among which an image's true one is taken to be.

Source: Wang et al., "Rethinking the Learning Paradigm for Facial Expression Recognition" (PLL-FER), Sec. III-A. The
paper takes the two best predictions of a model for images it calls ambiguous and says neither which model, nor how many
images, nor whether the given label is kept; its abstract speaks of the annotators' own ambiguity. So there are several
makers:

    votes_multi_target  FER+'s multi-target rule over the votes: every class with at least 30 % of them
    votes_probability   FER+'s probability rule: classes by falling votes until 75 % are covered, at most three
    topk_model          the k best predictions of a softmax model, for ambiguous images
    uniform_flip        each wrong class joins with probability q: the synthetic sets of the partial-label papers
    confusion_flip      the same with probabilities that follow how often two expressions are confused

The predictions are out of fold: the labelled images are dealt out to `folds` parts, and each part is scored by a model
that was trained on the others. A model that scores the images it was fitted to (`folds=1`) learns their labels by
heart: its best prediction is the label nearly everywhere, and few images are ambiguous. `length` trains the models for
less than the recipe's epochs, and `figures` say what came of it.

Legend: N images of the data set, n training images, K classes. Every set holds the image's given label, but for
topk_model with literal=true. An image the rule discards, or whose kept classes are not in the set's classes, has its
label alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.sets.ferplus.labels import CLASSES, COLUMNS, decide
from ferbench.validation import Option, Value, resolve_options

Sets = NDArray[np.bool_]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """What a maker is asked for: sets of the images at `index` [n]; scores [n, K] are a model's probabilities."""

    faces: FaceSet
    index: NDArray[np.int64]
    options: Mapping[str, Value]
    seed: int
    scores: Scores | None

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.faces.labels[self.index]


@dataclass(frozen=True)
class Maker:
    """A kind of candidate sets: its options, and from a request to sets [n, K]."""

    options: Mapping[str, Option]
    make: Callable[[Request], Sets]


def candidate_options(kind: str, given: Mapping[str, Value]) -> dict[str, Value]:
    """Every option of this kind of candidate sets, checked. Raises DataError."""
    if kind not in MAKERS:
        raise DataError(f"unknown candidate sets '{kind}'; valid: {', '.join(MAKERS)}")
    values = resolve_options(f"candidates {kind}", MAKERS[kind].options, given, DataError)
    for key, (valid, wording) in RANGES.items():
        if key in values and not valid(float(values[key])):
            raise DataError(f"candidates {kind}: {key} must be {wording}, not {values[key]}")
    return values


def needs_model(kind: str, options: Mapping[str, Value]) -> bool:
    """Whether these sets are made from a trained model's predictions."""
    return kind == "topk_model" or options.get("source") == "model"


def make_candidates(
    faces: FaceSet,
    index: NDArray[np.int64],
    kind: str,
    options: Mapping[str, Value],
    seed: int,
    scores: Scores | None = None,
) -> Sets:
    """Candidate sets [N, K]; all False for images that are not at `index`, the training images [n].

    scores: [n, K] probabilities by a trained model, for the kinds of which `needs_model` is true. Raises DataError.
    """
    values = candidate_options(kind, options)
    classes = len(faces.classes)
    if int(values.get("k", 1)) > classes:
        raise DataError(f"candidates {kind}: k={values['k']}, but {faces.name} has {classes} classes")
    if needs_model(kind, values) and (scores is None or scores.shape != (len(index), classes)):
        raise DataError(f"candidates {kind} needs a model's scores of the {len(index)} training images")
    sets = MAKERS[kind].make(Request(faces, index, values, seed, scores))
    given = np.eye(classes, dtype=bool)[faces.labels[index]]
    keep_given = ~sets.any(axis=1, keepdims=True) if values.get("literal") else True
    result = np.zeros((len(faces.labels), classes), dtype=bool)
    result[index] = sets | (given & keep_given)
    return result


def figures(
    faces: FaceSet, index: NDArray[np.int64], sets: Sets, options: Mapping[str, Value], scores: Scores | None = None
) -> dict[str, float]:
    """What the sets [N, K] of the images at `index` [n] are like.

    ambiguous: percent with more than one class; classes: their mean number. From a model's k best, given_in_top_k:
    percent of all images whose given label is among these, whether or not it stands in the set.
    """
    sizes = sets[index].sum(axis=1)
    result = {"ambiguous": 100 * float(np.mean(sizes > 1)), "classes": float(np.mean(sizes))}
    if scores is not None and "k" in options:
        best = np.argsort(-scores, axis=1, kind="stable")[:, : int(options["k"])]
        result["given_in_top_k"] = 100 * float(np.mean((best == faces.labels[index][:, None]).any(axis=1)))
    return {name: round(value, 4) for name, value in result.items()}


def fingerprint(faces: FaceSet, index: NDArray[np.int64], sets: Sets) -> str:
    """SHA-256 (hex) over the paths of the images at `index` and their sets."""
    digest = hashlib.sha256("\0".join(faces.ids[index].tolist()).encode())
    digest.update(np.packbits(sets[index], axis=1).tobytes())
    return digest.hexdigest()


def _votes(rule: str) -> Callable[[Request], Sets]:
    def make(request: Request) -> Sets:
        targets = decide(_ballots(request.faces)[request.index], rule).targets
        return np.asarray(targets[:, : len(request.faces.classes)] > 0)

    return make


def _ballots(faces: FaceSet) -> NDArray[np.integer]:
    """Votes [N, 10] in FER+'s columns: eight classes, "unknown", "NF"."""
    if faces.ballots is not None:
        return faces.ballots
    if faces.votes is None or len(faces.classes) > len(CLASSES):
        raise DataError(f"{faces.name} has no annotators' votes; candidates: topk_model, uniform_flip")
    padded = np.zeros((len(faces.votes), len(COLUMNS)), dtype=np.int64)
    padded[:, : len(faces.classes)] = faces.votes
    return padded


def _topk(request: Request) -> Sets:
    """The k best for images whose best is not the label, or is less probable than `below`; else the label alone.

    Ties go to the lower class. The given label, where it is not among the k, takes the place of the k-th.
    """
    assert request.scores is not None
    rows, k = np.arange(len(request.index)), int(request.options["k"])
    order = np.argsort(-request.scores, axis=1, kind="stable")
    best = order[:, 0]
    ambiguous = (best != request.labels) | (request.scores[rows, best] < float(request.options["below"]))
    sets = np.zeros(request.scores.shape, dtype=bool)
    np.put_along_axis(sets, order[:, :k], True, axis=1)
    if not request.options["literal"]:
        lacking = ~sets[rows, request.labels]
        sets[rows[lacking], order[lacking, k - 1]] = False
    sets[~ambiguous] = False
    sets[rows[~ambiguous], request.labels[~ambiguous]] = True
    return sets


def _uniform_flip(request: Request) -> Sets:
    return _draws(request) < float(request.options["q"])


def _confusion_flip(request: Request) -> Sets:
    """Class c joins label y's set with probability q * A[y, c] / max over c != y of A[y, c].

    A[y, c]: mean share of c among the votes for (or the model's probabilities of) images labelled y.
    """
    classes = len(request.faces.classes)
    if request.options["source"] == "model":
        assert request.scores is not None
        shares = request.scores.astype(np.float64)
    else:
        votes = _ballots(request.faces)[request.index, :classes].astype(np.float64)
        shares = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1.0)
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, request.labels, shares)
    np.fill_diagonal(confusion, 0.0)
    most = confusion.max(axis=1, keepdims=True)
    chance = float(request.options["q"]) * confusion / np.where(most > 0, most, 1.0)
    return np.asarray(_draws(request) < chance[request.labels])


def _draws(request: Request) -> NDArray[np.float64]:
    """Uniform numbers [n, K] in [0, 1) from SHAKE-256 of "seed/candidates/path": a function of seed and path alone."""
    classes = len(request.faces.classes)
    blocks = [
        hashlib.shake_256(f"{request.seed}/candidates/{name}".encode()).digest(4 * classes)
        for name in request.faces.ids[request.index].tolist()
    ]
    return np.frombuffer(b"".join(blocks), dtype="<u4").reshape(-1, classes) / 2.0**32


_Q = Option(0.3, "probability that a wrong class joins")
_FOLDS = Option(2, "parts scored by a model that has not seen them; 1: by one that was fitted to them")
RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "q": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    "k": (lambda value: value >= 1, "at least 1"),
    "below": (lambda value: value > 0, "above 0"),
    "length": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "folds": (lambda value: value >= 1, "at least 1"),
}
MAKERS: Mapping[str, Maker] = {
    "votes_multi_target": Maker({}, _votes("multi_target")),
    "votes_probability": Maker({}, _votes("probability")),
    "topk_model": Maker(
        {
            "k": Option(2, "classes in the set of an ambiguous image"),
            "below": Option(0.6, "an image whose best prediction is less probable is ambiguous"),
            "literal": Option(False, "leave the given label out where it is not among the k best"),
            "length": Option(1.0, "share of the recipe's epochs that the model is trained for", late=True),
            "folds": _FOLDS,
        },
        _topk,
    ),
    "uniform_flip": Maker({"q": _Q}, _uniform_flip),
    "confusion_flip": Maker(
        {"q": _Q, "source": Option("votes", "whose confusions count", ("votes", "model")), "folds": _FOLDS},
        _confusion_flip,
    ),
}
