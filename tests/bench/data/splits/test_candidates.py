"""Candidate label sets: every kind by loops, the published sizes on real votes, and their place in a run."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbench.bench.data.faceset import DataError, FaceSet
from ferbench.bench.data.preparing.cache import cache_root
from ferbench.bench.data.sets.readers import open_dataset
from ferbench.bench.data.splits.candidates import MAKERS, candidate_options, figures, fingerprint, make_candidates
from ferbench.bench.training.progress import Silent
from ferbench.bench.training.recording import records
from ferbench.bench.training.state import Run, make_state
from ferbench.bench.training.train import train
from ferbench.methods import MethodError

MakeFaces = Callable[..., FaceSet]
MakeRun = Callable[..., Run]
ROOT = os.environ.get("FERBENCH_FERPLUS_ROOT")
# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, not a face
BALLOTS = [
    [6, 4, 0, 0, 0, 0, 0, 0, 0, 0],  # two candidates by either rule
    [5, 3, 2, 0, 0, 0, 0, 0, 0, 0],  # two: 8 of 10 are covered
    [4, 3, 3, 0, 0, 0, 0, 0, 0, 0],  # three
    [9, 1, 0, 0, 0, 0, 0, 0, 0, 0],  # one: single votes are dropped
    [0, 0, 0, 0, 0, 0, 0, 0, 10, 0],  # the rule discards it
    [2, 2, 2, 2, 2, 0, 0, 0, 0, 0],  # discarded: five tie
    [3, 0, 0, 0, 0, 0, 0, 7, 0, 0],  # contempt and neutral
]
MULTI = [{0, 1}, {0, 1}, {0, 1, 2}, {0}, set(), set(), {0, 7}]
PROBABLE = [{0, 1}, {0, 1}, {0, 1, 2}, {0}, set(), set(), {0, 7}]


@pytest.fixture
def voted(make_faces: MakeFaces) -> FaceSet:
    """Seven training images with votes, an eighth that is not trained on, in FERPlus's eight classes."""
    names = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
    faces = make_faces(train={**dict.fromkeys(names, 1)}, test={"neutral": 1})
    ballots = np.array([*BALLOTS, [10] + [0] * 9, [0, 10] + [0] * 8], dtype=np.uint8)
    labels = ballots[:, :8].argmax(axis=1)
    return replace(faces, labels=labels, ballots=ballots, votes=ballots[:, :8].astype(np.float32))


def sets_of(rows: Any) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in rows]


@pytest.mark.parametrize(("kind", "wanted"), [("votes_multi_target", MULTI), ("votes_probability", PROBABLE)])
def test_votes(voted: FaceSet, kind: str, wanted: list[set[int]]) -> None:
    """A discarded image has its label alone, and an image that is not trained on has nothing."""
    index = np.arange(7)
    result = make_candidates(voted, index, kind, {}, seed=1)
    assert result.shape == (9, 8) and result.dtype == np.bool_
    given = [{int(label)} for label in voted.labels[:7]]
    assert sets_of(result[:7]) == [made or own for made, own in zip(wanted, given, strict=True)]
    assert not result[7:].any()


def test_votes_without_contempt(voted: FaceSet) -> None:
    """With seven classes the eighth is no candidate; votes for it still count in the 30 %."""
    seven = replace(voted, classes=voted.classes[:7], labels=np.where(voted.labels == 7, 0, voted.labels))
    assert sets_of(make_candidates(seven, np.arange(7), "votes_multi_target", {}, 1)[6:7]) == [{0}]


def test_votes_of_simulated_annotators(tmp_path: Path) -> None:
    faces = open_dataset("synthetic", {"scale": 0.01, "size": 16}, cache=tmp_path)
    assert faces.ballots is None and faces.votes is not None
    result = make_candidates(faces, faces.train, "votes_multi_target", {}, 1)[faces.train]
    for row, votes, label in zip(result, faces.votes[faces.train], faces.labels[faces.train], strict=True):
        cleaned = [v if v > 1 else 0 for v in votes]
        expected = {k for k, v in enumerate(cleaned) if v >= 0.3 * sum(cleaned) and v > 0}
        if sum(cleaned[k] for k in expected) <= 0.5 * sum(cleaned):
            expected = set()
        assert set(np.flatnonzero(row)) == expected | {label}


def test_topk_worked_example(make_faces: MakeFaces) -> None:
    """K = 5, k = 2: images 0, 1 and 3 are ambiguous; in image 3 three classes tie for the second place."""
    scores = np.array(
        [[0.50, 0.30, 0.10, 0.06, 0.04], [0.10, 0.15, 0.40, 0.30, 0.05],
         [0.02, 0.90, 0.03, 0.03, 0.02], [0.21, 0.20, 0.20, 0.20, 0.19]], dtype=np.float32,
    )  # fmt: skip
    faces = replace(make_faces(train=dict.fromkeys("abcde", 1), test={"a": 1}), labels=np.array([0, 2, 1, 0, 4, 0]))
    result = make_candidates(faces, np.arange(4), "topk_model", {}, 1, scores)
    assert sets_of(result[:4]) == [{0, 1}, {2, 3}, {1}, {0, 1}]


@pytest.mark.parametrize("literal", [True, False])
@pytest.mark.parametrize(("k", "below"), [(1, 0.6), (2, 0.6), (3, 2.0), (2, 0.01)])
def test_topk_by_loops(make_faces: MakeFaces, literal: bool, k: int, below: float) -> None:
    faces = make_faces()
    index = faces.train
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([0.6] * 3, len(index)).astype(np.float32)
    scores[:4] = 1 / 3
    result = make_candidates(faces, index, "topk_model", {"k": k, "below": below, "literal": literal}, 1, scores)
    for row, p, label in zip(result[index], scores, faces.labels[index], strict=True):
        order = sorted(range(3), key=lambda c: (-p[c], c))  # noqa: B023 - used at once
        if order[0] == label and p[order[0]] >= np.float32(below):
            wanted = {int(label)}
        else:
            wanted = set(order[:k])
            if not literal and label not in wanted:
                wanted = (wanted - {order[k - 1]}) | {int(label)}
        assert set(np.flatnonzero(row)) == wanted


def test_uniform_flip(make_faces: MakeFaces) -> None:
    """Numbers are a function of seed and path: the order of files does not matter, the seed and the image do."""
    faces = make_faces(train=dict.fromkeys("abcdefghijk", 40), test={"a": 1})  # more classes than a digest has words
    first = make_candidates(faces, faces.train, "uniform_flip", {"q": 0.3}, 5)
    digest = hashlib.shake_256(f"5/candidates/{faces.ids[3]}".encode()).digest(44)
    drawn = [int.from_bytes(digest[4 * c : 4 * c + 4], "little") / 2**32 < 0.3 for c in range(11)]
    drawn[faces.labels[3]] = True
    assert first[3].tolist() == drawn
    order = np.random.default_rng(0).permutation(len(faces.labels))
    shuffled = make_faces(train=dict.fromkeys("abcdefghijk", 40), test={"a": 1}, order=order)
    np.testing.assert_array_equal(
        make_candidates(shuffled, shuffled.train, "uniform_flip", {"q": 0.3}, 5), first[order]
    )
    assert not np.array_equal(make_candidates(faces, faces.train, "uniform_flip", {"q": 0.3}, 6), first)
    wrong = (first[faces.train].sum(axis=1) - 1).mean() / 10
    assert wrong == pytest.approx(0.3, abs=4 * (0.21 / 4400) ** 0.5)


@pytest.mark.parametrize(("q", "size"), [(0.0, 1), (1.0, 3)])
def test_uniform_flip_at_its_ends(make_faces: MakeFaces, q: float, size: int) -> None:
    faces = make_faces()
    result = make_candidates(faces, faces.train, "uniform_flip", {"q": q}, 1)[faces.train]
    assert (result.sum(axis=1) == size).all()


@pytest.mark.parametrize("source", ["votes", "model"])
def test_confusion_flip(make_faces: MakeFaces, source: str) -> None:
    """The class most often confused with the label joins with probability q, one never confused with it never."""
    faces = make_faces(train={"a": 3000, "b": 20, "c": 20}, test={"a": 1}, size=1)
    shares = np.tile(np.array([[0.8, 0.2, 0.0]]), (len(faces.labels), 1))
    shares[faces.labels == 2] = [0.1, 0.2, 0.7]
    faces = replace(faces, votes=(10 * shares).round().astype(np.float32))
    scores = shares[faces.train].astype(np.float32)
    result = make_candidates(faces, faces.train, "confusion_flip", {"q": 0.5, "source": source}, 1, scores)
    of_a = result[faces.train][faces.labels[faces.train] == 0]
    assert of_a[:, 0].all() and not of_a[:, 2].any()
    assert of_a[:, 1].mean() == pytest.approx(0.5, abs=4 * (0.25 / 3000) ** 0.5)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("votes", {}, "unknown candidate sets 'votes'; valid: votes_multi_target"),
        ("uniform_flip", {"p": 0.3}, "candidates uniform_flip: unknown option 'p'; valid: q"),
        ("uniform_flip", {"q": 1.5}, "q must be from 0 to 1, not 1.5"),
        ("topk_model", {"k": 0}, "k must be at least 1"),
        ("topk_model", {"k": 2.5}, "expected a whole number"),
        ("topk_model", {"folds": 0}, "folds must be at least 1, not 0"),
        ("topk_model", {"k": 9}, "k=9, but tiny has 3 classes"),
        ("topk_model", {}, "needs a model's scores of the 54 training images"),
        ("votes_multi_target", {}, "tiny has no annotators' votes"),
        ("confusion_flip", {"source": "friends"}, "'friends' is not known; valid: votes, model"),
    ],
)
def test_bad_requests_say_what_is_wrong(make_faces: MakeFaces, kind: str, options: Any, words: str) -> None:
    faces = make_faces()
    with pytest.raises(DataError, match=words):
        make_candidates(faces, faces.train, kind, options, 1)


def test_every_option_has_its_default() -> None:
    assert candidate_options("topk_model", {}) == {"k": 2, "below": 0.6, "literal": False, "folds": 2}
    for kind, maker in MAKERS.items():
        assert candidate_options(kind, {}).keys() == {key for key, option in maker.options.items() if not option.late}


def test_fingerprint_follows_sets_and_images(make_faces: MakeFaces) -> None:
    faces = make_faces()
    sets = make_candidates(faces, faces.train, "uniform_flip", {}, 1)
    other = sets.copy()
    other[faces.train[0], 0] ^= True
    prints = {fingerprint(faces, faces.train, s) for s in (sets, other, sets.copy())}
    assert len(prints) == 2
    assert fingerprint(faces, faces.train[:-1], sets) not in prints


def test_a_run_holds_them_and_the_method_gets_them(make_tiny_run: MakeRun) -> None:
    run = make_tiny_run("pll")
    asked = run.spec["candidates"]
    assert (asked["kind"], asked["options"]) == ("uniform_flip", {"q": 0.4}) and len(asked["fingerprint"]) == 64
    method = make_state(run, torch.device("cpu"), Silent()).method
    expected = make_candidates(run.faces, run.split.labelled, "uniform_flip", {"q": 0.4}, run.seed)
    sizes = expected.sum(axis=1, keepdims=True)
    table = method.state_dict()["confidence"].numpy()
    np.testing.assert_allclose(table, expected / np.maximum(sizes, 1), rtol=1e-6)
    assert (sizes[run.split.labelled] >= 1).all() and sizes.sum() == sizes[run.split.labelled].sum()
    assert "candidates" not in make_tiny_run("vanilla").spec


def test_old_specs_keep_their_name(make_tiny_run: MakeRun) -> None:
    """Candidate sets are a key of their own, absent where a method takes none."""
    run = make_tiny_run("fixmatch")
    assert "candidates" not in run.spec
    assert records.spec_hash(run.spec) == records.spec_hash({**run.spec})


def test_pll_fer_continues_with_its_table(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    """Stopped after an epoch in which images were revised, it ends bit for bit where an uninterrupted run ends."""
    options = {"warmup_epochs": 0, "threshold": 0.01, "phi": "softmax"}

    def run() -> Run:
        return make_tiny_run("pll_fer", options=options)

    train(run(), tmp_path / "whole")
    whole = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    table = whole["method"]["confidence"]
    start = make_state(run(), torch.device("cpu"), Silent()).method.state_dict()["confidence"]
    assert not torch.equal(table, start)  # else the test could not fail
    assert "one-hot share" in whole["history"][-1]
    _stop_after_first_epoch(run(), tmp_path / "parts")
    train(run(), tmp_path / "parts")
    parts = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    for part in ("method", "average"):
        for name, value in whole[part].items():
            assert torch.equal(parts[part][name], value), name
    assert torch.equal(whole["average"]["confidence"], table)  # the evaluated copy takes it over, it averages nothing


def _stop_after_first_epoch(run: Run, folder: Path) -> None:
    class Stopping(Silent):
        def epoch(self, line: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, folder, reporter=Stopping())


def test_command_line(ferbench: Any, tiny_arguments: list[str], tmp_path: Path) -> None:
    done = ferbench("train", "pll", *tiny_arguments, "--candidates", "votes_multi_target", "--seed", 2)
    assert done.code == 0, done.err
    (spec,) = (records.read_json(path) for path in tmp_path.glob("results/runs/*/spec.json"))
    assert spec["candidates"]["kind"] == "votes_multi_target"
    missing = ferbench("train", "pll", *tiny_arguments)
    assert missing.code == 2 and "pll learns from candidate sets: name a kind" in missing.error()
    foreign = ferbench("train", "vanilla", *tiny_arguments, "--candidates", "uniform_flip:q=0.1")
    assert foreign.code == 2 and "vanilla takes no candidate sets" in foreign.error()
    wrong = ferbench("train", "pll", *tiny_arguments, "--candidates", "uniform_flip:q=2")
    assert wrong.code == 2 and "q must be from 0 to 1" in wrong.error()


def test_methods_without_sets_are_refused(make_tiny_run: MakeRun) -> None:
    from ferbench.bench.tables.settings import candidate_settings

    assert candidate_settings("vanilla", "uniform_flip", {}) == {}
    with pytest.raises(MethodError, match="rc learns from candidate sets"):
        candidate_settings("rc", None, {})


@pytest.mark.skipif(not ROOT, reason="FERBENCH_FERPLUS_ROOT names no copy of FERPlus")
@pytest.mark.parametrize(
    ("kind", "rule", "sizes"),
    [
        ("votes_multi_target", "multi_target", {1: 20543, 2: 6985, 3: 139}),
        ("votes_probability", "probability", {1: 19021, 2: 7878, 3: 1048}),
        # the same votes under other rules for the label: an image that the votes' rule discards has its label alone
        ("votes_multi_target", "argmax8", {1: 20543 + 28556 - 27667, 2: 6985, 3: 139}),
        ("votes_probability", "argmax8", {1: 19021 + 28556 - 27947, 2: 7878, 3: 1048}),
    ],
)
def test_measured_sizes_on_ferplus(kind: str, rule: str, sizes: dict[int, int]) -> None:
    faces = open_dataset("ferplus", {"rule": rule}, root=Path(ROOT or ""), cache=cache_root())
    result = make_candidates(faces, faces.train, kind, {}, seed=1)
    assert Counter(result[faces.train].sum(axis=1).tolist()) == sizes
    assert result[faces.train, faces.labels[faces.train]].all()
    assert result.sum() == result[faces.train].sum()


def test_topk_of_a_finished_softmax_run(ferbench: Any, tiny_arguments: list[str], tmp_path: Path) -> None:
    """The model's run comes first; its scores of the training images are kept, and used again."""
    asked = ("--candidates", "topk_model:k=3,below=2,folds=1", "--seed", 2)
    early = ferbench("train", "pll", *tiny_arguments, *asked)
    assert early.code == 2 and "train vanilla first with otherwise the same arguments" in early.error()
    assert ferbench("train", "vanilla", *tiny_arguments, "--seed", 2).code == 0
    done = ferbench("train", "pll", *tiny_arguments, *asked)
    assert done.code == 0, done.err
    (parent,) = tmp_path.glob("results/runs/*vanilla*")
    (child,) = tmp_path.glob("results/runs/*pll*")
    spec = records.read_json(child / "spec.json")
    assert spec["candidates"]["fingerprint"] == records.spec_hash(records.read_json(parent / "spec.json"))
    with np.load(parent / "training.npz") as stored:
        scores, index = stored["scores_main"], stored["index"]
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    table = torch.load(child / "checkpoint.pt", weights_only=True)["method"]["confidence"].numpy()
    assert (np.count_nonzero(table[index], axis=1) == 3).all()
    best = np.argsort(-scores, axis=1, kind="stable")[:, 0]
    assert (table[index, best] > 0).all()
    (parent / "training.npz").write_bytes(b"nothing")
    (child / "record.json").unlink()
    damaged = ferbench("train", "pll", *tiny_arguments, *asked)
    assert damaged.code == 2 and "training.npz: cannot be read" in damaged.error()


def test_figures_by_loops(make_faces: MakeFaces) -> None:
    """Sets with more than one class, and how often the label is among the k best before it is put there."""
    faces = make_faces()
    scores = np.random.default_rng(2).dirichlet(np.ones(3), len(faces.train)).astype(np.float32)
    for literal in (False, True):
        options = candidate_options("topk_model", {"k": 2, "literal": literal})
        sets = make_candidates(faces, faces.train, "topk_model", options, 1, scores)
        found = figures(faces, faces.train, sets, options, scores)
        several = classes = given = 0
        for row, image in zip(scores.tolist(), faces.train.tolist(), strict=True):
            several += sets[image].sum() > 1
            classes += sets[image].sum()
            given += faces.labels[image] in sorted(range(3), key=lambda k: -row[k])[:2]
        n = len(faces.train)
        assert found == {
            "ambiguous": pytest.approx(100 * several / n, abs=1e-4), "classes": pytest.approx(classes / n, abs=1e-4),
            "given_in_top_k": pytest.approx(100 * given / n, abs=1e-4),
        }  # fmt: skip
        assert 0 < found["given_in_top_k"] < 100 and 0 < found["ambiguous"] < 100
    drawn = make_candidates(faces, faces.train, "uniform_flip", {"q": 0.4}, 1)
    assert set(figures(faces, faces.train, drawn, {"q": 0.4})) == {"ambiguous", "classes"}


def test_the_record_says_what_the_sets_are_like(make_tiny_run: MakeRun, tmp_path: Path) -> None:
    run = make_tiny_run("pll", epochs=1)
    record = train(run, tmp_path / "run")
    assert run.candidates is not None
    sizes = run.candidates()[run.split.labelled].sum(axis=1)
    assert record["candidates"]["ambiguous"] == pytest.approx(100 * (sizes > 1).mean(), abs=1e-4)
    assert record == records.read_json(tmp_path / "run" / "record.json")
    assert "candidates" not in train(make_tiny_run("vanilla", epochs=1), tmp_path / "plain")


def test_a_new_option_leaves_old_specs_what_they_are() -> None:
    assert candidate_options("topk_model", {"length": 1}) == candidate_options("topk_model", {})
    assert candidate_options("topk_model", {"length": 0.5})["length"] == 0.5
    for length in (0, 1.5):
        with pytest.raises(DataError, match="length must be above 0 and at most 1"):
            candidate_options("topk_model", {"length": length})


def test_a_shorter_model_of_the_command_line(ferbench: Any, tiny_arguments: list[str], tmp_path: Path) -> None:
    """With length = 0.5 the model has one of the two epochs; the message names them, and that run is the one used."""
    asked = ("--candidates", "topk_model:k=3,below=2,length=0.5,folds=1", "--seed", 2)
    assert ferbench("train", "vanilla", *tiny_arguments, "--seed", 2).code == 0
    early = ferbench("train", "pll", *tiny_arguments, *asked)
    assert early.code == 2 and "--recipe epochs=1" in early.error()
    assert ferbench("train", "vanilla", *tiny_arguments, "--recipe", "epochs=1", "--seed", 2).code == 0
    done = ferbench("train", "pll", *tiny_arguments, *asked)
    assert done.code == 0, done.err
    short, whole = sorted(
        (records.read_json(path) for path in tmp_path.glob("results/runs/*vanilla*/spec.json")),
        key=lambda spec: spec["recipe"]["epochs"],
    )
    (child,) = tmp_path.glob("results/runs/*pll*")
    spec, record = records.read_json(child / "spec.json"), records.read_json(child / "record.json")
    assert (short["recipe"]["epochs"], whole["recipe"]["epochs"], spec["recipe"]["epochs"]) == (1, 2, 2)
    assert spec["candidates"]["fingerprint"] == records.spec_hash(short)
    assert record["candidates"] == {
        "ambiguous": 100.0,
        "classes": 3.0,
        "given_in_top_k": record["candidates"]["given_in_top_k"],
    }


def test_out_of_fold_scores_are_of_images_that_a_model_has_not_seen(
    ferbench: Any, tiny_arguments: list[str], tmp_path: Path
) -> None:
    """By default; the message says how to make the two models, and each set is that of the model without its image."""
    asked = ("--candidates", "topk_model:k=2,below=2", "--seed", 2)
    place = tiny_arguments.index("--split") + 1
    halves = [[*tiny_arguments] for _ in range(2)]
    for part, arguments in enumerate(halves):
        early = ferbench("train", "pll", *tiny_arguments, *asked)
        wanted = f"parts=2,part={part + 1}"
        assert early.code == 2 and f"with {wanted} added to --split" in early.error()
        arguments[place] += f",{wanted}"
        assert ferbench("train", "vanilla", *arguments, "--seed", 2).code == 0
    done = ferbench("train", "pll", *tiny_arguments, *asked)
    assert done.code == 0, done.err
    (child,) = tmp_path.glob("results/runs/*pll*")
    table = torch.load(child / "checkpoint.pt", weights_only=True)["method"]["confidence"].numpy()
    seen = []
    for parent in tmp_path.glob("results/runs/*vanilla*"):
        split = records.read_json(parent / "split.json")
        with np.load(parent / "training.npz") as stored:
            scores, index = stored["scores_main"], stored["index"]
        assert len(split["labelled"]) > 0 and set(split["parameters"]) >= {"parts", "part"}
        best = np.argsort(-scores, axis=1, kind="stable")[:, 0]
        assert (table[index, best] > 0).all()
        seen += index.tolist()
    assert sorted(seen) == np.flatnonzero(table.sum(axis=1)).tolist()


def test_few_ambiguous_sets_are_said(make_tiny_run: MakeRun) -> None:
    class Notes(Silent):
        lines: list[str] = []  # noqa: RUF012 - of this test

        def note(self, line: str) -> None:
            self.lines.append(line)

    run, notes = make_tiny_run("pll"), Notes()
    make_state(run, torch.device("cpu"), notes)
    assert not any(line.startswith("warning") for line in notes.lines)
    few = {"ambiguous": 7.8, "classes": 1.08}
    make_state(replace(run, about_candidates=lambda: few), torch.device("cpu"), notes)
    assert "warning: 7.8 % of the candidate sets have more than one class" in notes.lines[-1]


PARTIAL = """
[candidates.top2]
kind = "topk_model"
options = { below = 2.0 }

[[tables]]
id = "partial"
kind = "figure"
caption = "Partial labels"
source = "none"
metrics = ["overall"]
seeds = [1]
absent = [{ why = "nobody's" }]
rows = [
    { id = "softmax", label = "Softmax", method = "vanilla" },
    { id = "pll", label = "PLL", method = "pll" },
    { id = "rc", label = "RC", method = "rc" },
]
columns = [
    { id = "one", label = "", dataset = "synthetic", split = "SPLIT", recipe = "synthetic", candidates = "top2" },
]
"""


def test_reproduce_runs_the_model_first_and_once(ferbench: Any, tiny_protocol: Path, tmp_path: Path) -> None:
    path = tiny_protocol / "protocol.toml"
    text = path.read_text(encoding="utf-8")
    split = text.split("[splits.")[1].split("]")[0]
    path.write_text(text + PARTIAL.replace("SPLIT", split), encoding="utf-8")
    planned = ferbench("reproduce", "tiny/partial", "--dry-run")
    assert planned.code == 0, planned.err
    assert planned.out.index("vanilla") < planned.out.index("-pll-") < planned.out.index("-rc-")
    assert planned.out.count("vanilla") == 3  # the softmax row's own run, and two that each score what they lack
    done = ferbench("reproduce", "tiny/partial", "--jobs", 1)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("results/runs/*/record.json"))) == 5
    stored = [np.load(file) for file in sorted(tmp_path.glob("results/runs/*/training.npz"))]
    (child,) = tmp_path.glob("results/runs/*-pll-*")
    assert not set(stored[0]["index"]) & set(stored[1]["index"])
    labelled = records.read_json(child / "record.json")["split"]["labelled"]
    assert len(stored[0]["index"]) + len(stored[1]["index"]) == labelled
    assert "not counted" not in done.out
    path.write_text(
        path.read_text(encoding="utf-8").replace("below = 2.0", "below = 2.0, length = 0.5"), encoding="utf-8"
    )
    shorter = ferbench("reproduce", "tiny/partial/rc", "--jobs", 1)
    assert shorter.code == 0, shorter.err
    specs = [records.read_json(file.with_name("spec.json")) for file in tmp_path.glob("results/runs/*/record.json")]
    assert sorted((spec["method"], spec["recipe"]["epochs"]) for spec in specs) == [
        ("pll", 2), ("rc", 2), ("rc", 2), ("vanilla", 1), ("vanilla", 1), *[("vanilla", 2)] * 3,
    ]  # fmt: skip
