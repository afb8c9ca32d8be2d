"""`ferbench verify`: what was changed by hand, copied or left out is named; what nobody can check is said to be so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferbench.bench.board.verify import verify, verify_run
from ferbench.bench.data.faceset import DataError
from ferbench.bench.tables.runs import Workspace, resolve_cell
from ferbench.bench.training.recording import records
from ferbench.bench.training.train import train
from ferbench.protocols import select
from tests.bench.board.conftest import DEMO, LABELS, Command, EvidentRun, edit


def only(results: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    (found,) = verify(results)
    return found.wrong, found.unknown


@pytest.mark.parametrize("rules", [("main",), ("mixture", "linear")])
@pytest.mark.parametrize("predictions", [False, True])
def test_a_run_as_it_was_written_agrees(
    tmp_path: Path, evident_run: EvidentRun, rules: tuple[str, ...], predictions: bool
) -> None:
    evident_run(rules=rules, predictions=predictions)
    assert only(tmp_path) == ((), ())


def _overall(record: dict[str, Any]) -> None:
    record["metrics"]["last"]["overall"] = 99.0


def _best(record: dict[str, Any]) -> None:
    record["metrics"]["best-on-test"]["overall"] = 99.0


def _one_more(record: dict[str, Any]) -> None:
    record["metrics"]["last"]["other"] = 99.0


def _counts(record: dict[str, Any]) -> None:
    record["evidence"]["rules"]["main"]["confusion"][0][0] += 1


def _fewer(record: dict[str, Any]) -> None:
    record["split"]["test"] = 50


def _settings(record: dict[str, Any]) -> None:
    record["spec"] = "0" * 64


def _garbled(record: dict[str, Any]) -> None:
    record["metrics"] = [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_overall, "last overall is 99.0000 in the record"),
        (_best, "best-on-test overall is 99.0000"),
        (_one_more, "last other is 99.0000 in the record and missing"),
        (_counts, "do not agree"),
        (_fewer, "its evidence is of 100 images, its split tests 50"),
        (_settings, "written for other settings"),
        (_garbled, "lacks or garbles"),
    ],
)
def test_a_record_changed_by_hand_is_named(
    tmp_path: Path, evident_run: EvidentRun, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    name = evident_run()
    edit(tmp_path / "runs" / name / "record.json", change)
    wrong, _ = only(tmp_path)
    assert any(message in line for line in wrong), wrong


def test_a_history_that_goes_with_the_change_is_caught_by_the_counts(tmp_path: Path, evident_run: EvidentRun) -> None:
    folder = tmp_path / "runs" / evident_run()
    edit(folder / "record.json", _overall)
    lines = records.read_lines(folder / "metrics.jsonl")
    for line in lines:
        line["test"]["student"]["main"]["overall"] = 99.0
    records.write_lines(folder / "metrics.jsonl", lines)
    wrong, _ = only(tmp_path)
    assert [line for line in wrong if "by its confusion counts" in line]


def test_other_settings_than_the_folders_name(tmp_path: Path, evident_run: EvidentRun) -> None:
    folder = tmp_path / "runs" / evident_run()
    edit(folder / "spec.json", lambda spec: spec["options"].update(threshold=0.5))
    assert any("its settings are those of" in line for line in only(tmp_path)[0])


def test_a_copied_folder_is_named_and_so_is_a_record_put_into_another_run(
    tmp_path: Path, evident_run: EvidentRun
) -> None:
    first, second = evident_run(seed=1), evident_run(seed=2, right=0.9)
    shutil.copytree(tmp_path / "runs" / first, tmp_path / "runs" / "copy")
    found = {one.name: one.wrong for one in verify(tmp_path)}
    assert found[first] == found[second] == ()
    assert found["copy"] == (f"its settings are those of {first}",)


def test_predictions_that_say_otherwise(tmp_path: Path, evident_run: EvidentRun) -> None:
    folder = tmp_path / "runs" / evident_run(predictions=True)
    records.write_predictions(folder / "predictions.npz", {"main": np.eye(3, dtype=np.float32)[LABELS]}, labels=LABELS)
    assert any("is not that of predictions.npz" in line for line in only(tmp_path)[0])


def test_a_record_of_old_is_not_verifiable_and_its_contradictions_are_still_named(
    tmp_path: Path, evident_run: EvidentRun
) -> None:
    folder = tmp_path / "runs" / evident_run(predictions=True)
    edit(folder / "record.json", lambda record: record.pop("evidence"))
    assert only(tmp_path) == ((), ("not verifiable: its record keeps no answers",))
    edit(folder / "record.json", _overall)
    wrong, _ = only(tmp_path)
    assert any("by predictions.npz" in line for line in wrong) and any("by metrics.jsonl" in line for line in wrong)


def test_command_exits_with_1_and_counts(
    tmp_path: Path, evident_run: EvidentRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = evident_run(seed=1), evident_run(seed=2)
    assert command("verify", str(tmp_path), "--no-data") == 0
    assert "2 finished runs: 2 agree in all that was worked out again, 0 do not" in capsys.readouterr().out
    edit(tmp_path / "runs" / bad / "record.json", _overall)
    assert command("verify", str(tmp_path), "--no-data") == 1
    printed = capsys.readouterr().out
    assert f"WRONG {bad}: last overall is 99.0000" in printed and good not in printed
    assert command("verify", str(tmp_path / "nothing")) == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workspace]:
    """A run of two steps, as training writes it, and its data."""
    from dataclasses import replace

    place = Workspace(tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("cache"))
    (cell,) = select(DEMO.format("vanilla"))
    run = resolve_cell(cell, "cpu", 1, place)
    recipe = replace(run.recipe, epochs=2, steps_per_epoch=1, batch_size=4)
    run = replace(run, recipe=recipe, spec={**run.spec, "recipe": vars(recipe)})
    folder = place.folder(run)
    train(run, folder)
    return folder, place


def test_a_trained_run_keeps_evidence_that_agrees_with_its_data(trained: tuple[Path, Workspace]) -> None:
    folder, place = trained
    record = records.read_json(folder / "record.json")
    assert record["host"] and record["steps"] == 2 and record["step_ms"] > 0
    assert verify_run(folder, place.faces) == verify_run(folder) == verify_run(folder, place.faces)
    assert verify_run(folder, place.faces).wrong == verify_run(folder, place.faces).unknown == ()
    stored = records.read_arrays(folder / "predictions.npz")
    labels, predicted = stored["labels"], stored["scores_main"].argmax(axis=1)
    counts = record["evidence"]["rules"]["main"]["confusion"]
    for true in range(len(counts)):
        for said in range(len(counts)):
            assert counts[true][said] == int(((labels == true) & (predicted == said)).sum())


def test_data_that_are_others_or_away(trained: tuple[Path, Workspace]) -> None:
    folder, place = trained

    def away(reader: str, options: Any) -> Any:
        raise DataError("not here")

    assert verify_run(folder, away).unknown == ("synthetic is not at hand: its fingerprints are taken as they are",)
    other = verify_run(folder, lambda reader, options: place.faces(reader, {**options, "seed": 77}))
    assert [line for line in other.wrong if "is not the one at hand" in line]


def test_a_split_that_the_seed_does_not_draw(trained: tuple[Path, Workspace], tmp_path: Path) -> None:
    folder, place = trained
    spec = records.read_json(folder / "spec.json")
    spec["split"]["fingerprint"] = "another"
    copy = tmp_path / records.run_id(spec)
    shutil.copytree(folder, copy)
    records.write_json(copy / "spec.json", spec)
    assert verify_run(copy, place.faces).wrong == ("its split is not the one that seed 1 draws",)
