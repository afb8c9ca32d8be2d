"""A finished run's settings and record as ferbench writes them, and folders that hold such or any other pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ferbench.bench.tables.settings import settings
from ferbench.protocols import select


def spec_and_record() -> tuple[dict[str, Any], dict[str, Any]]:
    cell = select("demo/1/vanilla")[0]
    protocol = cell.protocol
    made_for = {"protocol": "demo", "version": protocol.version, "hash": protocol.hash, "cell": cell.id}
    spec = settings(cell, "cpu", 1) | {"made_for": made_for, "weights": None}
    last = {"epoch": 1, "overall": 50.0, "mean": 40.0, "f1": 30.0}
    record = {
        "format": 1, "status": "finished", "finished_at": "2026-11-29T10:00:00Z", "code": "0123456789abcdef",
        "metrics": {"last": last, "best-on-test": dict(last)}, "evaluated": "ema", "seconds": 1.0, "steps": 6,
    }  # fmt: skip
    return spec, record


def put(folder: Path, spec: object, record: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in (("spec.json", spec), ("record.json", record)):
        (folder / name).write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return folder
