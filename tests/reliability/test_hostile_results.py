"""A results folder that somebody sent: whatever lies in it, no command ends in a traceback, none writes an escape code
to the terminal, the good run beside it counts, and the odd one is named with the reason."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reliability.stored_runs import put, spec_and_record

from ferbench.bench import files
from ferbench.bench.training.recording.records import run_id
from ferbench.bench.training.train import train

Command = Callable[..., Any]
SPEC, RECORD = spec_and_record()
GOOD = run_id({**SPEC, "seed": 2})
Pair = tuple[object, object]


def metric(value: object) -> Pair:
    return SPEC, {**RECORD, "metrics": {"last": {**RECORD["metrics"]["last"], "overall": value}}}


def spec(**changes: object) -> Pair:
    return {**SPEC, **changes}, RECORD


def record(**changes: object) -> Pair:
    return SPEC, {**RECORD, **changes}


DEEP = b"[" * 100_000 + b"]" * 100_000
AFTER = '{"recipe":{},"split":{"parameters":{}},"dataset":1,"test":1,"unlabelled":1,"after": '
PAIRS: dict[str, Pair] = {
    "metric NaN": metric(float("nan")),
    "metric infinite": metric(float("inf")),
    "metric of 400 digits": metric(10**400),
    "metric a text": metric("high"),
    "metric true": metric(True),
    "metric 1e300": metric(1e300),
    "metric null": metric(None),
    "seed a list": spec(seed=[1]),
    "seed a text": spec(seed="2"),
    "seed null": spec(seed=None),
    "seed a float": spec(seed=1.5),
    "seed true": spec(seed=True),
    "seed of 5000 digits": (json.dumps(SPEC).replace('"seed": 1', '"seed": ' + "9" * 5000).encode(), RECORD),
    "record deep": (SPEC, DEEP),
    "spec deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, RECORD),
    "record a list": (SPEC, []),
    "record empty": (SPEC, b""),
    "spec empty": (b"", RECORD),
    "spec a number": (b"5", RECORD),
    "record latin-1": (SPEC, b'{"status": "finished", "a": "\xe9"}'),
    "record a zip": (SPEC, b"PK\x03\x04"),
    "metrics null": record(metrics=None),
    "metrics a list": record(metrics=[1]),
    "no last": record(metrics={"best": {}}),
    "newer format": record(format=99),
    "format a text": record(format="new"),
    "date a text": record(finished_at="soon"),
    "date a number": record(finished_at=5),
    "code a list": record(code=[1]),
    "code long": record(code="x" * 10_000),
    **{
        f"made_for {name}": spec(made_for=value)
        for name, value in {
            "brackets": {"protocol": "[/x]", "version": 1, "cell": "a"},
            "escape": {"protocol": "\x1b]0;owned\x07\x1b[2J", "version": 1, "cell": "a"},
            "newline": {"protocol": "a\nferbench: all fine", "version": 1, "cell": "a"},
            "list": {"protocol": [1], "version": 1, "cell": "a"},
            "text": "demo",
            "no cell": {"protocol": "demo", "version": 1},
            "version text": {"protocol": "demo", "version": "[/b]", "cell": "a"},
        }.items()
    },
    **{
        f"{key} {value!r}": spec(**{key: value})
        for key in (
            "split",
            "recipe",
            "dataset",
            "test",
            "options",
            "after",
            "candidates",
            "weights",
            "unlabelled",
            "method",
        )
        for value in (None, [], 5, {"a": 1})
    },
    "recipe of lists": spec(recipe={"lr": [1]}),
    "no method": ({k: v for k, v in SPEC.items() if k != "method"}, RECORD),
    "after nested": ((json.dumps(SPEC)[:-1] + ', "after": ' + AFTER * 900 + "{}" + "}" * 901).encode(), RECORD),
}
NAMES = {
    "brackets": "[/x]",
    "bold": "[bold red]run[blink]",
    "escape": "run\x1b[31m\x1b]0;owned\x07",
    "formula": "=HYPERLINK(1)",
    "newline": "run\nferbench: all fine",
    "not UTF-8": os.fsdecode(b"run\xff"),
    "turned": "run\u202egnp.exe",
    "space": " ",
}


def odd_files(folder: Path) -> None:
    """Names that are there and no files: a folder, a link to nowhere, a pipe, a device; extras that are none."""
    runs = folder / "runs"
    for name in ("a folder", "a link", "a pipe", "zeros"):
        put(runs / name, SPEC, RECORD)
        (runs / name / "record.json").unlink()
    (runs / "a folder" / "record.json").mkdir()
    (runs / "a link" / "record.json").symlink_to("nowhere")
    os.mkfifo(runs / "a pipe" / "record.json")
    (runs / "zeros" / "record.json").symlink_to("/dev/zero")
    extras = {"deep": DEEP, "digits": b'{"metrics": {"overall": 1' + b"0" * 400 + b"}}", "list": b"[]", "text": b"\xff"}
    for number, (name, content) in enumerate(extras.items()):
        (put(runs / f"extra {name}", {**SPEC, "seed": 50 + number}, RECORD) / "extra-attack.json").write_bytes(content)


def check(done: Any, *words: str) -> None:
    said = done.out + done.err
    assert done.code in (0, 2), said[-2000:]
    assert "Traceback" not in said and "\x1b" not in said and "\x07" not in said and "\u202e" not in said
    assert "\nferbench: all fine" not in said and len(done.err.splitlines()) <= 1, done.err
    assert all(word in said for word in words), said[-2000:]


def test_a_hundred_odd_runs_beside_a_good_one(ferbench: Command, tmp_path: Path) -> None:
    """All in one folder: each is named, and the good one counts."""
    results = tmp_path / "r"
    put(results / "runs" / GOOD, {**SPEC, "seed": 2}, RECORD)
    for number, (name, pair) in enumerate(PAIRS.items()):
        put(results / "runs" / f"odd {number} {name}".replace("/", " "), *pair)
    for number, name in enumerate(NAMES.values()):
        put(results / "runs" / name.replace("/", "\u2215"), {**SPEC, "seed": 10 + number}, RECORD)
    odd_files(results)
    done = ferbench("leaderboard", "--paper", "demo", "--results", results)
    check(done, "50.00", "not counted")
    assert done.code == 0
    text = (results / "leaderboard.csv").read_text(encoding="utf-8")
    assert GOOD in text and "HYPERLINK" not in text
    print(f"{len(PAIRS) + len(NAMES) + 8} odd runs, 0 commands taken down")


def test_every_command_that_reads_results(ferbench: Command, tmp_path: Path) -> None:
    """The same hundred, read by all the others; nothing of them is brought into another folder but whole runs."""
    results = tmp_path / "r"
    good = put(results / "runs" / GOOD, {**SPEC, "seed": 2}, RECORD)
    numbers = {"overall": 50.0, "mean": 40.0, "f1": 30.0}
    (good / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 6, "test": {"ema": {"main": numbers}}}) + "\n")
    for number, pair in enumerate(PAIRS.values()):
        put(results / "runs" / f"odd {number}", *pair)
    odd_files(results)
    read = ("--results", results)
    for asked in (
        ("runs", *read),
        ("report", *read, "--out", tmp_path / "report.html"),
        ("status", "demo", "--preset", "paper", *read),
        ("reproduce", "demo", "--dry-run", *read),
        ("compare", "demo/1/vanilla", "demo/1/fixmatch", *read),
        ("claims", *read),
        ("log", "demo", *read, "--out", tmp_path / "log"),
        ("list", "protocols"),
    ):
        done = ferbench(*asked)
        assert "Usage" not in done.err, done.err
        check(done)
    for asked in (("verify", results, "--no-data"), ("merge", results, "--results", tmp_path / "into")):
        done = ferbench(*asked)
        said = done.out + done.err
        assert done.code == 1 and "Traceback" not in said and "\x1b" not in said and "\u202e" not in said, said[-2000:]
    assert [path.name for path in (tmp_path / "into" / "runs").iterdir()] == [GOOD]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PAIRS, *NAMES])
def test_each_alone(ferbench: Command, tmp_path: Path, name: str) -> None:
    results = tmp_path / "r"
    put(results / "runs" / GOOD, {**SPEC, "seed": 2}, RECORD)
    if name in PAIRS:
        put(results / "runs" / "odd", *PAIRS[name])
    else:
        put(results / "runs" / NAMES[name].replace("/", "\u2215"), {**SPEC, "seed": 10}, RECORD)
    done = ferbench("leaderboard", "--paper", "demo", "--results", results)
    check(done, "50.00")
    assert done.code == 0


# ---- one finished run whose other files are not what they should be


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch OWNED",))


@pytest.fixture(scope="module")
def finished(make_tiny_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(make_tiny_run("vanilla", epochs=1, steps_per_epoch=2), folder)
    return folder


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def bomb() -> bytes:
    """An archive of 64 kilobytes that unpacks to 64 megabytes, and says that it holds fewer."""
    file = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 7)})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("scores_main.npy", "w", force_zip64=True) as entry:
            entry.write(header.getvalue())
            for _ in range(64):
                entry.write(bytes(2**20))
    return file.getvalue()


def predictions(good: dict[str, Any]) -> dict[str, bytes]:
    scores = next(name for name in good if name.startswith("scores"))
    changes: dict[str, dict[str, Any]] = {
        "few labels": {"labels": good["labels"][:5]}, "large labels": {"labels": good["labels"] + 100},
        "labels of floats": {"labels": good["labels"].astype(float)}, "labels below 0": {"labels": -1 - good["labels"]},
        "few classes": {scores: good[scores][:, :2]}, "scores of text": {scores: good[scores].astype("U5")},
        "one score": {scores: np.float32(1)}, "scores NaN": {scores: good[scores] * np.nan},
        "no images": {scores: good[scores][:0]}, "few features": {"features": good["features"][:3]},
        "index of text": {"index": good["index"].astype("U9")}, "index far off": {"index": good["index"] + 10**12},
        "classes with codes": {"classes": np.array(["=cmd|x", "\x1b[31mred", "[/x]"])},
        "classes of pickles": {"classes": np.array([Evil()] * 3, object)},
    }  # fmt: skip
    return {name: npz(**{**good, **change}) for name, change in changes.items()} | {
        "empty": b"", "half": npz(**good)[:400], "a bomb": bomb(), "text": b"scores", "zeros": bytes(4096),
    }  # fmt: skip


def test_predictions_that_are_none(ferbench: Command, tmp_path: Path, finished: Path) -> None:
    path, image = finished / "predictions.npz", tmp_path / "face.png"
    from PIL import Image

    Image.new("RGB", (20, 20)).save(image)
    kept, good = path.read_bytes(), files.read_arrays(path)
    try:
        for name, content in predictions(good).items():
            path.write_bytes(content)
            for asked in (
                ("plot", "confusion", finished),
                ("predict", finished, image),
                ("export", finished, "--out", "w.pt"),
            ):
                done = ferbench(*asked)
                check(done)
                assert done.code == 2 or name == "classes with codes" or name == "index far off", (
                    name,
                    asked,
                    done.out,
                )
    finally:
        path.write_bytes(kept)
    assert not (tmp_path / "OWNED").exists()


def test_checkpoints_and_weights_that_are_none(ferbench: Command, tmp_path: Path, finished: Path) -> None:
    path = finished / "checkpoint.pt"
    kept = path.read_bytes()
    state = torch.load(path, weights_only=True)
    contents: dict[str, Any] = {
        "a pickled command": {"format": 1, "spec": Evil()}, "a list": [1, 2], "another run": {**state, "spec": "x"},
        "no digest": state, "no method": {"format": 1, "spec": state["spec"]},
        "a method of numbers": {**state, "format": 1, "method": {"a": 3}, "average": {"a": 3}},
        "weights NaN": {**state, "format": 1, "method": {k: v * float("nan") for k, v in state["method"].items()},
                        "average": {k: v * float("nan") for k, v in state["average"].items()}},
    }  # fmt: skip
    try:
        for name, content in contents.items():
            torch.save(content, path)
            done = ferbench("export", finished, "--out", "w.pt")
            check(done)
            assert done.code == 2, name
            weights = tmp_path / "weights.pt"
            torch.save({"state_dict": content}, weights)
            asked = ("--recipe", "weights=x", "--weights", f"x={weights}", "--recipe", "epochs=1")
            done = ferbench("train", "vanilla", "--data-option", "scale=0.01", "--data-option", "size=16", *asked)
            check(done)
            assert done.code == 2, name
        path.write_bytes(pickle.dumps(Evil()))
        check(ferbench("export", finished, "--out", "w.pt"))
    finally:
        path.write_bytes(kept)
    assert not (tmp_path / "OWNED").exists()


def test_pipes_and_devices_end_in_one_line(ferbench: Command, tmp_path: Path, finished: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.pt")
    for asked in (
        ("predict", finished, tmp_path / "pipe.png"),
        ("train", "vanilla", "--recipe", "weights=x", "--weights", f"x={tmp_path / 'pipe.pt'}"),
        ("train", "vanilla", "--recipe", "weights=x", "--weights", "x=/dev/zero"),
        ("train", "vanilla", "--split", tmp_path / "pipe.pt"),
    ):
        done = ferbench(*asked)
        check(done)
        assert done.code == 2, asked
