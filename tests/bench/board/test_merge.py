"""`ferbench merge`: what agrees is kept once, what differs twice, what is damaged not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reliability.lives import row, write_protocol

from ferbench.bench.board.leaderboard import collect
from ferbench.bench.board.merge import merge
from ferbench.bench.board.remembered import remember
from ferbench.bench.tables.running.claims import claimed
from ferbench.bench.training.recording import records
from ferbench.protocols import load_protocol
from tests.bench.board.conftest import Command, EvidentRun, edit

Place = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path, evident_run: EvidentRun) -> Place:
    """A results folder of this name with one more run."""

    def write(name: str, **asked: object) -> Path:
        run = evident_run(**{"predictions": True, **asked})
        (tmp_path / name / "runs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / run).rename(tmp_path / name / "runs" / run)
        return tmp_path / name / "runs" / run

    return write


def outcomes(source: Path, target: Path) -> list[tuple[str, str]]:
    return [(one.what, one.why) for one in merge(source, target)]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_runs_of_two_machines_come_together(tmp_path: Path, place: Place, command: Command) -> None:
    one, two = place("a", seed=1), place("b", seed=2)
    for name in ("a", "b"):
        assert command("merge", str(tmp_path / name), "--results", str(tmp_path / "all")) == 0
    for folder in (one, two):
        merged = tmp_path / "all" / "runs" / folder.name
        assert content(merged) == {**content(folder), ".lock": b""} | {".lock": (merged / ".lock").read_bytes()}
    assert [line.n for line in collect(tmp_path / "all").lines if line.run_ids and line.metric == "overall"][:1] == [2]


def test_the_same_run_twice_is_kept_once_and_completed(tmp_path: Path, place: Place) -> None:
    """It was finished on both machines, at other times; here its predictions were not kept."""
    here, there = place("here"), place("there")
    edit(there / "record.json", lambda record: record.update(finished_at="2026-11-20T00:00:00Z", seconds=9.0, host="b"))
    (here / "predictions.npz").unlink()
    before = (here / "record.json").read_bytes()
    said = outcomes(tmp_path / "there", tmp_path / "here")
    assert said == [("equal", "the same in both; predictions.npz was lacking")]
    assert (here / "record.json").read_bytes() == before
    assert (here / "predictions.npz").read_bytes() == (there / "predictions.npz").read_bytes()
    assert outcomes(tmp_path / "there", tmp_path / "here") == [("equal", "the same in both")]


def test_the_same_run_with_other_numbers_is_kept_twice_and_both_are_shown(
    tmp_path: Path, place: Place, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = place("here", right=0.7), place("there", right=0.8)
    edit(there / "record.json", lambda record: record.update(host="elsewhere", finished_at="2026-11-20T00:00:00Z"))
    before = content(here)
    assert command("merge", str(tmp_path / "there"), "--results", str(tmp_path / "here")) == 0
    said = capsys.readouterr().out
    assert f"different:   {here.name}: overall " in said and "on elsewhere at 2026-11-20T00:00:00Z by code c0de" in said
    aside = here.with_name(f"{here.name}.by-c0de")
    assert content(aside) == content(there) and content(here).items() >= before.items()
    board = collect(tmp_path / "here")
    assert {run for line in board.lines for run in line.run_ids} == {aside.name}
    assert [ignored.run_id for ignored in board.ignored] == [here.name]
    again = outcomes(tmp_path / "there", tmp_path / "here")
    assert again == [("equal", f"the same as {aside.name}")]
    assert len(list((tmp_path / "here" / "runs").iterdir())) == 2


def test_predictions_that_differ_where_the_numbers_agree_are_seen(tmp_path: Path, place: Place) -> None:
    here, there = place("here"), place("there")
    stored = records.read_arrays(there / "predictions.npz")
    scores = {"main": stored["scores_main"] * 2}
    records.write_predictions(there / "predictions.npz", scores, labels=stored["labels"], index=stored["index"])
    assert [what for what, _ in outcomes(tmp_path / "there", tmp_path / "here")] == ["different"]
    assert here.with_name(f"{here.name}.by-c0de").is_dir()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def rename(folder: Path) -> None:
    folder.rename(folder.with_name(folder.name.replace("-s1-", "-s7-")))


def raised(record: dict[str, Any]) -> None:
    record["metrics"]["last"]["overall"] = 99.0


def link(folder: Path) -> None:
    (folder / "extra-attack.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: flip(folder / "predictions.npz"), "its digest says that it was changed"),
        (
            lambda folder: edit(folder / "record.json", lambda r: r["metrics"]["last"].update(overall=99.0)),
            "is 99.0000",
        ),
        (lambda folder: (folder / "record.json").write_text("{"), "record.json: cannot be read"),
        (lambda folder: (folder / "metrics.jsonl").unlink(), "metrics.jsonl is gone"),
        (rename, "its settings are those of "),
        (link, "extra-attack.json is no file"),
    ],
    ids=["predictions", "number", "record", "history", "name", "link"],
)
def test_a_damaged_run_stays_out_with_the_reason(
    tmp_path: Path, place: Place, command: Command, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object],
    why: str,
) -> None:  # fmt: skip
    damaged, whole = place("there", seed=1), place("there", seed=2)
    spoil(damaged)
    assert command("merge", str(tmp_path / "there"), "--results", str(tmp_path / "here")) == 1
    said = capsys.readouterr().out
    assert (
        "refused: " in said
        and why in said
        and "1 refused, 1 new" in said.replace("1 new, 1 refused", "1 refused, 1 new")
    )
    assert [path.name for path in (tmp_path / "here" / "runs").iterdir()] == [whole.name]


def test_a_damaged_checkpoint_is_seen_before_anything_is_taken(tmp_path: Path, place: Place) -> None:
    folder = place("there")
    records.save_checkpoint(folder / "checkpoint.pt", {"step": 30, "spec": "s"})
    flip(folder / "checkpoint.pt")
    ((what, why),) = outcomes(tmp_path / "there", tmp_path / "here")
    assert what == "refused" and "checkpoint.pt: its digest says" in why and "delete it to merge the rest" in why
    assert not (tmp_path / "here").exists()
    (folder / "checkpoint.pt").unlink()
    assert [what for what, _ in outcomes(tmp_path / "there", tmp_path / "here")] == ["new"]


def begin(folder: Path, step: int) -> None:
    """The run as it was saved after this step."""
    (folder / "record.json").unlink()
    spec = records.spec_hash(records.read_json(folder / "spec.json"))
    records.save_checkpoint(folder / "checkpoint.pt", {"step": step, "spec": spec})


def test_a_run_that_was_begun_goes_on_where_it_was_taken_furthest(tmp_path: Path, place: Place) -> None:
    there = place("there")
    begin(there, 20)
    assert outcomes(tmp_path / "there", tmp_path / "here") == [("to continue", "saved after step 20")]
    here = tmp_path / "here" / "runs" / there.name
    assert (here / "checkpoint.pt").read_bytes() == (there / "checkpoint.pt").read_bytes()
    assert [what for what, _ in outcomes(tmp_path / "there", tmp_path / "here")] == ["left"]
    shutil.copytree(tmp_path / "there", tmp_path / "further")
    spec = records.spec_hash(records.read_json(there / "spec.json"))
    records.save_checkpoint(tmp_path / "further" / "runs" / there.name / "checkpoint.pt", {"step": 25, "spec": spec})
    assert outcomes(tmp_path / "further", tmp_path / "here") == [("to continue", "saved after step 25")]
    assert outcomes(tmp_path / "there", tmp_path / "here") == [
        ("left", "saved after step 20 there, and after step 25 here")
    ]


def test_a_finished_run_takes_the_place_of_one_that_was_begun(tmp_path: Path, place: Place) -> None:
    """And nothing of the begun one is left beside its record."""
    here, there = place("here"), place("there")
    begin(here, 20)
    assert [what for what, _ in outcomes(tmp_path / "there", tmp_path / "here")] == ["new"]
    assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()} | {".lock"}


def test_a_run_that_somebody_is_at_is_left(tmp_path: Path, place: Place) -> None:
    folder = place("there")
    with claimed(tmp_path / "here" / "runs" / folder.name):
        ((what, why),) = outcomes(tmp_path / "there", tmp_path / "here")
    assert what == "left" and "is at it; merge again later" in why


def test_what_is_no_results_folder_is_said(
    tmp_path: Path, place: Place, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    place("here")
    for source, why in (("nowhere", "no results folder: it has no runs/"), ("here", "cannot be merged into itself")):
        assert command("merge", str(tmp_path / source), "--results", str(tmp_path / "here")) == 2
        assert why in capsys.readouterr().err


def test_protocols_of_ones_own_come_along(tmp_path: Path, place: Place) -> None:
    """One that is there already, and is another one, stays."""
    place("there")
    write_protocol(tmp_path / "own", [row("vanilla")])
    remember(load_protocol(tmp_path / "own"), tmp_path / "there")
    assert outcomes(tmp_path / "there", tmp_path / "here")[1:] == [("protocol", "version 1")]
    assert outcomes(tmp_path / "there", tmp_path / "here")[1:] == []
    kept = tmp_path / "here" / "protocols" / "small" / "protocol.toml"
    kept.write_text(kept.read_text().replace("Small", "Other"), encoding="utf-8")
    ((what, why),) = outcomes(tmp_path / "there", tmp_path / "here")[1:]
    assert what == "protocol" and "differs from the one that lies here, which is kept" in why
