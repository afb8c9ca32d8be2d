"""Files of ferbench's own that were damaged or made by somebody else: a value, or one line that names the file.

FERBENCH_FUZZ: inputs for each reader. Whole documents are also changed value by value, which goes deeper than bytes.
"""

from __future__ import annotations

import copy
import io
import json
import random
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reliability.fuzzing import check, fuzz
from reliability.lives import amount
from reliability.stored_runs import put, spec_and_record

from ferbench.bench import files
from ferbench.bench.data.preparing.cache import load_prepared, recall, write_prepared
from ferbench.bench.data.sets.synthetic.reader import synthetic
from ferbench.bench.data.splits.draw import make_split
from ferbench.bench.data.splits.files import read_split, write_split
from ferbench.bench.studies.plot_runs import PlotRun, read_history
from ferbench.bench.tables.counting.counted import Ignored, _cells_by_settings, _serving
from ferbench.bench.tables.counting.extras import read_extras
from ferbench.bench.tables.counting.predictions import read_predictions
from ferbench.bench.tables.counting.stored import read_stored
from ferbench.bench.tables.settings import settings
from ferbench.bench.terminal import shown
from ferbench.bench.training.networks.backbones import load_weights, make_classifier
from ferbench.bench.training.recording import records
from ferbench.protocols import cells, load_protocol, loader
from ferbench.protocols.loader import FOLDER

Make = Callable[[Path], tuple[list[bytes], Callable[[bytes], object]]]


DEMO = {"demo": load_protocol("demo")}
CELLS = _cells_by_settings(DEMO.values(), {("vanilla", "cpu", "synthetic", "long_tailed")})


VERSIONS = {"demo": DEMO["demo"].version}


def board(folder: Path) -> None:
    """What the leaderboard makes of one run: it counts, or is listed in one line."""
    if stored := read_stored(folder):
        found = _serving(stored, folder, DEMO, VERSIONS, CELLS)
        if isinstance(found, Ignored):
            line = shown(f"not counted: {found.run_id}: {found.reason}")
            assert "\n" not in found.reason and "\x1b" not in line, line


def of_spec(work: Path) -> Any:
    spec, record = spec_and_record()

    def read(data: bytes) -> None:
        board(put(work / "odd", data, record))

    return [json.dumps(spec, indent=1).encode()], read


def of_record(work: Path) -> Any:
    spec, record = spec_and_record()

    def read(data: bytes) -> None:
        board(put(work / "odd", spec, data))

    return [json.dumps(record, indent=1).encode()], read


def of_extras(work: Path) -> Any:
    def read(data: bytes) -> None:
        (work / "extra-attack.json").write_bytes(data)
        read_extras(work)

    return [json.dumps({"what": "attack", "metrics": {"overall": 1.5}}).encode()], read


def of_history(work: Path) -> Any:
    put(work, *spec_and_record())
    scored = {"main": {"overall": 1.0, "mean": 1.0}}
    line = {"epoch": 1, "step": 3, "lr": 0.1, "loss": 1.0, "test": {"student": scored, "ema": scored}, "seconds": 1.0}
    lines = [json.dumps({**line, "epoch": epoch}).encode() for epoch in (1, 2)]

    def read(data: bytes) -> None:
        (work / "metrics.jsonl").write_bytes(data)
        for found in read_history(PlotRun(work, "m", "d", "f", "c", 1)):
            assert isinstance(found.get("epoch", 0), int | float) and isinstance(found["test"], dict)

    return [b"\n".join(lines)], read


def of_predictions(work: Path) -> Any:
    scores = np.random.default_rng(0).random((12, 7), np.float32)
    arrays: dict[str, Any] = {
        "scores_main": scores, "labels": np.arange(12) % 7, "index": np.arange(12), "features": scores,
        "classes": np.array(list("abcdefg")),
    }  # fmt: skip
    seeds = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        seeds.append(file.getvalue())
    files.write(work / "sealed.npz", lambda file: np.savez_compressed(file, **arrays), sealed=True)

    def read(data: bytes) -> None:
        (work / "predictions.npz").write_bytes(data)
        found = read_predictions(work / "predictions.npz")
        assert len(found.labels) == len(found.headline) == len(found.index) and len(found.classes) <= 10_000

    return [*seeds, (work / "sealed.npz").read_bytes()], read


def of_checkpoint(work: Path) -> Any:
    path = work / "checkpoint.pt"
    records.save_checkpoint(path, {"spec": "abc", "method": {"a": torch.zeros(3)}, "history": [1, {"a": 2.0}]})
    plain = [io.BytesIO(), io.BytesIO(), io.BytesIO()]
    torch.save([1, 2], plain[0])
    torch.save({"format": 1, "spec": "abc"}, plain[1], _use_new_zipfile_serialization=False)
    torch.save({"format": 1, "spec": "abc", "method": 3}, plain[2])
    seeds = [path.read_bytes(), *(file.getvalue() for file in plain)]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        records.load_checkpoint(path, "abc")

    return seeds, read


def of_weights(work: Path) -> Any:
    model = make_classifier("resnet_small", 7, size=32, dropout=0.0)
    documents: tuple[Any, ...] = (
        {"state_dict": {"a": torch.zeros(2)}},
        {"model": {"b": torch.zeros(2), "pos_embed": torch.zeros(1, 5, 3)}},
        {1: torch.zeros(1), "state_dict": {2: torch.zeros(1)}},
    )
    seeds = []
    for document in documents:
        file = io.BytesIO()
        torch.save(document, file)
        seeds.append(file.getvalue())

    def read(data: bytes) -> None:
        (work / "w.pt").write_bytes(data)
        load_weights(model, work / "w.pt")

    return seeds, read


def of_cache(name: str) -> Make:
    def make(work: Path) -> Any:
        folder = work / "x-1"
        with write_prepared(folder, "x", (4, 8, 8, 1)) as draft:
            draft.images[:] = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
            draft.index = {"ids": np.array(list("abcd")), "parts": np.zeros(4, np.int8), "labels": np.zeros(4)}
        good = (folder / name).read_bytes()

        def read(data: bytes) -> None:
            (folder / name).write_bytes(data)
            load_prepared(folder, "x")

        return [good], read

    return make


def of_note(work: Path) -> Any:
    def read(data: bytes) -> None:
        (work / "x.json").write_bytes(data)
        recall("x", work)

    return [b'{"folder": "x-123"}'], read


def of_split(work: Path) -> Any:
    faces = synthetic(scale=0.004, size=16)
    write_split(make_split(faces, "balanced", {"per_class": 1, "noise": 0.3}, 1), faces, work / "s.json")
    seed = (work / "s.json").read_bytes()

    def read(data: bytes) -> None:
        (work / "m.json").write_bytes(data)
        read_split(work / "m.json", faces)

    return [seed], read


READERS: dict[str, Make] = {
    "spec.json": of_spec, "record.json": of_record, "extra": of_extras, "metrics.jsonl": of_history,
    "predictions.npz": of_predictions, "checkpoint.pt": of_checkpoint, "weights": of_weights, "split": of_split,
    "meta.json": of_cache("meta.json"), "index.npz": of_cache("index.npz"), "images.npy": of_cache("images.npy"),
    "note": of_note,
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_bytes(tmp_path: Path, name: str) -> None:
    seeds, read = READERS[name](tmp_path)
    fuzz(name, seeds, read, amount("FUZZ", 60))


# ---- value by value

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 7, 10**9, 10**19, 10**400, 1e308, -1e308, 1e-320, float("nan"), float("inf"), "", "x",
    "x" * 3000, "\x1b[31m", "[/x]", "synthetic", "a/b", "..", [], {}, [1], ["a"], [[]], {"a": 1},
    {"extends": "synthetic"}, "rest", "none", "*", "vanilla", "200-20", "1", [{}], [None],
]  # fmt: skip
KEYS = ("a", "extends", "after", "split", "recipe", "joint", "candidates", "mean_of", "status", "variant", "x.y", "")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*at, key))


def changed(rng: random.Random, document: Any) -> Any:
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2))):
        *path, last = rng.choice([place for place in places(document) if place])
        owner = document
        for key in path:
            owner = owner[key]
        kind = rng.randrange(5)
        if kind == 0:
            del owner[last]
        elif kind == 1 and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[last]))
        elif kind == 1:
            owner[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
        else:
            owner[last] = copy.deepcopy(rng.choice(VALUES))
        if not [place for place in places(document) if place]:
            break
    return document


def bare(value: Any) -> Any:
    """Without null, which TOML does not have."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if item is not None}
    return [bare(item) for item in value if item is not None] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["spec.json", "record.json", "metrics.jsonl", "split", "protocol.toml"])
def test_values(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(11)
    if name == "protocol.toml":
        path = tmp_path / "p" / "protocol.toml"
        path.parent.mkdir()
        path.write_text("")
        document: Any = tomllib.loads((FOLDER / "demo" / "protocol.toml").read_text(encoding="utf-8"))

        def read(changed: Any) -> None:
            fake = types.SimpleNamespace(loads=lambda text: bare(changed), TOMLDecodeError=tomllib.TOMLDecodeError)
            monkeypatch.setattr(loader, "tomllib", fake)
            protocol = load_protocol(path.parent)
            for cell in cells(protocol):
                for preset in protocol.presets if cell.method and not cell.published_only else ():
                    settings(cell, preset, 1)
    else:
        (seed, *_), read_bytes = READERS[name](tmp_path)
        lines = [json.loads(line) for line in seed.splitlines()] if name == "metrics.jsonl" else None
        document = lines or json.loads(seed)

        def read(changed: Any) -> None:
            text = "\n".join(map(json.dumps, changed)) if lines else json.dumps(changed)
            read_bytes(text.encode())

    check(name, (changed(rng, document) for _ in range(amount("FUZZ", 60))), read)
