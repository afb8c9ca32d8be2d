"""Finished runs that are this one but for the pixels: the same names and labels, aligned or saved otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferbench.bench.training.recording import records
from ferbench.errors import UserError

PARTS = ("dataset", "test", "unlabelled")


def on_other_pixels(spec: Mapping[str, Any], results: Path) -> list[str]:
    """Folders of finished runs whose spec is `spec` in all but the pixels of its data; unreadable ones are passed."""
    wanted, found = _without(spec), []
    for path in sorted(results.glob("runs/*/spec.json")):
        try:
            other = records.read_json(path)
            if _without(other) == wanted and records.spec_hash(other) != records.spec_hash(spec):
                record = records.read_json(path.with_name("record.json"))
                found += [path.parent.name] if record.get("status") == "finished" else []
        except (UserError, AttributeError, TypeError):
            continue
    return found


def _without(spec: Mapping[str, Any]) -> str:
    """Hash of a spec without the pixels."""
    plain = {
        part: {key: value for key, value in spec[part].items() if key != "pixels"}
        for part in PARTS
        if isinstance(spec.get(part), dict)
    }
    return records.spec_hash({**spec, **plain})
