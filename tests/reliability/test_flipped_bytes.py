"""One changed byte in a checkpoint, in weights made here, in predictions or in a prepared copy is noticed on reading.

FERBENCH_FLIPS: how many for each file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reliability.lives import amount

from ferbench.bench import files
from ferbench.bench.data.faceset import DataError
from ferbench.bench.data.preparing.cache import load_prepared, write_prepared
from ferbench.bench.data.preparing.checks.intact import check_images
from ferbench.bench.training.networks.backbones import WeightsError, load_weights, make_classifier
from ferbench.bench.training.recording import records


def checkpoint(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "checkpoint.pt"
    state = {name: torch.randn(40, 30) for name in "abc"}
    records.save_checkpoint(path, {"spec": "abc", "code": "x", "method": state, "history": [{"loss": 0.5}], "step": 3})
    return path, lambda: records.load_checkpoint(path, "abc")


def weights(folder: Path) -> tuple[Path, Callable[[], object]]:
    path, model = folder / "weights.pt", make_classifier("resnet_small", 7, size=32, dropout=0.0)
    document = {"state_dict": model.encoder.state_dict()}
    records.write(path, lambda file: torch.save(document, file), sealed=True)
    return path, lambda: load_weights(model, path)


def predictions(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "predictions.npz"
    records.write_predictions(path, {"main": np.ones((40, 7), np.float32)}, labels=np.arange(40) % 7)
    return path, lambda: records.read_arrays(path)


def prepared(name: str) -> Callable[[Path], tuple[Path, Callable[[], object]]]:
    def make(folder: Path) -> tuple[Path, Callable[[], object]]:
        with write_prepared(folder / "x-1", "x", (30, 16, 16, 1)) as draft:
            draft.images[:] = np.random.default_rng(0).integers(0, 256, draft.images.shape)
            draft.index = {"ids": np.arange(30).astype(str), "parts": np.zeros(30, np.int8)}

        return folder / "x-1" / name, lambda: check_images(load_prepared(folder / "x-1", "x"), "x")

    return make


FILES: dict[str, Any] = {
    "checkpoint": checkpoint, "weights": weights, "predictions": predictions,
    **{name: prepared(name) for name in ("images.npy", "index.npz", "meta.json")},
}  # fmt: skip
REFUSED = (records.RunError, WeightsError, DataError)


@pytest.mark.parametrize("name", FILES)
def test_no_changed_byte_is_accepted(tmp_path: Path, name: str) -> None:
    path, read = FILES[name](tmp_path)
    read()
    good, rng, accepted = path.read_bytes(), random.Random(name), []
    flips = amount("FLIPS", 120)
    ends = [*range(40), *range(len(good) - 110, len(good))]  # headers and the digest itself, whatever chance does
    for place in [
        *rng.sample(ends, min(len(ends), flips // 2)),
        *(rng.randrange(len(good)) for _ in range(flips // 2)),
    ]:
        changed = bytearray(good)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            read()
            accepted.append(place)
        except REFUSED as error:
            assert "\n" not in str(error)
    print(f"{name}: {flips} flipped bytes, {len(accepted)} accepted")
    assert not accepted


def test_what_is_sealed_stays_readable_for_others(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    files.write(path, lambda file: torch.save({"a": torch.arange(3)}, file), sealed=True)
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]
    files.write(path, lambda file: np.savez(file, a=np.arange(3)), sealed=True)
    with np.load(path) as stored:
        assert stored["a"].tolist() == [0, 1, 2]
    with path.open("rb") as file:
        assert files.check_seal(file) and file.tell() == 0


def test_a_file_without_a_digest_is_not_taken_for_one_with_a_wrong_one(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3)}, tmp_path / "w.pt")
    with (tmp_path / "w.pt").open("rb") as file:
        assert not files.check_seal(file)
    (tmp_path / "short").write_bytes(b"PK")
    with (tmp_path / "short").open("rb") as file:
        assert not files.check_seal(file)


def test_only_an_archive_can_be_sealed(tmp_path: Path) -> None:
    with pytest.raises(files.FileError, match="cannot write .*: only a zip archive"):
        files.write(tmp_path / "x", lambda file: file.write(b"text" * 20), sealed=True)
    assert not list(tmp_path.iterdir())
