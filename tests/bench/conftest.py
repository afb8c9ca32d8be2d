"""Finished runs on disk, as the leaderboard finds them, without training anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferbench.bench.data.sets.fake import make_fake
from ferbench.bench.data.sets.fakes import FAKES
from ferbench.bench.tables.settings import settings
from ferbench.methods import Variant
from ferbench.protocols import select

RecordRun = Callable[..., str]
FakeCopy = Callable[..., Path]


@pytest.fixture
def record_run(tmp_path: Path) -> RecordRun:
    """Writes a run of one cell under tmp_path and returns its folder's name; `changes` replace keys of its spec."""

    def write(
        target: str,
        seed: int,
        overall: float,
        *,
        preset: str = "paper",
        variant: Variant | None = None,
        name: str = "",
        status: str = "finished",
        **changes: Any,
    ) -> str:
        (cell,) = select(target)
        protocol = cell.protocol
        made_for = {"protocol": protocol.name, "version": protocol.version, "hash": protocol.hash, "cell": cell.id}
        spec = {**settings(cell, preset, seed, variant), "made_for": made_for, "weights": {"sha256": f"{seed:064x}"}}
        for part in ("dataset", "test", "split"):
            spec[part] = {**spec[part], "fingerprint": f"{part} {seed}"}
        last = {"epoch": 9, "overall": overall, "mean": overall - 10}
        best = {"epoch": 7, "overall": overall + 1}
        record = {"status": status, "metrics": {"last": last, "best-on-test": best}}
        name = name or f"{target.replace('/', '-')}-{preset}-s{seed}"
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps({**spec, **changes}), encoding="utf-8")
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")
        return name

    return write


@pytest.fixture
def fake_copy(tmp_path: Path) -> FakeCopy:
    """Generates a tiny copy of a data set under tmp_path: fake_copy("rafdb", "kaggle", images=3)."""

    def make(dataset: str, layout: str = "", images: int = 3) -> Path:
        out = tmp_path / f"{dataset}-{layout or 'first'}"
        make_fake(FAKES, dataset, out, images, layout)
        return out

    return make
