"""Which finished runs count for which cells: those with the cell's settings, whatever they were made for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.tables.counting.counted import Ignored, counted_runs
from ferbench.bench.tables.settings import settings
from ferbench.bench.training.recording.records import run_id, spec_hash
from ferbench.protocols import Protocol, load_protocol, protocol_names, select

RecordRun = Callable[..., str]
REMOP = "remop/3/remop/rafdb-500-150"
SAME = "remop/1/fixmatch-h-reg/rafdb-500-150"  # Table 1 calls the full method "w/ H, w/ Reg"
LETTER = "remop/letter/released/rafdb-500-150"
VERSION = load_protocol("remop").version


def current(**changes: Any) -> dict[str, Any]:
    return {"protocol": "remop", "version": VERSION, "hash": "0" * 64, "cell": REMOP, **changes}


def count(results: Path, protocols: Sequence[Protocol] | None = None) -> tuple[dict[str, set[str]], list[Ignored]]:
    """Names of the runs that count by cell, and what is left out."""
    known = protocols if protocols is not None else [load_protocol(name) for name in protocol_names()]
    runs, ignored = counted_runs(results, {protocol.name: protocol for protocol in known})
    by_cell: dict[str, set[str]] = {}
    for run in runs:
        by_cell.setdefault(run.cell.id, set()).add(run.id)
    return by_cell, ignored


def changed(results: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the spec of a run that is on disk."""
    path = results / "runs" / name / "spec.json"
    spec = json.loads(path.read_bytes())
    change(spec)
    path.write_text(json.dumps(spec), encoding="utf-8")


@pytest.mark.parametrize("made_for", [REMOP, SAME])
def test_one_run_serves_every_table_with_its_settings(tmp_path: Path, record_run: RecordRun, made_for: str) -> None:
    """Table 1's rows without H or without Reg differ in one option each, and get nothing."""
    name = record_run(made_for, 1, 80.0)
    assert count(tmp_path) == (dict.fromkeys((REMOP, SAME, LETTER), {name}), [])


def test_row_with_another_option_has_its_own_runs(tmp_path: Path, record_run: RecordRun) -> None:
    full, ablated = record_run(SAME, 1, 80.0), record_run("remop/1/fixmatch-h/rafdb-500-150", 1, 70.0)
    by_cell, _ = count(tmp_path)
    assert by_cell == dict.fromkeys((REMOP, SAME, LETTER), {full}) | {"remop/1/fixmatch-h/rafdb-500-150": {ablated}}


def test_fingerprints_and_weights_do_not_decide(tmp_path: Path, record_run: RecordRun) -> None:
    """Each seed's run here has fingerprints and a weights hash of its own."""
    names = {record_run(REMOP, seed, 80.0) for seed in (1, 2, 3)}
    assert count(tmp_path)[0][REMOP] == names


def test_runs_on_other_pixels_are_not_averaged(tmp_path: Path, record_run: RecordRun) -> None:
    """Two seeds on one alignment of the faces and one, the oldest, on another; runs without pixels are a copy too."""
    names = [record_run(REMOP, seed, 80.0) for seed in (1, 2, 3)]
    for place, name in enumerate(names):
        os.utime(tmp_path / "runs" / name / "record.json", (place, place))

    def on(name: str, pixels: str) -> None:
        changed(tmp_path, name, lambda spec: spec["dataset"].update(pixels=pixels))

    on(names[1], "b")
    on(names[2], "b")
    by_cell, lines = count(tmp_path)
    assert by_cell[REMOP] == set(names[1:])
    (ignored,) = (line for line in lines if line.run_id == names[0])
    assert ignored.reason == f"made on other images than {names[2]}: same names, other pixels"
    on(names[0], "b")
    assert count(tmp_path)[0][REMOP] == set(names)


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"n1": 500, "gamma": 150.0, "validation": 0.0}, id="as a protocol has them"),
        pytest.param({"gamma": 150, "n1": 500}, id="as a user types them"),
    ],
)
def test_free_run_counts_where_its_settings_do(
    tmp_path: Path, record_run: RecordRun, parameters: dict[str, float]
) -> None:
    name = record_run(REMOP, 1, 80.0, split={"kind": "long_tailed", "parameters": parameters, "fingerprint": "f"})
    changed(tmp_path, name, lambda spec: spec.pop("made_for"))
    assert count(tmp_path) == (dict.fromkeys((REMOP, SAME, LETTER), {name}), [])


def test_run_from_before_a_recipe_key_existed(tmp_path: Path, record_run: RecordRun) -> None:
    """Counts as one at the key's default; ReMoP's recipe has no clipping, and decays its averaged model by 0.999."""
    old, other = record_run(REMOP, 1, 80.0), record_run(REMOP, 2, 80.0)
    changed(tmp_path, old, lambda spec: spec["recipe"].pop("clip"))
    changed(tmp_path, other, lambda spec: spec["recipe"].pop("ema"))
    by_cell, (left_out,) = count(tmp_path)
    assert (by_cell[REMOP], left_out.run_id) == ({old}, other)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "method": lambda spec: spec.update(method="fixmatch"),
    "option": lambda spec: spec["options"].update(lambda_reg=0.7),
    "option more": lambda spec: spec["options"].update(novel=True),
    "option less": lambda spec: spec["options"].pop("beta"),
    "recipe": lambda spec: spec["recipe"].update(epochs=1),
    "data set": lambda spec: spec["dataset"].update(reader="ferplus"),
    "data option": lambda spec: spec["dataset"]["options"].update(rule="majority"),
    "test set": lambda spec: spec["test"].update(reader="ckplus"),
    "unlabelled": lambda spec: spec.update(unlabelled={"name": "affectnet", "reader": "affectnet", "options": {}}),
    "split kind": lambda spec: spec["split"].update(kind="balanced"),
    "split number": lambda spec: spec["split"]["parameters"].update(gamma=151.0),
    "validation": lambda spec: spec["split"]["parameters"].update(validation=0.1),
    "preset": lambda spec: spec.update(preset="huge"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_other_setting_leaves_a_run_out(
    tmp_path: Path, record_run: RecordRun, change: Callable[[dict[str, Any]], object]
) -> None:
    """Listed where it was made for a protocol; a free run is nobody's business."""
    good, odd, free = (record_run(REMOP, seed, 80.0, name=name) for seed, name in enumerate(["good", "odd", "free"]))
    changed(tmp_path, odd, change)
    changed(tmp_path, free, lambda spec: (change(spec), spec.pop("made_for")))
    by_cell, ignored = count(tmp_path)
    assert by_cell == dict.fromkeys((REMOP, SAME, LETTER), {good})
    assert ignored == [Ignored("odd", f"its settings are no longer those of {REMOP} or any other cell")]


LEFT_OUT: dict[str, tuple[object, str]] = {
    "old version": (current(version=VERSION - 1), f"stale: made under version {VERSION - 1} of remop"),
    "unknown protocol": (current(protocol="gone"), "no protocol 'gone' here"),
    "no version": ({"protocol": "remop", "cell": REMOP}, "odd/spec.json: made_for.version is missing"),
    "no table": ("remop", "odd/spec.json: made_for is no table"),
}


@pytest.mark.parametrize(("made_for", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_run_that_does_not_count_is_listed_with_the_reason(
    tmp_path: Path, record_run: RecordRun, made_for: object, reason: str
) -> None:
    good = record_run(REMOP, 1, 80.0)
    record_run(REMOP, 2, 10.0, name="odd", made_for=made_for)
    by_cell, (left_out,) = count(tmp_path)
    assert by_cell[REMOP] == {good}
    assert left_out.run_id == "odd"
    assert reason in left_out.reason


def test_only_the_version_makes_a_run_stale(tmp_path: Path, record_run: RecordRun) -> None:
    """A typo mended in a caption changes a protocol's hash, not its runs."""
    name = record_run(REMOP, 1, 80.0, made_for=current(hash="f" * 64))
    remop = load_protocol("remop")
    assert count(tmp_path, [remop])[0][REMOP] == {name}
    by_cell, (left_out,) = count(tmp_path, [replace(remop, version=remop.version + 1)])
    assert not by_cell
    assert left_out.reason.startswith("stale")


def test_stale_run_counts_for_no_other_protocol_either(tmp_path: Path, record_run: RecordRun) -> None:
    """Whether or not the protocol it was made for is asked for."""
    record_run(REMOP, 1, 80.0, made_for=current(protocol="demo", version=load_protocol("demo").version + 1))
    assert [count(tmp_path, only)[0] for only in (None, [load_protocol("remop")])] == [{}, {}]


def test_the_run_that_was_finished_last_counts_alone(tmp_path: Path, record_run: RecordRun) -> None:
    """In every table, and the older one is listed once. Copying and touching files change nothing."""
    for age, (name, day) in enumerate({"newer": 29, "older": 28}.items()):
        record_run((SAME, REMOP)[age], 1, 80.0, name=name)
        path = tmp_path / "runs" / name / "record.json"
        record = {**json.loads(path.read_bytes()), "finished_at": f"2026-11-{day}T10:00:00Z", "code": "abcd"}
        path.write_text(json.dumps(record), encoding="utf-8")
        os.utime(path, (1000 + age, 1000 + age))
    by_cell, ignored = count(tmp_path)
    assert by_cell == dict.fromkeys((REMOP, SAME, LETTER), {"newer"})
    why = "newer, with the same settings and seed, was finished on 2026-11-29T10:00:00Z"
    assert ignored == [Ignored("older", why)]


def test_of_two_runs_without_a_date_the_last_by_name_counts(tmp_path: Path, record_run: RecordRun) -> None:
    for age, name in enumerate(("b", "a")):
        os.utime(tmp_path / "runs" / record_run(REMOP, 1, 80.0, name=name) / "record.json", (1000 + age, 1000 + age))
    by_cell, (left_out,) = count(tmp_path)
    assert by_cell[REMOP] == {"b"} and left_out.run_id == "a"
    assert "neither says when it was finished" in left_out.reason


def test_other_code_of_the_method_is_named_where_a_run_gives_way(tmp_path: Path, record_run: RecordRun) -> None:
    for name, code, hour in (("first", "aaaa", 10), ("second", "bbbb", 11)):
        path = tmp_path / "runs" / record_run(REMOP, 1, 80.0, name=name) / "record.json"
        changed = {**json.loads(path.read_bytes()), "finished_at": f"2026-11-29T{hour}:00:00Z", "code": code}
        path.write_text(json.dumps(changed), encoding="utf-8")
    _, (left_out,) = count(tmp_path)
    assert left_out.run_id == "first" and left_out.reason.endswith(", by code bbbb where this is by aaaa")


def test_damaged_files_are_listed(tmp_path: Path, record_run: RecordRun) -> None:
    contents = {
        "cut": '{"status": "fin', "empty": "", "list": "[]", "no metrics": '{"status": "finished"}',
        "words": '{"status": "finished", "metrics": {"last": {"overall": "high"}}}',
        "flat": '{"status": "finished", "metrics": {"last": 80.0}}',
    }  # fmt: skip
    for name, content in contents.items():
        record_run(REMOP, 1, 80.0, name=name)
        (tmp_path / "runs" / name / "record.json").write_text(content, encoding="utf-8")
    record_run(REMOP, 1, 80.0, name="bare spec")
    (tmp_path / "runs" / "bare spec" / "spec.json").write_text('{"seed": 1}', encoding="utf-8")
    record_run(REMOP, 1, 80.0, name="lost spec")
    (tmp_path / "runs" / "lost spec" / "spec.json").unlink()
    by_cell, ignored = count(tmp_path)
    assert not by_cell
    reasons = {run.run_id: run.reason for run in ignored}
    assert sorted(reasons) == sorted([*contents, "bare spec", "lost spec"])
    assert "the command that made the run writes it again" in reasons["cut"]
    assert reasons["bare spec"].endswith("bare spec/spec.json: method is missing")
    assert all("\n" not in reason for reason in reasons.values())


def test_runs_that_are_no_ones_business(tmp_path: Path, record_run: RecordRun) -> None:
    """Unfinished runs and those of a protocol that is not asked for: neither counted nor listed."""
    record_run(REMOP, 1, 80.0, name="stopped", status="interrupted")
    record_run(select("demo/1/remop")[0].id, 1, 80.0, preset="cpu")
    (tmp_path / "runs" / "running").mkdir()
    assert count(tmp_path, [load_protocol("remop")]) == ({}, [])


def spec() -> dict[str, Any]:
    (cell,) = select(REMOP)
    chosen = settings(cell, "paper", 1)
    return chosen | {"dataset": {**chosen["dataset"], "fingerprint": "a"}, "weights": {"sha256": "b"}}


def test_spec_hash_ignores_what_a_run_was_made_for() -> None:
    assert len({spec_hash(each) for each in (spec(), spec() | {"made_for": current()}, spec() | {"made_for": {}})}) == 1
    assert spec_hash(dict(reversed(spec().items()))) == spec_hash(spec())


def test_run_id_is_readable() -> None:
    head, _, digest = run_id(spec()).rpartition("-")
    assert head == "rafdb-long_tailed-500-150-remop-released-paper-s1"
    assert digest == spec_hash(spec())[:8]
    odd = run_id(spec() | {"preset": "my preset/2"})
    assert "-my-preset-2-" in odd


MORE: dict[str, Callable[[dict[str, Any]], object]] = {
    "seed": lambda spec: spec.update(seed=2),
    "variant": lambda spec: spec.update(variant="paper"),
    "weights": lambda spec: spec.update(weights={"sha256": "c"}),
    "fingerprint": lambda spec: spec["dataset"].update(fingerprint="c"),
}


@pytest.mark.parametrize("change", (CHANGES | MORE).values(), ids=CHANGES | MORE)
def test_run_id_changes_with_any_setting(change: Callable[[dict[str, Any]], object]) -> None:
    """With the data and the weights too: another copy of a data set is another run."""
    other = deepcopy(spec())
    change(other)
    assert run_id(other) != run_id(spec())


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_rows_of_one_method_in_two_variants_are_rows_of_their_own(
    tmp_path: Path, record_run: RecordRun, preset: str
) -> None:
    column = "ferplus-1000-150"
    record_run(f"remop/letter/released/{column}", 1, 61.0, preset=preset)
    record_run(f"remop/letter/means/{column}", 1, 62.0, preset=preset)
    lines = [line for line in collect(tmp_path).lines if line.table == "letter" and line.metric == "overall"]
    found = {line.row: line.measured_mean for line in lines if line.selection == "last" and line.run_ids}
    assert found == {"released": 61.0, "means": 62.0}


def test_a_table_asked_for_in_another_variant_has_all_its_rows(tmp_path: Path, record_run: RecordRun) -> None:
    """`reproduce leaf/ferplus/leaf --variant paper`: the row has no variant of its own to be mistaken for."""
    record_run("leaf/ferplus/leaf/ferplus-400", 1, 40.0, preset="cpu", variant="paper")
    lines = [line for line in collect(tmp_path).lines if line.table == "ferplus" and line.metric == "overall"]
    assert {(line.row, line.variant) for line in lines if line.run_ids and line.selection == "last"} == {
        ("leaf", "paper")
    }
