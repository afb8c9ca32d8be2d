"""Every test of this room has a cache of its own session and the machine's own number of threads."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, drawn_faces: Path) -> None:
    monkeypatch.setenv("FERBENCH_CACHE", str(drawn_faces))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
