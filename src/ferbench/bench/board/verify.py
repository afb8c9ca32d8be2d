"""Whether finished runs are what their records say: everything that can be worked out again is, and must agree.

Without data: the folder's name from its settings, the numbers from the confusion counts, the counts from the bits, the
chosen epochs from metrics.jsonl, all of it from predictions.npz where that lies there. With the data at hand: the data
set's fingerprint, the split drawn again, and which images were tested. A record written before evidence was kept can be
looked through for contradictions; its numbers are "not verifiable".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.splits.draw import Split, make_split
from ferbench.bench.data.splits.pool import for_testing
from ferbench.bench.training.evaluate import select
from ferbench.bench.training.recording import evidence, records
from ferbench.bench.training.recording.evidence import Evidence
from ferbench.bench.training.recording.metrics import of_counts
from ferbench.bench.training.recording.records import RunError
from ferbench.bench.training.recording.standing import ASIDE

CLOSE = 1.001e-4  # metrics are kept with four decimals
Open = Callable[[str, Mapping[str, Any]], FaceSet]  # reader and options


@dataclass(frozen=True)
class Verified:
    """What became of one run: `wrong` names each contradiction; `unknown` says what could not be worked out again."""

    name: str
    wrong: tuple[str, ...]
    unknown: tuple[str, ...]


def verify(results: Path, open_data: Open | None = None) -> Iterator[Verified]:
    """Every finished run of a results folder. open_data gives a data set, or raises DataError where there is none."""
    for path in sorted(results.glob("runs/*/record.json")):
        yield verify_run(path.parent, open_data)


def verify_run(folder: Path, open_data: Open | None = None) -> Verified:
    """One finished run."""
    wrong: list[str] = []
    unknown: list[str] = []
    try:
        spec, record = records.read_json(folder / "spec.json"), records.read_json(folder / "record.json")
        if record.get("status") != "finished":
            return Verified(folder.name, (), ("not finished",))
        wrong += _name(folder, spec, record)
        wrong += _history(folder, record)
        try:
            kept = evidence.from_record(record)
        except ValueError as error:
            return Verified(folder.name, (*wrong, str(error)), ())
        if kept is None:
            unknown.append("not verifiable: its record keeps no answers")
        else:
            wrong += _numbers(kept, record)
        wrong += _predictions(folder, kept, record)
        if open_data:
            found, missing = _data(spec, kept, record, open_data)
            wrong += found
            unknown += missing
    except RunError as error:
        wrong.append(str(error))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        wrong.append(f"spec.json or record.json lacks or garbles {error}")
    return Verified(folder.name, tuple(wrong), tuple(unknown))


def _name(folder: Path, spec: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    if folder.name.partition(ASIDE)[0] != (name := records.run_id(spec)):
        yield f"its settings are those of {name}"
    if record.get("spec", records.spec_hash(spec)) != records.spec_hash(spec):
        yield "its record was written for other settings than its spec.json"


def _history(folder: Path, record: Mapping[str, Any]) -> Iterator[str]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        yield "metrics.jsonl is gone"
        return
    found = select(records.read_lines(path), record["evaluated"])
    for selection in sorted(record["metrics"]):  # a later version may select in more ways
        yield from _differing(record["metrics"][selection], found.get(selection, {}), selection, "metrics.jsonl")


def _numbers(kept: Evidence, record: Mapping[str, Any]) -> Iterator[str]:
    first = next(iter(kept.rules))
    found = {
        (name if rule == first else f"{rule}/{name}"): value
        for rule, answers in kept.rules.items()
        for name, value in of_counts(answers.confusion).items()
    }
    stated = {name: value for name, value in record["metrics"]["last"].items() if name != "epoch"}
    yield from _differing(stated, found, "last", "its confusion counts")
    images = int(kept.headline.sizes.sum())
    if record.get("split", {}).get("test", images) != images:
        yield f"its evidence is of {images} images, its split tests {record['split']['test']}"


def _differing(stated: Mapping[str, float], found: Mapping[str, float], where: str, source: str) -> Iterator[str]:
    for name in sorted(set(stated) | set(found)):
        one, other = stated.get(name), found.get(name)
        if one is None or other is None or not abs(float(one) - float(other)) <= CLOSE:
            yield f"{where} {name} is {_text(one)} in the record and {_text(other)} by {source}"


def _predictions(folder: Path, kept: Evidence | None, record: Mapping[str, Any]) -> Iterator[str]:
    path = folder / "predictions.npz"
    if not path.is_file():
        return
    stored = records.read_arrays(path)
    labels = stored["labels"]
    for key, scores in stored.items():
        rule = key.removeprefix("scores_")
        if rule == key:
            continue
        answers = evidence.answers(scores, labels)
        if kept is None:
            first = key == next(name for name in stored if name.startswith("scores_"))
            stated = {
                name: value
                for name, value in record["metrics"]["last"].items()
                if (name in ("overall", "mean", "f1") if first else name.startswith(f"{rule}/"))
            }
            found = {(name if first else f"{rule}/{name}"): one for name, one in of_counts(answers.confusion).items()}
            yield from _differing(stated, found, "last", "predictions.npz")
        elif rule not in kept.rules:
            yield f"predictions.npz has a rule {rule} that its evidence has not"
        elif not (
            np.array_equal(kept.rules[rule].confusion, answers.confusion)
            and np.array_equal(kept.rules[rule].right, answers.right)
        ):
            yield f"its evidence of rule {rule} is not that of predictions.npz"


def _data(
    spec: Mapping[str, Any], kept: Evidence | None, record: Mapping[str, Any], open_data: Open
) -> tuple[list[str], list[str]]:
    """Contradictions with the data at hand, and what is not at hand."""
    wrong = []
    try:
        faces = open_data(spec["dataset"]["reader"], spec["dataset"]["options"])
        test = open_data(spec["test"]["reader"], spec["test"]["options"])
    except DataError:
        return [], [f"{spec['dataset']['reader']} is not at hand: its fingerprints are taken as they are"]
    for part, data in (("dataset", faces), ("test", test)):
        if spec[part]["fingerprint"] != data.fingerprint:
            wrong.append(f"its {part} {data.name} is not the one at hand (other images, labels or options)")
    if wrong:
        return wrong, []
    try:
        split = make_split(faces, spec["split"]["kind"], spec["split"]["parameters"], spec["seed"])
    except DataError:
        return [], ["its split was read from a file, or cannot be drawn: taken as it is"]
    if split.fingerprint != spec["split"]["fingerprint"]:
        if spec.get("made_for"):
            return [f"its split is not the one that seed {spec['seed']} draws"], []
        return [], ["its split is not the one that its seed draws, but one of the user's own: taken as it is"]
    test = faces if test.fingerprint == faces.fingerprint else for_testing(test, faces.classes)
    return list(_tested(split, faces, test, kept, record)), []


def _tested(
    split: Split, faces: FaceSet, test: FaceSet, kept: Evidence | None, record: Mapping[str, Any]
) -> Iterator[str]:
    index = split.test if test is faces else test.test
    if kept and kept.images != evidence.images_hash(test.fingerprint, index):
        yield "its test images are not those of the split"
    if kept and kept.headline.sizes.tolist() != np.bincount(test.labels[index], minlength=len(kept.classes)).tolist():
        yield "its test images per class are not those of the data set"
    if len(split.labelled) != record["split"]["labelled"]:
        yield f"it says {record['split']['labelled']} labelled images, its split has {len(split.labelled)}"


def _text(value: float | None) -> str:
    return "missing" if value is None else f"{float(value):.4f}"
