"""Hours by the records of this kind of device, by their pace where there is none of the kind, else by the model."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.tables.planning.hours import gpu_hours
from ferbench.bench.tables.planning.measured import Estimate, Known, duration, in_words, known, on_a_gpu
from ferbench.protocols import load_protocol

CPU, GPU = "AMD EPYC 7B13", "NVIDIA H100 80GB HBM3"
RECIPE = load_protocol("remop").recipe("ferplus", "cpu")


def spec(method: str = "remop", learner: str | None = "fixmatch", **recipe: Any) -> dict[str, Any]:
    options = {"learner": learner} if learner else {}
    settings = asdict(replace(RECIPE, **recipe))
    return {"method": method, "variant": "paper", "options": options, "recipe": settings, "unlabelled": "rest"}


def finish(results: Path, name: str, described: dict[str, Any], seconds: float, **record: Any) -> None:
    folder = results / "runs" / name
    folder.mkdir(parents=True)
    whole = {"status": "finished", "device": CPU, "threads": 1, "seconds": seconds, "steps": 1000, "split": {"test": 0}}
    (folder / "record.json").write_text(json.dumps(whole | record))
    (folder / "spec.json").write_text(json.dumps(described))


def test_a_run_takes_what_such_runs_took(tmp_path: Path) -> None:
    """The median of three; other sizes, learners, variants, devices, threads and unfinished runs do not count."""
    for number, seconds in enumerate((50.0, 70.0, 200.0)):
        finish(tmp_path, f"r{number}", spec(lr=0.1 * (number + 1)), seconds)
    finish(tmp_path, "gpu", spec(), 1.0, device=GPU)
    finish(tmp_path, "threads", spec(), 2.0, threads=2)
    finish(tmp_path, "broken", spec(), 3.0, status="started")
    (tmp_path / "runs" / "gpu" / "notes.txt").touch()
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "record.json").write_text("{")
    there = known(tmp_path, CPU, 1)
    assert there.runs == 3
    assert there.estimate(spec(), replace(RECIPE, epochs=2, steps_per_epoch=500)) == Estimate(70.0 / 3600, "measured")
    for other in (spec("vanilla", None), spec(learner="adacm"), spec(batch_size=99), spec() | {"variant": "released"}):
        found = there.estimate(other, replace(RECIPE, batch_size=other["recipe"]["batch_size"]))
        assert found is not None and found.source == "scaled"


def test_other_runs_are_scaled_by_what_the_model_was_off(tmp_path: Path) -> None:
    """A run that took thirty times the model's hours: so does another one."""
    recipe = replace(RECIPE, epochs=1, steps_per_epoch=1000, input_size=224, backbone="resnet18")
    seconds = 30 * 3600 * gpu_hours(recipe, True, 500)
    finish(tmp_path, "one", spec(**asdict(recipe)), seconds, split={"test": 500})
    there = known(tmp_path, CPU, 1)
    assert there.pace == pytest.approx(30)
    found = there.estimate(spec("adacm", None), recipe, 900)
    assert found == Estimate(pytest.approx(30 * gpu_hours(recipe, True, 900)), "scaled")


def test_without_records_a_gpu_has_the_model_and_a_cpu_nothing(tmp_path: Path) -> None:
    assert known(tmp_path, CPU, 1).estimate(spec(), RECIPE) is None
    assert known(tmp_path, GPU, 1).estimate(spec(), RECIPE) == Estimate(gpu_hours(RECIPE, True), "model")
    supervised = known(tmp_path, GPU, 1).estimate(spec() | {"unlabelled": "none"}, RECIPE)
    assert supervised == Estimate(gpu_hours(RECIPE, False), "model")
    assert known(tmp_path, GPU, 1).estimate(spec(), replace(RECIPE, backbone="nobody's")) is None


def test_a_list_goes_by_the_gpu_with_most_runs(tmp_path: Path) -> None:
    finish(tmp_path, "cpu", spec(), 50.0)
    assert on_a_gpu(tmp_path) is None
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "record.json").write_text("{")
    for number, device in enumerate((GPU, "NVIDIA H200", GPU)):
        finish(tmp_path, f"r{number}", spec(), 4.0, device=device)
    found = on_a_gpu(tmp_path)
    assert found and (found.device, found.runs) == (GPU, 2)
    assert found.pace == pytest.approx(4.0 / 3600 / gpu_hours(replace(RECIPE, epochs=1, steps_per_epoch=1000), True))


def test_in_words() -> None:
    times = [Estimate(1.0, "measured"), Estimate(4.0, "measured"), Estimate(1.0, "scaled"), None]
    assert in_words(times, 2, Known(CPU)) == (
        "about 6.0 h, 3.0 h with 2 processes: 2 by finished runs like them, 1 by what other runs took here, 1 not known"
    )
    assert in_words([Estimate(20.0, "model")], 1, Known(GPU)) == (
        "about 20 h of a GPU: 1 by a model of a GPU, an order of magnitude"
    )
    assert (
        in_words([None], 1, Known(CPU)) == f"how long that takes is not known: there is no finished run on this {CPU}"
    )


@pytest.mark.parametrize(
    ("hours", "text"), [(1234.5, "1,234 h"), (1.25, "1.2 h"), (0.5, "30 min"), (0.05, "3 min"), (0.01, "36 s")]
)
def test_durations(hours: float, text: str) -> None:
    assert duration(hours) == text
